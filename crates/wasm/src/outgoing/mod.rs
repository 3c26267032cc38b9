//! Requests of `wasi:http` that a guest sends.
//!
//! Connections are kept and used again by all instances of a container, with HTTP/2 where the
//! server offers it. Where requests may go is decided before a name is looked up (host list)
//! and after (addresses), so that a name cannot lead to a forbidden address.

mod client;
mod connector;
mod times;
mod trust;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use http::Request;
use http::uri::Scheme;
use lighter_trace::OpenSpan;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use self::client::Client;
use self::times::Times;
use crate::network;
use crate::options::NetworkOptions;
use crate::spans::{Current, Spans, continue_in};

/// Bytes of a body that are copied out of a guest at a time. Two or three such parts can wait for a
/// peer that reads slowly, for each request and response: Wasmtime's default of 1 MiB would soon fill a
/// small container.
const BODY_CHUNK: usize = 64 << 10;

/// Sends an instance's requests. All instances share their connections.
#[derive(Clone)]
pub(crate) struct Outgoing {
    inner: Arc<Inner>,
    current: Current,
}

struct Inner {
    options: NetworkOptions,
    /// What spans are made with, if they are.
    spans: Option<Spans>,
    /// A file of certificates that are trusted instead of the image's.
    trusted: Option<PathBuf>,
    client: OnceLock<Client>,
}

impl Outgoing {
    /// Nothing is made and no file is read before the first request.
    pub(crate) fn new(
        options: NetworkOptions,
        trusted: Option<PathBuf>,
        spans: Option<Spans>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                spans,
                trusted,
                client: OnceLock::new(),
            }),
            current: Current::default(),
        }
    }

    /// The same for another instance.
    pub(crate) fn for_instance(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            current: Current::default(),
        }
    }

    /// What the instance is at work on.
    pub(crate) fn current(&self) -> &Current {
        &self.current
    }

    fn check(&self, request: &Request<WasiBody>) -> Result<(), Error> {
        let uri = request.uri();
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let default = if uri.scheme() == Some(&Scheme::HTTPS) {
            443
        } else {
            80
        };
        let port = authority.port_u16().unwrap_or(default);
        let host = authority.host();
        if !self.inner.options.hosts.allow(host, port) {
            return Err(Error::HttpRequestDenied);
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) if !network::may_reach(&self.inner.options, address) => {
                Err(Error::DestinationIpProhibited)
            }
            _ => Ok(()),
        }
    }

    async fn send(
        self,
        request: Request<WasiBody>,
        times: Times,
    ) -> Result<http::Response<WasiBody>, Error> {
        self.check(&request)?;
        let inner = &self.inner;
        let client = match inner.client.get() {
            Some(client) => client,
            None => {
                let client = Client::new(inner.options.clone(), inner.trusted.as_deref()).map_err(
                    |error| {
                        crate::ending::complain(&format!("cannot send requests: {error}"));
                        Error::ConfigurationError
                    },
                )?;
                inner.client.get_or_init(|| client)
            }
        };
        client.send(request, times).await
    }
}

/// Ends the span of a request that was sent.
fn end(mut span: OpenSpan, sent: &Result<http::Response<WasiBody>, Error>) {
    match sent {
        Ok(response) => {
            let status = response.status();
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_client_error() || status.is_server_error() {
                span.fail(status.as_str());
            }
        }
        Err(error) => span.fail(&error.to_string()),
    }
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for Outgoing {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK
    }

    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _response_error: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let outgoing = self.clone();
        let times = Times::of(options);
        let span = self.inner.spans.as_ref().map(|spans| {
            let span = spans.sent(&request, self.current.get().as_ref());
            continue_in(request.headers_mut(), span.context());
            span
        });
        Box::new(async move {
            let sent = outgoing.send(request, times).await;
            if let Some(span) = span {
                end(span, &sent);
            }
            let response = sent?;
            // The connection belongs to the pool; its errors are told by the body.
            let done: Box<dyn Future<Output = _> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((response, done))
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::*;
    use crate::options::{HostPattern, Options};

    fn check(options: NetworkOptions, uri: &str) -> Result<(), String> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().uri(uri).body(body).unwrap();
        Outgoing::new(options, None, None)
            .check(&request)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_and_addresses_are_checked_before_anything_is_sent() {
        let options = Options::default().network;
        assert_eq!(check(options.clone(), "http://example.com/x"), Ok(()));
        for metadata in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://168.63.129.16/machine?comp=goalstate",
        ] {
            let error = check(options.clone(), metadata).unwrap_err();
            assert!(error.contains("prohibited"), "{error}");
        }
        let mut listed = options;
        let pattern = HostPattern::parse("api.test:443").unwrap();
        listed.hosts = listed.hosts.and(vec![pattern]);
        assert_eq!(check(listed.clone(), "https://api.test/"), Ok(()));
        for denied in [
            "http://api.test/",
            "https://other.test/",
            "https://api.test:444/",
        ] {
            assert!(check(listed.clone(), denied).is_err(), "{denied}");
        }
    }
}
