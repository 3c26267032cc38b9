//! A pool of connections, and the errors of requests in the words of `wasi:http`.

use std::error::Error as StdError;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Sleep, sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::connector::{InTime, LookupError, Resolver};
use super::times::Times;
use super::trust;
use crate::options::NetworkOptions;

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(30);
/// Connections to one host that are kept.
const IDLE_CONNECTIONS: usize = 16;

/// Bytes of a response's head, and of a part of its body that is read ahead.
const BUFFER: usize = 64 << 10;
/// Bytes that are read ahead on one HTTP/2 stream, and on all of a connection: the servers that a guest
/// asks are strangers as its clients are.
const WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Sends requests over connections that it keeps.
pub(super) struct Client(legacy::Client<HttpsConnector<InTime>, WasiBody>);

impl Client {
    /// # Errors
    /// The certificates that it should trust cannot be read.
    pub(super) fn new(options: NetworkOptions, trusted: Option<&Path>) -> Result<Self, String> {
        let mut http = HttpConnector::new_with_resolver(Resolver(options));
        http.enforce_http(false);
        http.set_nodelay(true);
        let tls = rustls::ClientConfig::builder_with_provider(
            rustls::crypto::ring::default_provider().into(),
        )
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(trust::roots(trusted)?)
        .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(InTime(http));
        Ok(Self(
            legacy::Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .http1_max_buf_size(BUFFER)
                .http2_initial_stream_window_size(WINDOW)
                .http2_initial_connection_window_size(CONNECTION_WINDOW)
                .http2_max_header_list_size(BUFFER as u32)
                .http2_max_send_buf_size(BUFFER)
                .build(connector),
        ))
    }

    pub(super) async fn send(
        &self,
        mut request: Request<WasiBody>,
        times: Times,
    ) -> Result<Response<WasiBody>, Error> {
        let mut captured = capture_connection(&mut request);
        let connected = async {
            captured.wait_for_connection_metadata().await;
        };
        let response = InTime::scope(times.connect, self.0.request(request));
        let response = times.head(response, connected).await?.map_err(translate)?;
        Ok(response.map(|body| TimedBody::new(body, times.between_bytes).boxed_unsync()))
    }
}

/// The error of `wasi:http` that says what a guest can know of this one.
fn translate(error: legacy::Error) -> Error {
    let is_connect = error.is_connect();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(lookup) = current.downcast_ref::<LookupError>() {
            return match lookup {
                LookupError::Forbidden(_) => Error::DestinationIpProhibited,
                LookupError::Unknown(..) => Error::DnsError {
                    rcode: Some(lookup.to_string()),
                    info_code: None,
                },
            };
        }
        if let Some(tls) = current.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            };
        }
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            // An error of TLS or of a look-up may be inside.
            let inner = io.get_ref().map(|inner| inner as &(dyn StdError + 'static));
            match (inner, io.kind()) {
                (_, std::io::ErrorKind::TimedOut) if is_connect => return Error::ConnectionTimeout,
                (_, std::io::ErrorKind::TimedOut) => return Error::ConnectionReadTimeout,
                (Some(inner), _) => {
                    cause = Some(inner);
                    continue;
                }
                (None, std::io::ErrorKind::ConnectionRefused) => return Error::ConnectionRefused,
                (
                    None,
                    std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable,
                ) => return Error::DestinationIpUnroutable,
                (None, _) => return Error::ConnectionTerminated,
            }
        }
        cause = current.source();
    }
    Error::HttpProtocolError
}

/// A response whose parts have to follow each other in time.
struct TimedBody {
    body: Incoming,
    between_bytes: Duration,
    /// Of the part that is waited for. What the guest does meanwhile does not count.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    fn new(body: Incoming, between_bytes: Duration) -> Self {
        Self {
            body,
            between_bytes,
            deadline: None,
        }
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(part) => {
                self.deadline = None;
                Poll::Ready(part.map(|part| part.map_err(Error::from)))
            }
            Poll::Pending => {
                let time = self.between_bytes;
                self.deadline
                    .get_or_insert_with(|| Box::pin(sleep(time)))
                    .as_mut()
                    .poll(context)
                    .map(|()| Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
