//! Which addresses a guest may reach. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::sockets::SocketAddrUse;

use crate::options::NetworkOptions;

/// Addresses at which clouds serve a node's credentials, or what leads to them.
const METADATA: [IpAddr; 13] = [
    // Amazon, Azure, Google and others; Amazon's for containers and pods.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    // Azure's host agent, which is a resolver besides: the process's own look-ups are no guest's.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba, and Oracle's first cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Amazon, and its pods.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    // Google.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Oracle.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    // Scaleway.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    // Linode.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1)),
    // OpenStack; it is link-local, as those of the first line are.
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

/// Whether a guest may talk to `address`.
pub(crate) fn may_reach(options: &NetworkOptions, address: IpAddr) -> bool {
    options.link_local || !is_denied(address)
}

fn is_denied(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local()
                || embedded(address).any(|address| is_denied(address.into()))
                || METADATA.contains(&last_bytes(address).into())
        }
    }
}

/// The IPv4 address that an IPv6 address ends with. A network may have a prefix of its own for
/// NAT64, which nobody here knows; so the few addresses of [`METADATA`] count behind any.
fn last_bytes(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

/// The IPv4 addresses that packets to an IPv6 address may end at.
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bytes = address.octets();
    let at = move |positions: [usize; 4]| Ipv4Addr::from(positions.map(|position| bytes[position]));
    // RFC 6052, 2.2: the ninth byte is left out.
    const BEHIND_48: [usize; 4] = [6, 7, 9, 10];
    const BEHIND_56: [usize; 4] = [7, 9, 10, 11];
    const BEHIND_64: [usize; 4] = [9, 10, 11, 12];
    const LAST: [usize; 4] = [12, 13, 14, 15];
    let positions: &[[usize; 4]] = match address.segments() {
        // IPv4-compatible, which are out of use, mapped, and translated (RFC 2765).
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => &[LAST],
        // NAT64, everywhere and in one network (RFC 8215), which may use any length.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => &[LAST],
        [0x64, 0xff9b, 1, ..] => &[BEHIND_48, BEHIND_56, BEHIND_64, LAST],
        // 6to4.
        [0x2002, ..] => &[[2, 3, 4, 5]],
        _ => &[],
    };
    // Teredo hides its client's address from translators by inverting it.
    let teredo = matches!(address.segments(), [0x2001, 0, ..]).then(|| !last_bytes(address));
    positions.iter().copied().map(at).chain(teredo)
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
    use proptest::prelude::*;

    use super::*;
    use crate::options::Options;

    #[test]
    fn where_clouds_keep_credentials_is_out_of_reach() {
        let mut options = Options::default().network;
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::168.63.129.16",
            "64:ff9b::168.63.129.16",
            "64:ff9b::169.254.1.2",
            // RFC 6052, 2.4, with 169.254.169.254 in the place of 192.0.2.33.
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1::a9:fea9:fe00:0",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2001:0:1234::5601:5601",
            "::ffff:0:169.254.169.254",
            "2001:db8:64::169.254.169.254",
        ] {
            options.link_local = false;
            assert!(!may_reach(&options, address.parse().unwrap()), "{address}");
            options.link_local = true;
            assert!(may_reach(&options, address.parse().unwrap()), "{address}");
        }
        options.link_local = false;
        for address in [
            "10.0.0.1",
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd00::1",
            "8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:db8::1",
            "2606:4700::a9fe:1",
        ] {
            assert!(may_reach(&options, address.parse().unwrap()), "{address}");
        }
    }

    /// Forms of an IPv4 address as an IPv6 one, by which it can be reached somewhere.
    fn forms(address: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = address.octets();
        let with = |prefix: [u8; 12]| {
            let mut bytes = [0; 16];
            bytes[..12].copy_from_slice(&prefix);
            bytes[12..].copy_from_slice(&[a, b, c, d]);
            Ipv6Addr::from(bytes)
        };
        let nat64 = [0, 0x64, 0xff, 0x9b];
        let local = |rest: [u8; 10]| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&nat64);
            bytes[5] = 1;
            bytes[6..].copy_from_slice(&rest);
            Ipv6Addr::from(bytes)
        };
        vec![
            address.to_ipv6_compatible(),
            address.to_ipv6_mapped(),
            with([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]),
            with([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
            local([a, b, 0, c, d, 0, 0, 0, 0, 0]),
            local([0, a, 0, b, c, d, 0, 0, 0, 0]),
            local([0, 0, 0, a, b, c, d, 0, 0, 0]),
            local([0, 0, 0, 0, 0, 0, a, b, c, d]),
            Ipv6Addr::from([0x20, 2, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            Ipv6Addr::from([0x20, 1, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, !a, !b, !c, !d]),
        ]
    }

    fn denied() -> impl Strategy<Value = Ipv4Addr> {
        let link_local = any::<[u8; 2]>().prop_map(|[c, d]| Ipv4Addr::new(169, 254, c, d));
        let metadata: Vec<Ipv4Addr> = METADATA
            .into_iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect();
        prop_oneof![link_local, proptest::sample::select(metadata)]
    }

    proptest! {
        /// Sockets, results of look-ups and requests all ask [`may_reach`].
        #[test]
        fn no_form_of_a_denied_address_is_reached(address in denied()) {
            let options = Options::default().network;
            let mut all: Vec<IpAddr> = forms(address).into_iter().map(IpAddr::from).collect();
            all.push(address.into());
            for form in all {
                prop_assert!(!may_reach(&options, form), "{}", form);
                let socket = SocketAddr::new(form, 80);
                prop_assert!(!may_use(&options, socket, SocketAddrUse::TcpConnect), "{}", form);
                prop_assert!(!may_use(&options, socket, SocketAddrUse::UdpSend), "{}", form);
            }
        }

        #[test]
        fn other_addresses_are_reached_in_every_form(bytes: [u8; 4]) {
            let address = Ipv4Addr::from(bytes);
            let options = Options::default().network;
            prop_assume!(!address.is_link_local() && !METADATA.contains(&address.into()));
            // What is one form of this address can be another form of a denied one.
            let ambiguous = |form: &Ipv6Addr| embedded(*form).count() > 1;
            for form in forms(address).into_iter().filter(|form| !ambiguous(form)) {
                prop_assert!(may_reach(&options, form.into()), "{}", form);
            }
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
