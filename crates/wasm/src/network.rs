//! Which addresses a guest may reach. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::sockets::SocketAddrUse;

use crate::options::NetworkOptions;

/// Addresses outside of the link-local ranges at which clouds serve a node's credentials:
/// Alibaba's, and Amazon's for IPv6.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a guest may talk to `address`.
pub(crate) fn may_reach(options: &NetworkOptions, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    options.link_local || !(link_local || METADATA.contains(&address))
}

/// Whether a socket of the guest may be used like this. Servers may bind to whatever the
/// container has; what is reached from outside is the cluster's business.
pub(crate) fn may_use(options: &NetworkOptions, address: SocketAddr, what: SocketAddrUse) -> bool {
    match what {
        SocketAddrUse::TcpConnect => options.tcp && may_reach(options, address.ip()),
        SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => options.tcp,
        SocketAddrUse::UdpBind => options.udp,
        _ => options.udp && may_reach(options, address.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn where_clouds_keep_credentials_is_out_of_reach() {
        let mut options = Options::default().network;
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            options.link_local = false;
            assert!(!may_reach(&options, address.parse().unwrap()), "{address}");
            options.link_local = true;
            assert!(may_reach(&options, address.parse().unwrap()), "{address}");
        }
        options.link_local = false;
        for address in ["10.0.0.1", "127.0.0.1", "::1", "fd00::1", "8.8.8.8"] {
            assert!(may_reach(&options, address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn sockets_follow_their_switch() {
        let mut options = Options::default().network;
        let here: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let metadata: SocketAddr = "169.254.169.254:80".parse().unwrap();
        assert!(may_use(&options, here, SocketAddrUse::TcpConnect));
        assert!(!may_use(&options, metadata, SocketAddrUse::TcpConnect));
        assert!(!may_use(&options, metadata, SocketAddrUse::UdpSend));
        options.tcp = false;
        assert!(!may_use(&options, here, SocketAddrUse::TcpConnect));
        assert!(!may_use(&options, here, SocketAddrUse::TcpListen));
        assert!(may_use(&options, here, SocketAddrUse::UdpBind));
        options.udp = false;
        assert!(!may_use(&options, here, SocketAddrUse::UdpBind));
    }
}
