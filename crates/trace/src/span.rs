//! A span, from its begin to its end.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::context::TraceContext;
use crate::sampler::Sampler;

/// Most bytes of a text in a span. A container's errors and a client's paths may be of any length.
const MOST_TEXT: usize = 1024;

/// Who asked whom (OpenTelemetry specification, "SpanKind").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpanKind {
    /// Nobody: a step of something greater.
    Internal,
    /// Others asked this process.
    Server,
    /// This process asked others.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Attribute {
    /// Yes or no.
    Truth(bool),
    /// A number.
    Number(i64),
    /// A text of at most 1024 bytes.
    Text(String),
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(MOST_TEXT)].to_owned())
    }
}

impl From<i64> for Attribute {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Attribute {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

/// Something that has been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The trace that it is of.
    pub trace: u128,
    /// Its own number.
    pub id: u64,
    /// That of the span which it is a part of; 0 for none.
    pub parent: u64,
    /// `tracestate` of the trace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// What was done.
    pub name: Cow<'static, str>,
    /// Who asked whom.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
    /// By the names of OpenTelemetry's semantic conventions, or below `lighter.`.
    pub attributes: Vec<(Cow<'static, str>, Attribute)>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where spans go that have ended.
pub trait Outlet: Send + Sync {
    /// Takes a span, and never waits: what cannot leave is lost.
    fn put(&self, span: Span);
}

/// Makes spans.
#[derive(Clone)]
pub struct Tracer {
    sampler: Sampler,
    outlet: Arc<dyn Outlet>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tracer = formatter.debug_struct("Tracer");
        tracer
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

impl Tracer {
    /// One whose spans go to `outlet`.
    pub fn new(sampler: Sampler, outlet: Arc<dyn Outlet>) -> Self {
        Self { sampler, outlet }
    }

    /// Begins a span. Without a parent it begins a trace.
    pub fn begin(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<&TraceContext>,
    ) -> OpenSpan {
        let (trace, span) = numbers();
        let trace = parent.map_or(trace, |parent| parent.trace);
        let sampled = self
            .sampler
            .keeps(trace, parent.map(|parent| parent.sampled));
        let context = TraceContext {
            trace,
            span,
            sampled,
            state: parent
                .map(|parent| parent.state.clone())
                .unwrap_or_default(),
        };
        let recorded = sampled.then(|| Recorded {
            span: Span {
                trace,
                id: span,
                parent: parent.map_or(0, |parent| parent.span),
                state: context.state.clone(),
                name: name.into(),
                kind,
                begin: nanoseconds(SystemTime::now()),
                end: 0,
                attributes: Vec::new(),
                error: None,
            },
            begin: Instant::now(),
            outlet: Arc::clone(&self.outlet),
        });
        OpenSpan { context, recorded }
    }

    /// Adds a part of a span that was done before anybody knew what it is a part of.
    pub fn add(&self, name: &'static str, whole: &TraceContext, begin: SystemTime, took: Duration) {
        if whole.sampled {
            let begin = nanoseconds(begin);
            self.outlet.put(Span {
                trace: whole.trace,
                id: numbers().1,
                parent: whole.span,
                state: whole.state.clone(),
                name: name.into(),
                kind: SpanKind::Internal,
                begin,
                end: begin.saturating_add(took.as_nanos() as u64),
                attributes: Vec::new(),
                error: None,
            });
        }
    }
}

/// Numbers of a new trace and a new span. They are the kernel's own: a generator of random numbers
/// in this process would give its forks the same ones.
fn numbers() -> (u128, u64) {
    let mut bytes = [0; 24];
    // Without any, all spans would have one number, which is as good as being lost.
    let _ = getrandom::fill(&mut bytes);
    let (trace, span) = bytes.split_at(16);
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |all, byte| all << 8 | u128::from(*byte))
    };
    // 0 stands for none.
    (number(trace).max(1), (number(span) as u64).max(1))
}

/// A time in nanoseconds since 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_nanos() as u64
}

/// A span that has begun. It ends when this is dropped.
pub struct OpenSpan {
    context: TraceContext,
    /// `None` if the trace is not kept.
    recorded: Option<Recorded>,
}

struct Recorded {
    span: Span,
    begin: Instant,
    outlet: Arc<dyn Outlet>,
}

impl OpenSpan {
    /// What those continue who are asked for a part of this.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Whether anybody will see it.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Attribute>) {
        if let Some(recorded) = &mut self.recorded {
            recorded.span.attributes.push((name.into(), value.into()));
        }
    }

    /// Says why it has failed.
    pub fn fail(&mut self, why: &str) {
        if let Some(recorded) = &mut self.recorded {
            let end = why.floor_char_boundary(MOST_TEXT);
            recorded.span.error = Some(why[..end].to_owned());
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if let Some(mut recorded) = self.recorded.take() {
            // The clock of the day may be set meanwhile.
            let took = recorded.begin.elapsed().as_nanos() as u64;
            recorded.span.end = recorded.span.begin.saturating_add(took);
            recorded.outlet.put(recorded.span);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl Outlet for Kept {
        fn put(&self, span: Span) {
            self.0.lock().unwrap().push(span);
        }
    }

    fn tracer(share: f64) -> (Tracer, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let sampler = Sampler::of_share(share).unwrap();
        (Tracer::new(sampler, kept.clone()), kept)
    }

    #[test]
    fn parts_continue_the_trace_and_end_by_themselves() {
        let (tracer, kept) = tracer(1.0);
        let mut whole = tracer.begin("whole", SpanKind::Server, None);
        whole.set("number", 7);
        let part = tracer.begin("part", SpanKind::Internal, Some(whole.context()));
        drop(part);
        tracer.add(
            "known",
            whole.context(),
            SystemTime::now(),
            Duration::from_secs(1),
        );
        whole.fail("it was too much");
        drop(whole);
        let spans = kept.0.lock().unwrap().clone();
        let [part, known, whole] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        assert_eq!(
            (part.parent, known.parent, whole.parent),
            (whole.id, whole.id, 0)
        );
        assert!(part.trace == whole.trace && known.trace == whole.trace);
        assert_eq!(known.end - known.begin, 1_000_000_000);
        assert!(part.end >= part.begin && whole.end >= part.end);
        assert_eq!(whole.error.as_deref(), Some("it was too much"));
        assert_eq!(whole.attributes, [("number".into(), Attribute::Number(7))]);
    }

    #[test]
    fn a_trace_that_is_not_kept_is_continued_all_the_same() {
        let (tracer, kept) = tracer(0.0);
        let whole = tracer.begin("whole", SpanKind::Server, None);
        let part = tracer.begin("part", SpanKind::Internal, Some(whole.context()));
        assert_eq!(part.context().trace, whole.context().trace);
        assert!(!part.context().sampled && !part.is_recorded());
        tracer.add("known", whole.context(), SystemTime::now(), Duration::ZERO);
        drop((part, whole));
        assert!(kept.0.lock().unwrap().is_empty());
    }

    #[test]
    fn texts_are_bounded() {
        let long = "ü".repeat(MOST_TEXT);
        let Attribute::Text(text) = Attribute::from(long.as_str()) else {
            panic!()
        };
        assert_eq!(text.len(), MOST_TEXT);
    }
}
