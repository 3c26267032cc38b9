//! Which trace, and which span of it: the W3C's Trace Context, Level 1
//! (<https://www.w3.org/TR/trace-context/>), as it stands in headers and in ttrpc's metadata.

use std::fmt;

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// Most bytes of a `tracestate` that is passed on, of which the W3C demands as many.
const MOST_STATE: usize = 512;

/// A span, as who continues its trace knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace: u128,
    /// The span; not 0.
    pub span: u64,
    /// Whether the trace is being recorded.
    pub sampled: bool,
    /// `tracestate`: what others want to be passed on with the trace. Empty for nothing.
    pub state: String,
}

impl TraceContext {
    /// Reads both headers. `None` if the first is malformed; a malformed second one is left out,
    /// as the W3C has it.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let traceparent = traceparent.trim_matches([' ', '\t']);
        let (fields, more) = traceparent.split_at_checked(LENGTH)?;
        let fields: Vec<&str> = fields.split('-').collect();
        let &[version, trace, span, flags] = fields.as_slice() else {
            return None;
        };
        let version = hexadecimal(version, 2)?;
        // Later versions may have more fields, but have these.
        let is_known = if version == 0 {
            more.is_empty()
        } else {
            more.is_empty() || more.starts_with('-')
        };
        if version == 0xff || !is_known {
            return None;
        }
        let context = Self {
            trace: hexadecimal(trace, 32)?,
            span: hexadecimal(span, 16)? as u64,
            sampled: hexadecimal(flags, 2)? & 1 == 1,
            state: tracestate
                .filter(|state| is_state(state))
                .unwrap_or_default()
                .to_owned(),
        };
        (context.trace != 0 && context.span != 0).then_some(context)
    }
}

/// The header `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace,
            span,
            sampled,
            ..
        } = self;
        write!(
            formatter,
            "00-{trace:032x}-{span:016x}-{:02x}",
            u8::from(*sampled)
        )
    }
}

/// The number of just so many digits, of which the letters are small.
fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

fn is_state(text: &str) -> bool {
    text.len() <= MOST_STATE && text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parse(text: &str) -> Option<TraceContext> {
        TraceContext::parse(text, None)
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let context = TraceContext::parse(&text, Some("congo=t61rcWkgMzE")).unwrap();
        assert_eq!(context.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(context.span, 0xb7ad_6b71_6920_3331);
        assert!(context.sampled);
        assert_eq!(context.state, "congo=t61rcWkgMzE");
        assert_eq!(context.to_string(), text);
        assert!(!parse(&format!("00-{TRACE}-{SPAN}-00")).unwrap().sampled);
    }

    #[test]
    fn later_versions_are_read_and_no_version_is_none() {
        assert!(parse(&format!("01-{TRACE}-{SPAN}-01-more")).is_some());
        assert!(parse(&format!("01-{TRACE}-{SPAN}-01")).is_some());
        for text in [
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}"),
            String::new(),
        ] {
            assert_eq!(parse(&text), None, "{text}");
        }
    }

    #[test]
    fn a_malformed_state_costs_the_state_alone() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let long = "a=".repeat(300);
        for state in ["a=\n", "ä=1", long.as_str()] {
            let context = TraceContext::parse(&text, Some(state)).unwrap();
            assert_eq!(context.state, "", "{state}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1..=u128::MAX, span in 1..=u64::MAX, sampled: bool) {
            let context = TraceContext { trace, span, sampled, state: String::new() };
            prop_assert_eq!(parse(&context.to_string()), Some(context));
        }

        #[test]
        fn any_text_is_read_without_harm(text in ".{0,80}|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-.{0,9}") {
            if let Some(context) = parse(&text) {
                prop_assert!(context.trace != 0 && context.span != 0);
            }
        }
    }
}
