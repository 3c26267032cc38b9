//! Where a service listens.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::options::parse_address;

/// Connections that wait for being accepted.
const BACKLOG: i32 = 1024;

/// Port of a service that is not told another one.
const PORT: u16 = 8080;

/// Variables that say where to listen, the first that is set counts: the one that platforms set,
/// and that of runwasi's shim.
const VARIABLES: [&str; 2] = ["PORT", "WASMTIME_HTTP_PROXY_SOCKET_ADDR"];

/// The address by the option, else by the environment, else `[::]:8080`. Pure.
pub(super) fn choose(
    option: Option<SocketAddr>,
    environment: &[(String, String)],
) -> Result<SocketAddr, String> {
    if let Some(address) = option {
        return Ok(address);
    }
    for variable in VARIABLES {
        // The last of a name counts, and an empty one is as good as none.
        let value = environment.iter().rev().find(|(name, _)| name == variable);
        if let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()) {
            return parse_address(value)
                .map_err(|fault| format!("environment variable {variable}={value:?}: {fault}"));
        }
    }
    Ok((Ipv6Addr::UNSPECIFIED, PORT).into())
}

/// Listens there; at `[::]` for IPv4 too, and at `0.0.0.0` where there is no IPv6.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let bound = match bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_ipv6(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        other => other,
    };
    bound
        .and_then(TcpListener::from_std)
        .map_err(|error| explain(address, &error))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    let way_out = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another container of this pod listens there: give this one another port, by the \
             environment variable PORT or by the annotation lighter.dev/http-address.CONTAINER"
        }
        io::ErrorKind::PermissionDenied if port < 1024 => {
            "ports below 1024 need the capability NET_BIND_SERVICE; or choose another one by the \
             environment variable PORT"
        }
        _ => {
            "choose an address by the environment variable PORT or by the annotation \
              lighter.dev/http-address"
        }
    };
    format!("it cannot listen at {address}: {error}; {way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(option: Option<&str>, environment: &[(&str, &str)]) -> Result<String, String> {
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        choose(option.map(|text| text.parse().unwrap()), &environment)
            .map(|address| address.to_string())
    }

    #[test]
    fn the_option_counts_before_the_environment() {
        let peer = ("WASMTIME_HTTP_PROXY_SOCKET_ADDR", "127.0.0.1:3000");
        assert_eq!(chosen(None, &[]).unwrap(), "[::]:8080");
        assert_eq!(chosen(None, &[peer]).unwrap(), "127.0.0.1:3000");
        assert_eq!(chosen(None, &[peer, ("PORT", "81")]).unwrap(), "[::]:81");
        assert_eq!(
            chosen(None, &[("PORT", "1"), ("PORT", "2")]).unwrap(),
            "[::]:2"
        );
        assert_eq!(chosen(None, &[("PORT", "")]).unwrap(), "[::]:8080");
        assert_eq!(
            chosen(Some("[::1]:9"), &[("PORT", "81")]).unwrap(),
            "[::1]:9"
        );
        let error = chosen(None, &[("PORT", "http")]).unwrap_err();
        assert!(error.contains("PORT=\"http\""), "{error}");
    }

    #[tokio::test]
    async fn a_taken_port_names_both_ways_out() {
        let first = listen("[::]:0".parse().unwrap()).unwrap();
        let taken = first.local_addr().unwrap();
        let error = listen(taken).unwrap_err();
        assert!(error.contains(&taken.port().to_string()), "{error}");
        assert!(
            error.contains("PORT") && error.contains("lighter.dev/http-address."),
            "{error}"
        );
        let v4 = std::net::TcpStream::connect(("127.0.0.1", taken.port()));
        assert!(v4.is_ok(), "{v4:?}");
    }
}
