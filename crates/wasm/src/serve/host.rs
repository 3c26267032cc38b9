//! Which host a request is for (RFC 9112, 3.2).

use std::net::SocketAddr;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{Request, Uri, Version};

/// A request that does not say which host it is for, and has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoHost;

/// Checks the host of a request, and says for one that may leave it out, as those of HTTP/1.0 may,
/// that it is for the address `local`, at which it has come: `wasi:http` has no request without.
pub(super) fn settle<B>(request: &mut Request<B>, local: Option<SocketAddr>) -> Result<(), NoHost> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(NoHost),
        (None, None) if request.version() == Version::HTTP_11 => return Err(NoHost),
        (host, None) => host.map_or(b"".as_slice(), |host| host.as_bytes()),
    };
    if host.is_empty() {
        if request.uri().authority().is_none()
            && let Some(local) = local
        {
            name(request.uri_mut(), local);
        }
        return Ok(());
    }
    match Authority::try_from(host) {
        Ok(authority) if !authority.as_str().contains('@') => Ok(()),
        _ => Err(NoHost),
    }
}

/// Makes `local` the authority of `uri`, unless its form has no place for one.
fn name(uri: &mut Uri, local: SocketAddr) {
    let mut parts = uri.clone().into_parts();
    let local = SocketAddr::new(local.ip().to_canonical(), local.port());
    parts.authority = Authority::try_from(local.to_string()).ok();
    parts.scheme = Some(Scheme::HTTP);
    if let Ok(named) = Uri::from_parts(parts) {
        *uri = named;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(version: Version, uri: &str, hosts: &[&str]) -> Result<String, NoHost> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        settle(
            &mut request,
            Some("[::ffff:10.0.0.1]:8080".parse().unwrap()),
        )?;
        Ok(request.uri().to_string())
    }

    #[test]
    fn only_a_request_of_http_1_1_needs_a_host() {
        let local = Ok("http://10.0.0.1:8080/a?b".to_owned());
        for (version, expected) in [
            (Version::HTTP_10, local.clone()),
            (Version::HTTP_11, Err(NoHost)),
            (Version::HTTP_2, local.clone()),
        ] {
            assert_eq!(settled(version, "/a?b", &[]), expected, "{version:?}");
            assert_eq!(settled(version, "/a?b", &[""]), local, "{version:?}");
            let named = settled(version, "/a?b", &["example.com:80"]);
            assert_eq!(named, Ok("/a?b".to_owned()), "{version:?}");
        }
        let absolute = "http://example.com/a";
        assert_eq!(
            settled(Version::HTTP_10, absolute, &[]),
            Ok(absolute.to_owned())
        );
        assert_eq!(
            settled(Version::HTTP_2, absolute, &[]),
            Ok(absolute.to_owned())
        );
        assert_eq!(settled(Version::HTTP_11, absolute, &[]), Err(NoHost));
        assert_eq!(settled(Version::HTTP_10, "*", &[]).map(drop), Ok(()));
    }

    #[test]
    fn a_host_is_one_and_valid() {
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            for hosts in [
                ["a", "b"].as_slice(),
                &["a", "a"],
                &["a b"],
                &["user@a"],
                &["a/b"],
                &["\u{fc}"],
            ] {
                assert_eq!(settled(version, "/", hosts), Err(NoHost), "{hosts:?}");
            }
        }
    }
}
