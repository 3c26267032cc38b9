//! Bodies of requests and responses, bounded in size and time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use lighter_core::{Count, Counters};
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::{Error, WasiBody};

use super::connections::Connection;
use super::counted::CountedRequest;
use super::request::Permit;

/// What became of a request's body, for whoever answers.
#[derive(Clone, Default)]
pub(super) struct ReceivedState(Arc<AtomicBool>);

impl ReceivedState {
    pub(super) fn was_too_long(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bounds of a request's body.
pub(super) struct Received {
    left: u64,
    state: ReceivedState,
    counters: &'static Counters,
    connection: Arc<Connection>,
    /// `None` for a body that is there already, which needs no timer.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Received {
    pub(super) fn new(
        is_empty: bool,
        most: u64,
        deadline: Instant,
        counters: &'static Counters,
        connection: Arc<Connection>,
    ) -> (Self, ReceivedState) {
        let state = ReceivedState::default();
        let received = Self {
            left: most,
            state: state.clone(),
            counters,
            connection,
            deadline: (!is_empty).then(|| Box::pin(sleep_until(deadline))),
        };
        (received, state)
    }

    pub(super) fn of(self, body: Incoming) -> ReceivedBody {
        ReceivedBody { body, bounds: self }
    }
}

/// A request's body as the guest reads it.
pub(super) struct ReceivedBody {
    body: Incoming,
    bounds: Received,
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let bounds = &mut self.bounds;
        if let Some(deadline) = &mut bounds.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        }
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let bounds = &mut self.bounds;
            bounds.connection.delivered(length);
            let length = length as u64;
            bounds.counters.add(Count::BytesReceived, length);
            match bounds.left.checked_sub(length) {
                Some(left) => bounds.left = left,
                None => {
                    bounds.state.0.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))));
                }
            }
        }
        polled.map_err(Error::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bounds of an answer's body. The request counts as one at work as long as this is there.
pub(super) struct Sent {
    _permit: Permit,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    request: ReceivedState,
}

impl Sent {
    pub(super) fn new(permit: Permit, deadline: Instant, request: ReceivedState) -> Self {
        Self {
            _permit: permit,
            deadline,
            timer: None,
            request,
        }
    }

    pub(super) fn of(self, body: WasiBody, counted: CountedRequest) -> SentBody {
        SentBody {
            body,
            bounds: self,
            counted,
        }
    }
}

/// An answer's body as the client gets it.
pub(super) struct SentBody {
    body: WasiBody,
    bounds: Sent,
    counted: CountedRequest,
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = polled
            && self.bounds.request.was_too_long()
        {
            // A guest may have taken the end of what it was given for the end of the body.
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))));
        }
        if let Poll::Ready(ready) = &polled {
            if let Some(Ok(frame)) = ready {
                self.counted.sent(frame.data_ref().map_or(0, Bytes::len));
            }
            return polled;
        }
        // Most bodies are there at once and need no timer.
        let deadline = self.bounds.deadline;
        let timer = self
            .bounds
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer
            .as_mut()
            .poll(context)
            .map(|()| Some(Err(Error::ConnectionWriteTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.bounds.request.was_too_long()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
