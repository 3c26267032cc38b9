//! One request: a permit, a deadline, an instance, a response.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use lighter_core::Counters;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError, ProxyHandler};

use super::body::{Received, Sent};
use super::counted::CountedRequest;
use super::instances::Instances;
use crate::options::HttpOptions;

/// Connections for each request that may be handled at a time: most of them are idle.
const CONNECTIONS: usize = 8;

/// Hands requests to instances, within the limits of the options.
pub(super) struct Requests {
    handler: ProxyHandler<Instances>,
    options: HttpOptions,
    permits: Arc<Semaphore>,
    counters: &'static Counters,
}

/// What a request that was not answered by the guest is answered with.
struct Refused(StatusCode, &'static str);

impl Requests {
    pub(super) fn new(
        handler: ProxyHandler<Instances>,
        options: HttpOptions,
        counters: &'static Counters,
    ) -> Self {
        Self {
            handler,
            counters,
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

    pub(super) fn most_connections(&self) -> usize {
        CONNECTIONS * self.options.concurrency as usize + 32
    }

    /// The guest's answer, or why there is none.
    pub(super) async fn respond(&self, request: Request<Incoming>) -> Response<WasiBody> {
        let mut counted = CountedRequest::new(self.counters);
        match self.handle(request, counted.begin()).await {
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
        );
        let request = request.map(|incoming| body.of(incoming).boxed_unsync());
        let answered = timeout_at(deadline, self.handler.handle(deadline, request)).await;
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

const LATE: Refused = Refused(
    StatusCode::GATEWAY_TIMEOUT,
    "the service did not answer in time",
);

/// What the client is told. The cause is for the container's log alone.
fn refusal(error: &wasmtime::Error) -> Refused {
    if error.is::<ExpirationError>() {
        LATE
    } else if error.is::<InstantiationError<Instant>>() {
        Refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "the service cannot start another instance",
        )
    } else {
        Refused(StatusCode::INTERNAL_SERVER_ERROR, "the service failed")
    }
}
