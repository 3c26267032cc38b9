//! Counts a request, however it ends.

use lighter_core::{Count, Counters, RequestEnd};
use lighter_trace::OpenSpan;
use tokio::time::Instant;

use super::connections::ConnectionRequest;

/// A request that has arrived. It is over when this is dropped.
pub(super) struct CountedRequest {
    counters: &'static Counters,
    begin: Instant,
    end: RequestEnd,
    span: Option<OpenSpan>,
    _at_work: ConnectionRequest,
}

impl CountedRequest {
    pub(super) fn new(
        counters: &'static Counters,
        span: Option<OpenSpan>,
        at_work: ConnectionRequest,
    ) -> Self {
        counters.add(Count::RequestsBegun, 1);
        Self {
            counters,
            begin: Instant::now(),
            end: RequestEnd::Aborted,
            span,
            _at_work: at_work,
        }
    }

    /// When it arrived.
    pub(super) fn begin(&self) -> Instant {
        self.begin
    }

    /// Notes what it is answered with.
    pub(super) fn answered(&mut self, status: http::StatusCode) {
        self.end = RequestEnd::of_status(status.as_u16());
        if let Some(span) = &mut self.span {
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_server_error() {
                span.fail(status.as_str());
            }
        }
    }

    /// Counts a part of its answer.
    pub(super) fn sent(&self, bytes: usize) {
        self.counters.add(Count::BytesSent, bytes as u64);
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        self.counters.request_ended(self.end, self.begin.elapsed());
        if let Some(span) = &mut self.span
            && self.end == RequestEnd::Aborted
        {
            span.fail("the client went before there was an answer");
        }
    }
}
