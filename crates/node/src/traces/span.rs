//! A span in OpenTelemetry's types.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use lighter_trace::{Attribute, Span, SpanKind};
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// Most attributes of a span, OpenTelemetry's default.
const MOST_ATTRIBUTES: usize = 128;
/// Most bytes of a text in a span. A guest's process may have written any.
const MOST_TEXT: usize = 4096;

/// The span, for a collector. What it says is as good as who has made it.
pub(super) fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let state = TraceState::from_str(&span.state).unwrap_or_default();
    let left_out = span.attributes.len().saturating_sub(MOST_ATTRIBUTES);
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace),
            SpanId::from(span.id),
            TraceFlags::SAMPLED,
            false,
            state,
        ),
        parent_span_id: SpanId::from(span.parent),
        // Of a server's, the parent is its client's.
        parent_span_is_remote: span.kind == SpanKind::Server && span.parent != 0,
        span_kind: match span.kind {
            SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Client => opentelemetry::trace::SpanKind::Client,
        },
        name: short(span.name.into_owned()).into(),
        start_time: time(span.begin),
        end_time: time(span.end.max(span.begin)),
        attributes: span
            .attributes
            .into_iter()
            .take(MOST_ATTRIBUTES)
            .map(|(name, value)| KeyValue::new(short(name.into_owned()), self::value(value)))
            .collect(),
        dropped_attributes_count: u32::try_from(left_out).unwrap_or(u32::MAX),
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: match span.error {
            Some(error) => Status::error(short(error)),
            None => Status::Unset,
        },
        instrumentation_scope: scope.clone(),
    }
}

fn time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn value(attribute: Attribute) -> Value {
    match attribute {
        Attribute::Truth(truth) => truth.into(),
        Attribute::Number(number) => number.into(),
        Attribute::Text(text) => short(text).into(),
    }
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            trace: 0xabc,
            id: 0xdef,
            parent: 0,
            state: "a=b".to_owned(),
            name: "GET".into(),
            kind: SpanKind::Server,
            begin: 1_000_000_000,
            end: 3_000_000_000,
            attributes: vec![("http.response.status_code".into(), Attribute::Number(500))],
            error: Some("500".to_owned()),
        }
    }

    fn data_of(span: Span) -> SpanData {
        data(span, &InstrumentationScope::builder("lighter").build())
    }

    #[test]
    fn nothing_of_a_span_is_lost() {
        let data = data_of(span());
        assert_eq!(
            data.span_context.trace_id().to_string(),
            format!("{:032x}", 0xabc)
        );
        assert_eq!(
            data.span_context.span_id().to_string(),
            format!("{:016x}", 0xdef)
        );
        assert_eq!(data.parent_span_id, SpanId::INVALID);
        assert!(!data.parent_span_is_remote);
        assert_eq!(data.span_context.trace_state().get("a"), Some("b"));
        let took = data.end_time.duration_since(data.start_time).unwrap();
        assert_eq!(took, Duration::from_secs(2));
        assert_eq!(data.status, Status::error("500"));
        assert_eq!(
            data.attributes,
            [KeyValue::new("http.response.status_code", 500_i64)]
        );
        let data = data_of(Span {
            parent: 7,
            error: None,
            ..span()
        });
        assert!(data.parent_span_is_remote);
        assert_eq!(data.status, Status::Unset);
    }

    #[test]
    fn what_a_guest_says_is_bounded() {
        let long = "ü".repeat(MOST_TEXT);
        let data = data_of(Span {
            name: long.clone().into(),
            begin: u64::MAX,
            end: 0,
            state: long.clone(),
            attributes: vec![("a".into(), Attribute::Text(long)); 1000],
            ..span()
        });
        assert_eq!(data.name.len(), MOST_TEXT);
        assert_eq!(data.start_time, data.end_time);
        assert_eq!(data.attributes.len(), MOST_ATTRIBUTES);
        assert_eq!(data.dropped_attributes_count, 1000 - 128);
        assert_eq!(data.attributes[0].value.as_str().len(), MOST_TEXT);
    }
}
