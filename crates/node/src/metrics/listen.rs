//! Serves the metrics over HTTP, for whoever scrapes this node.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::exposition::MEDIA_TYPE;
use super::scrape;

/// How long a client may take for the head of its request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// After a connection could not be accepted: descriptors take some time to come back.
const PAUSE: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address of this machine.
    Tcp(SocketAddr),
    /// A socket that root alone may connect to.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("the path of a socket is absolute, as in unix:/run/lighter.sock".into()),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "it is an IP address with a port, as 127.0.0.1:9464 or [::]:9464, or unix:PATH"
                    .to_owned()
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Serves until this process is ended.
pub fn serve(address: &Address) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let failed = |error: std::io::Error| format!("cannot listen at {address}: {error}");
    runtime.block_on(async {
        match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                say(&Address::Tcp(listener.local_addr().map_err(failed)?));
                loop {
                    accepted(listener.accept().await).await;
                }
            }
            Address::Unix(path) => {
                let listener = bind(path).map_err(failed)?;
                say(address);
                loop {
                    accepted(listener.accept().await).await;
                }
            }
        }
    })
}

fn say(address: &Address) {
    println!("serves metrics at {address}, path /metrics");
}

/// A socket at `path`, also where a process that has ended left one.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accepted<S, A>(accepted: std::io::Result<(S, A)>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match accepted {
        Ok((stream, _)) => {
            tokio::spawn(async {
                let service = service_fn(async |request| Ok::<_, Infallible>(answer(&request)));
                // A client that goes is its own affair.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
        Err(error) => {
            eprintln!("lighter: cannot accept a connection: {error}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match scrape() {
            Ok(text) => (StatusCode::OK, MEDIA_TYPE, text),
            Err(error) => {
                eprintln!("lighter: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error)
            }
        },
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn plain(status: StatusCode, text: &str) -> (StatusCode, &'static str, String) {
    (status, "text/plain", text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_which_socket() {
        let parsed = |text: &str| text.parse::<Address>().map(|address| address.to_string());
        for text in ["127.0.0.1:9464", "[::]:0", "unix:/run/lighter.sock"] {
            assert_eq!(parsed(text).as_deref(), Ok(text));
        }
        for text in ["", "9464", "localhost", "unix:", "unix:relative", "/run/x"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
