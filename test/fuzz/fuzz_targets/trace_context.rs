//! The trace context of a request: any two headers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;
use lighter_trace::TraceContext;

fuzz_target!(|headers: (&str, Option<&str>)| {
    let (traceparent, tracestate) = headers;
    let length = traceparent.len() + tracestate.map_or(0, str::len);
    let parse = || TraceContext::parse(traceparent, tracestate);
    let Some(context) = bounded(length, 4, parse) else {
        return;
    };
    assert!(context.trace != 0 && context.span != 0);
    // Both go into headers of other requests.
    let is_field = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
    assert!(context.state.len() <= 512 && context.state.bytes().all(is_field));
    assert!(context.state.is_empty() || Some(context.state.as_str()) == tracestate);
    let written = context.to_string();
    assert_eq!(written.len(), 55);
    assert_eq!(
        TraceContext::parse(&written, Some(&context.state)),
        Some(context)
    );
});
