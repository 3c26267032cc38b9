//! Serves the metrics over HTTP, for whoever scrapes this node. They name pods and images, so that they
//! leave the node only to who has a token.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;

use super::exposition::MEDIA_TYPE;
use super::places::{Accepted, Places};
use super::scrape;
use super::token::Tokens;

/// How long a client may take for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For all of a connection, which is one request. Prometheus itself gives up after 10 seconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// For the head of a request: Prometheus sends five headers.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// After a connection could not be accepted: descriptors take some time to come back.
const ACCEPT_INTERVAL: Duration = Duration::from_secs(1);

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
            None => tcp(text).map(Self::Tcp).ok_or_else(|| {
                "it is an IP address with a port, as 127.0.0.1:9464 or [::]:9464, or unix:PATH"
                    .to_owned()
            }),
        }
    }
}

/// An address with a port. One of IPv6 may lack its brackets, as where a manifest says `$(POD_IP):9464`.
fn tcp(text: &str) -> Option<SocketAddr> {
    let bare = || {
        let (host, port) = text.rsplit_once(':')?;
        let host: IpAddr = host.parse().ok()?;
        Some((host, port.parse().ok()?).into())
    };
    text.parse().ok().or_else(bare)
}

impl Address {
    /// Whether only this machine reaches it, and of a socket only root.
    fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error(
        "cannot listen at {0} without --token-file: whoever reaches that address would read the names of pods and images; name a file with a token, or listen at 127.0.0.1 or unix:PATH"
    )]
    Open(Address),
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
pub fn serve(address: &Address, token_file: Option<&Path>) -> Result<(), String> {
    match token_file {
        // It is read at each request too, but who starts this is told at once.
        Some(file) => drop(Tokens::read(file).map_err(|error| error.to_string())?),
        None if address.is_local() => {}
        None => return Err(ListenError::Open(address.clone()).to_string()),
    }
    let token_file: Option<Arc<Path>> = token_file.map(Arc::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let failed = |error: std::io::Error| format!("cannot listen at {address}: {error}");
    let mut places = Places::default();
    runtime.block_on(async {
        match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                say(&Address::Tcp(listener.local_addr().map_err(failed)?));
                loop {
                    accepted(listener.accept().await, &mut places, &token_file).await;
                }
            }
            Address::Unix(path) => {
                let listener = bind(path).map_err(failed)?;
                say(address);
                loop {
                    accepted(listener.accept().await, &mut places, &token_file).await;
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
    // From its first moment on it is for root alone.
    let mask = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(mask);
    listener
}

async fn accepted<S, A>(
    accepted: std::io::Result<(S, A)>,
    places: &mut Places,
    token_file: &Option<Arc<Path>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match accepted {
        Ok((stream, _)) => {
            if places.make() {
                let accepted = Accepted::default();
                let connection = connection(stream, accepted.clone(), token_file.clone());
                places.take(accepted, tokio::spawn(connection).abort_handle());
            }
        }
        Err(error) => {
            eprintln!("lighter: cannot accept a connection: {error}");
            tokio::time::sleep(ACCEPT_INTERVAL).await;
        }
    }
}

/// One request and its response.
async fn connection<S>(stream: S, accepted: Accepted, token_file: Option<Arc<Path>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let respond = |request: Request<Incoming>| {
        let response = respond(&request, &accepted, token_file.as_deref());
        async { Ok::<_, Infallible>(response) }
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        // A client that waits for its next scrape would keep a place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(respond));
    // A client that goes, or takes too long, is its own affair.
    let _ = timeout(CONNECTION_TIMEOUT, served).await;
}

fn respond(
    request: &Request<Incoming>,
    accepted: &Accepted,
    token_file: Option<&Path>,
) -> Response<Full<Bytes>> {
    if let Err(refused) = authorize(request, token_file) {
        return *refused;
    }
    accepted.set();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match scrape() {
            Ok(text) => response(StatusCode::OK, MEDIA_TYPE, text),
            Err(error) => failed(&error),
        },
        (_, "/metrics") => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        _ => plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n"),
    }
}

/// Refuses who has no token of the file as it is now: tokens are replaced while this runs. A file that
/// cannot be read lets nobody in.
fn authorize(
    request: &Request<Incoming>,
    token_file: Option<&Path>,
) -> Result<(), Box<Response<Full<Bytes>>>> {
    let Some(file) = token_file else {
        return Ok(());
    };
    let tokens = Tokens::read(file).map_err(|error| {
        eprintln!("lighter: {error}");
        Box::new(plain(StatusCode::INTERNAL_SERVER_ERROR, "no token file\n"))
    })?;
    if tokens.allow(request.headers()) {
        return Ok(());
    }
    let mut refused = plain(StatusCode::UNAUTHORIZED, "a bearer token is needed\n");
    let scheme = HeaderValue::from_static("Bearer realm=\"lighter metrics\"");
    refused.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    Err(Box::new(refused))
}

fn failed(error: &str) -> Response<Full<Bytes>> {
    eprintln!("lighter: {error}");
    response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "text/plain",
        error.to_owned(),
    )
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    response(status, "text/plain", text.to_owned())
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
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
        // As manifests write the address of a pod.
        assert_eq!(parsed("fd00::7:9464").as_deref(), Ok("[fd00::7]:9464"));
    }

    #[test]
    fn without_a_token_only_this_machine_is_served() {
        for (text, is_local) in [
            ("127.0.0.1:9464", true),
            ("127.8.8.8:1", true),
            ("[::1]:9464", true),
            ("[::ffff:127.0.0.1]:9464", true),
            ("unix:/run/lighter.sock", true),
            ("0.0.0.0:9464", false),
            ("[::]:9464", false),
            ("10.0.0.7:9464", false),
            ("[fd00::7]:9464", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.is_local(), is_local, "{text}");
            if !is_local {
                let error = serve(&address, None).unwrap_err();
                assert!(error.contains("--token-file"), "{error}");
            }
        }
    }
}
