//! Spans: any bytes that a guest's process writes to its socket, and any that come to `lighter
//! traces`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;
use lighter_trace::{Buffer, Datagram, Origin, Packet, Pushed, Span};
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::Status;

/// `lighter` is a program and no library: so this is its file.
#[path = "../../../crates/node/src/traces/span.rs"]
mod span;

/// An attribute is seven bytes of JSON, and two strings.
const FACTOR: usize = 64;

/// Most bytes of the lines in a datagram.
const MAX_LINES: usize = lighter_trace::MOST_BYTES - 1024;

fuzz_target!(|bytes: &[u8]| {
    if let Some(datagram) = bounded(bytes.len(), FACTOR, || Datagram::read(bytes)) {
        check(bytes, datagram.spans, datagram.lost);
    }
    // The shim has named the container before it passes on what the guest wrote.
    let origin = Origin {
        namespace: "k8s.io".to_owned(),
        container: Some("its\nown".to_owned()),
    };
    let written = Datagram::write(&origin, bytes);
    let datagram = bounded(written.len(), FACTOR, || Datagram::read(&written))
        .expect("the shim has written its head");
    assert_eq!(datagram.origin, origin);
    check(bytes, datagram.spans, datagram.lost);
});

fn check(bytes: &[u8], spans: Vec<Span>, lost: u64) {
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
    assert!(spans.len() <= lines);
    check_buffer(&spans, lost);
    let scope = InstrumentationScope::builder("lighter").build();
    for span in spans {
        let data = span::data(span, &scope);
        assert!(data.start_time <= data.end_time);
        assert!(data.attributes.len() <= 128 && data.name.len() <= 4096);
        assert!(!matches!(&data.status, Status::Error { description } if description.len() > 4096));
        for attribute in &data.attributes {
            assert!(attribute.key.as_str().len() <= 4096);
            assert!(attribute.value.as_str().len() <= 4096);
        }
    }
}

/// What goes into a buffer comes out of it, or is counted.
fn check_buffer(spans: &[Span], lost: u64) {
    let mut buffer = Buffer::default();
    buffer.lose_more(lost / 2);
    let mut read = Vec::new();
    let mut read_lost = 0;
    let mut take = |packet: Packet| {
        assert!(packet.lines.len() <= MAX_LINES);
        let origin = Origin {
            namespace: String::new(),
            container: None,
        };
        let written = Datagram::write(&origin, &packet.lines);
        let datagram = Datagram::read(&written).expect("it was written here");
        assert_eq!(packet.spans, datagram.spans.len() as u64 + datagram.lost);
        read.extend(datagram.spans);
        read_lost += datagram.lost;
    };
    for span in spans {
        if let Pushed::Full(packet) = buffer.push(span.clone()) {
            take(packet);
        }
    }
    if let Some(packet) = buffer.take() {
        take(packet);
    }
    let too_long = spans.len() - read.len();
    assert_eq!(read_lost, lost / 2 + too_long as u64);
    assert!(too_long > 0 || read == spans);
}
