//! The spans of a guest's process: requests that it answers and sends, instances, a command's run.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use lighter_trace::{
    Buffer, GuestTrace, OpenSpan, Outlet, Packet, Pushed, Span, SpanKind, TraceContext, Tracer,
};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long a span waits for others to leave with.
const GATHER: Duration = Duration::from_millis(200);

/// What a process makes spans with. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Spans {
    tracer: Tracer,
    outlet: Arc<GuestOutlet>,
    /// The call that the process was made for.
    call: TraceContext,
}

impl Spans {
    pub(crate) fn new(trace: GuestTrace) -> Self {
        let outlet = Arc::new_cyclic(|this| GuestOutlet {
            this: this.clone(),
            socket: trace.socket,
            buffer: Mutex::default(),
        });
        Self {
            tracer: Tracer::new(trace.sampler, outlet.clone()),
            outlet,
            call: trace.parent,
        }
    }

    /// The run of a command.
    pub(crate) fn run(&self, program: &str) -> OpenSpan {
        let mut span = self
            .tracer
            .begin("run", SpanKind::Internal, Some(&self.call));
        span.set("lighter.program", program);
        span
    }

    /// A part of `whole` that is over.
    pub(crate) fn add(&self, name: &'static str, whole: &TraceContext, made: Made) {
        self.tracer.add(name, whole, made.begin, made.took);
    }

    /// A request that has come, as a part of its sender's trace.
    pub(crate) fn received<B>(&self, request: &http::Request<B>) -> OpenSpan {
        let parent = context_in(request.headers());
        let method = method(request.method());
        let mut span = self.tracer.begin(method, SpanKind::Server, parent.as_ref());
        if span.is_recorded() {
            span.set("http.request.method", method);
            // Without the query, which may hold secrets.
            span.set("url.path", request.uri().path());
            span.set("url.scheme", "http");
            span.set("network.protocol.version", version(request.version()));
        }
        span
    }

    /// A request that the guest sends, as a part of what its `traceparent` names, or else of `current`.
    pub(crate) fn sent<B>(
        &self,
        request: &http::Request<B>,
        current: Option<&TraceContext>,
    ) -> OpenSpan {
        let own = context_in(request.headers());
        let method = method(request.method());
        let mut span = self
            .tracer
            .begin(method, SpanKind::Client, own.as_ref().or(current));
        if span.is_recorded() {
            span.set("http.request.method", method);
            let uri = request.uri();
            let scheme = uri.scheme_str().unwrap_or("http");
            let host = uri.host().unwrap_or_default();
            let port = uri
                .port_u16()
                .unwrap_or(if scheme == "https" { 443 } else { 80 });
            span.set("server.address", host);
            span.set("server.port", i64::from(port));
            // Without user, password and query.
            let url = format!("{scheme}://{host}:{port}{}", uri.path());
            span.set("url.full", url.as_str());
        }
        span
    }

    /// Sends what has gathered.
    pub(crate) fn flush(&self) {
        self.outlet.flush();
    }
}

/// When something was made that is known to be part of a span only later.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    begin: SystemTime,
    took: Duration,
}

impl Made {
    /// It was begun then, and is done now.
    pub(crate) fn since(begin: Instant) -> Self {
        let took = begin.elapsed();
        Self {
            begin: SystemTime::now()
                .checked_sub(took)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            took,
        }
    }
}

/// Whose trace these headers continue.
fn context_in(headers: &HeaderMap) -> Option<TraceContext> {
    // Two of them name nobody, as the W3C has it.
    let mut all = headers.get_all(TRACEPARENT).iter();
    let traceparent = all.next().filter(|_| all.next().is_none())?;
    let states: Vec<&str> = headers
        .get_all(TRACESTATE)
        .iter()
        .filter_map(|state| state.to_str().ok())
        .collect();
    TraceContext::parse(traceparent.to_str().ok()?, Some(&states.join(",")))
}

/// Has headers say that what they are sent for is part of this span.
pub(crate) fn continue_in(headers: &mut HeaderMap, context: &TraceContext) {
    if let Ok(traceparent) = HeaderValue::try_from(context.to_string()) {
        headers.insert(TRACEPARENT, traceparent);
    }
    match HeaderValue::try_from(context.state.as_str()) {
        Ok(state) if !context.state.is_empty() => {
            headers.insert(TRACESTATE, state);
        }
        _ => {
            headers.remove(TRACESTATE);
        }
    }
}

