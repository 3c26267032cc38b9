//! One request: a permit, a deadline, an instance, a response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use lighter_core::Counters;
use lighter_trace::TraceContext;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError, ProxyHandler};

use super::body::{Received, Sent};
use super::connections::Connection;
use super::counted::CountedRequest;
use super::host;
use super::instances::Instances;
use crate::options::HttpOptions;
use crate::spans::{Spans, continue_in};

/// Hands requests to instances, within the limits of the options.
pub(super) struct Requests {
    handler: ProxyHandler<Instances>,
    options: HttpOptions,
    permits: Arc<Semaphore>,
    counters: &'static Counters,
    spans: Option<Spans>,
}

/// What an instance is told of a request.
pub(super) struct RequestData {
    /// When it has to be answered.
    pub(super) deadline: Instant,
    /// Its span, if there are spans.
    pub(super) span: Option<TraceContext>,
    /// Held as long as the guest is at work, also for a client that has gone meanwhile: otherwise clients
    /// that go at once would have more instances at work than there may be.
    pub(super) permit: Permit,
}

/// What a request needs to be handled. It counts as one at work as long as one of these is there.
pub(super) type Permit = Arc<OwnedSemaphorePermit>;

/// What a request that was not answered by the guest is answered with.
struct Refused(StatusCode, &'static str);

impl Requests {
    pub(super) fn new(
        handler: ProxyHandler<Instances>,
        options: HttpOptions,
        counters: &'static Counters,
        spans: Option<Spans>,
    ) -> Self {
        Self {
            handler,
            counters,
            spans,
            permits: Arc::new(Semaphore::new(options.concurrency as usize)),
            options,
        }
    }

    pub(super) fn concurrency(&self) -> u32 {
        self.options.concurrency
    }

    pub(super) fn head_time(&self) -> Duration {
        self.options.header_time
    }

    /// The guest's answer to a request of `connection` that has come at the address `local`, or why
    /// there is none.
    pub(super) async fn respond(
        &self,
        mut request: Request<Incoming>,
        connection: &Arc<Connection>,
        local: Option<SocketAddr>,
    ) -> Response<WasiBody> {
        let at_work = connection.begin(header_bytes(&request));
        let has_host = host::settle(&mut request, local).is_ok();
        let span = self.spans.as_ref().map(|spans| spans.received(&request));
        let context = span.as_ref().map(|span| span.context().clone());
        if let Some(context) = &context {
            continue_in(request.headers_mut(), context);
        }
        let mut counted = CountedRequest::new(self.counters, span, at_work);
        let answer = if has_host {
            self.handle(request, counted.begin(), context, connection)
                .await
        } else {
            Err(NO_HOST)
        };
        match answer {
            Ok((response, bounds)) => {
                counted.answered(response.status());
                response.map(|body| bounds.of(body, counted).boxed_unsync())
            }
            Err(Refused(status, text)) => {
                counted.answered(status);
                let body = Full::from(format!("{text}\n"));
                let mut response =
                    Response::new(body.map_err(|never| match never {}).boxed_unsync());
                *response.status_mut() = status;
                response
            }
        }
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        begin: Instant,
        span: Option<TraceContext>,
        connection: &Arc<Connection>,
    ) -> Result<(Response<WasiBody>, Sent), Refused> {
        const TOO_LONG: Refused = Refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is longer than this service accepts",
        );
        if request.body().size_hint().lower() > self.options.body_bytes {
            return Err(TOO_LONG);
        }
        let deadline = begin + self.options.request_time;
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(Refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "this service has too many requests at a time",
            ))?;
        let (body, state) = Received::new(
            request.body().is_end_stream(),
            self.options.body_bytes,
            deadline,
            self.counters,
            Arc::clone(connection),
        );
        let request = request.map(|incoming| body.of(incoming).boxed_unsync());
        let permit = Arc::new(permit);
        let data = RequestData {
            deadline,
            span,
            permit: Arc::clone(&permit),
        };
        let answered = timeout_at(deadline, self.handler.handle(data, request)).await;
        if state.was_too_long() {
            return Err(TOO_LONG);
        }
        let response = match answered {
            Ok(Ok(response)) => response,
            // What is given up for its time ends the instance, too, and may be told by that.
            Ok(Err(_)) if Instant::now() >= deadline => return Err(LATE),
            Ok(Err(error)) => return Err(refusal(&error)),
            Err(_) => return Err(LATE),
        };
        Ok((response, Sent::new(permit, deadline, state)))
    }
}

/// Bytes that the headers of a request take up, about.
fn header_bytes<B>(request: &Request<B>) -> usize {
    /// Bytes of a header beside its name and value.
    const HEADER: usize = 100;
    let headers = request.headers().iter();
    let length = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        HEADER + name.as_str().len() + value.len()
    };
    headers.map(length).sum()
}

const NO_HOST: Refused = Refused(
    StatusCode::BAD_REQUEST,
    "a request has to say which host it is for, and only once",
);

const LATE: Refused = Refused(
    StatusCode::GATEWAY_TIMEOUT,
    "the service did not answer in time",
);

/// What the client is told. The cause is for the container's log alone.
fn refusal(error: &wasmtime::Error) -> Refused {
    if error.is::<ExpirationError>() {
        LATE
    } else if error.is::<InstantiationError<RequestData>>() {
        Refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "the service cannot start another instance",
        )
    } else {
        Refused(StatusCode::INTERNAL_SERVER_ERROR, "the service failed")
    }
}