/// The names of OpenTelemetry's conventions: what others call their methods is not for a name.
fn method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "CONNECT" => "CONNECT",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// Requests that an instance is at work on, to know what it sends others for.
#[derive(Clone, Default)]
pub(crate) struct Current(Arc<Mutex<Work>>);

#[derive(Default)]
struct Work {
    begun: Vec<TraceContext>,
    /// The last that ended: its answer's body may still be on its way.
    last: Option<TraceContext>,
}

impl Current {
    /// Work for this span begins. It ends when what is returned is dropped.
    pub(crate) fn begin(&self, context: &TraceContext) -> AtWork {
        lock(&self.0).begun.push(context.clone());
        AtWork {
            current: self.clone(),
            span: context.span,
        }
    }

    /// What is being done, if that is one thing: of several at a time nobody knows which one
    /// a request is sent for.
    pub(crate) fn get(&self) -> Option<TraceContext> {
        let work = lock(&self.0);
        match work.begun.as_slice() {
            [] => work.last.clone(),
            [one] => Some(one.clone()),
            _ => None,
        }
    }
}

/// See [`Current::begin`].
pub(crate) struct AtWork {
    current: Current,
    span: u64,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut work = lock(&self.current.0);
        if let Some(place) = work
            .begun
            .iter()
            .position(|context| context.span == self.span)
        {
            work.last = Some(work.begun.swap_remove(place));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to the shim.
struct GuestOutlet {
    this: Weak<Self>,
    socket: Arc<OwnedFd>,
    buffer: Mutex<Buffer>,
}

impl GuestOutlet {
    fn flush(&self) {
        let packet = lock(&self.buffer).take();
        self.write(packet);
    }

    /// By write(2), which every seccomp profile allows. It does not wait: what finds no place is
    /// lost.
    fn write(&self, packet: Option<Packet>) {
        let Some(packet) = packet else {
            return;
        };
        if nix::unistd::write(self.socket.as_ref(), &packet.lines).is_err() {
            lock(&self.buffer).lose_more(packet.spans);
        }
    }
}

impl Outlet for GuestOutlet {
    fn put(&self, span: Span) {
        let pushed = lock(&self.buffer).push(span);
        match (pushed, tokio::runtime::Handle::try_current()) {
            (Pushed::More, _) => {}
            (Pushed::Full(packet), _) => self.write(Some(packet)),
            (Pushed::First, Ok(runtime)) => {
                let this = self.this.clone();
                runtime.spawn(async move {
                    tokio::time::sleep(GATHER).await;
                    if let Some(this) = this.upgrade() {
                        this.flush();
                    }
                });
            }
            (Pushed::First, Err(_)) => self.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(span: u64) -> TraceContext {
        TraceContext {
            trace: 7,
            span,
            sampled: true,
            state: String::new(),
        }
    }

    #[test]
    fn headers_are_continued_and_two_parents_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(context_in(&headers), None);
        headers.insert(TRACEPARENT, HeaderValue::from_static(PARENT));
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        let found = context_in(&headers).unwrap();
        assert_eq!(
            (found.to_string().as_str(), found.state.as_str()),
            (PARENT, "a=1,b=2")
        );
        continue_in(&mut headers, &TraceContext { span: 1, ..found });
        let found = context_in(&headers).unwrap();
        assert_eq!((found.span, found.state.as_str()), (1, "a=1,b=2"));
        continue_in(&mut headers, &context(3));
        assert_eq!(context_in(&headers), Some(context(3)));
        headers.append(TRACEPARENT, HeaderValue::from_static(PARENT));
        assert_eq!(context_in(&headers), None);
    }

    #[test]
    fn what_is_sent_belongs_to_the_only_request_at_work() {
        let current = Current::default();
        assert_eq!(current.get(), None);
        let first = current.begin(&context(1));
        assert_eq!(current.get(), Some(context(1)));
        let second = current.begin(&context(2));
        assert_eq!(current.get(), None, "two are at work");
        drop(first);
        assert_eq!(current.get(), Some(context(2)));
        drop(second);
        assert_eq!(
            current.get(),
            Some(context(2)),
            "its answer may be on its way"
        );
    }
}
