//! Spans on their way: lines of JSON, gathered until they are worth a packet.

use serde::{Deserialize, Serialize};

use crate::span::Span;

/// Bytes that a packet is sent at, half of what one may have.
const FULL: usize = crate::datagram::MOST_LINES / 2;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Line {
    Span(Box<Span>),
    /// So many spans did not get here.
    Lost(u64),
}

/// Spans that have not left yet.
#[derive(Debug, Default)]
pub struct Buffer {
    lines: Vec<u8>,
    /// In `lines`.
    spans: u64,
    lost: u64,
}

/// Lines that are worth sending.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet {
    /// The lines.
    pub lines: Vec<u8>,
    /// The spans that nobody hears of if it does not arrive: those in it, and those that it says are lost.
    pub spans: u64,
}

/// What is to be done about a buffer that has got a span.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It has to be taken some time later: it was empty.
    First,
    /// Nothing.
    More,
    /// It is a packet.
    Full(Packet),
}

impl Buffer {
    /// Adds a span.
    pub fn push(&mut self, span: Span) -> Pushed {
        let was_empty = self.lines.is_empty();
        match self.add(&Line::Span(Box::new(span))) {
            true => self.spans += 1,
            false => self.lost += 1,
        }
        let full = self.lines.len() >= FULL;
        match full.then(|| self.take()).flatten() {
            Some(packet) => Pushed::Full(packet),
            None if was_empty => Pushed::First,
            None => Pushed::More,
        }
    }

    /// What has gathered, if there is something.
    pub fn take(&mut self) -> Option<Packet> {
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            self.add(&Line::Lost(lost));
        }
        let spans = std::mem::take(&mut self.spans) + lost;
        let lines = std::mem::take(&mut self.lines);
        (!lines.is_empty()).then_some(Packet { lines, spans })
    }

    /// So many spans did not leave: the next packet says it.
    pub fn lose_more(&mut self, count: u64) {
        self.lost += count;
    }

    fn add(&mut self, line: &Line) -> bool {
        let begin = self.lines.len();
        let written = serde_json::to_writer(&mut self.lines, line);
        // One that is longer than half a packet is nothing that was made here.
        if written.is_err() || self.lines.len() - begin >= FULL {
            self.lines.truncate(begin);
            return false;
        }
        self.lines.push(b'\n');
        true
    }
}

/// Reads lines that anybody may have written: the spans, and how many were lost or are none.
pub(crate) fn read(lines: &[u8]) -> (Vec<Span>, u64) {
    let (mut spans, mut lost) = (Vec::new(), 0_u64);
    for line in lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match serde_json::from_slice(line) {
            Ok(Line::Span(span)) => spans.push(*span),
            Ok(Line::Lost(count)) => lost = lost.saturating_add(count),
            Err(_) => lost = lost.saturating_add(1),
        }
    }
    (spans, lost)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::span::{Attribute, SpanKind};

    pub(crate) fn span(name: &str) -> Span {
        Span {
            trace: u128::MAX - 7,
            id: u64::MAX - 7,
            parent: 0,
            state: "a=b".to_owned(),
            name: name.to_owned().into(),
            kind: SpanKind::Client,
            begin: 5,
            end: 6,
            attributes: vec![
                ("one".into(), Attribute::Number(-1)),
                ("yes".into(), Attribute::Truth(true)),
                ("text".into(), Attribute::from("a\nb")),
            ],
            error: Some("no".to_owned()),
        }
    }

    #[test]
    fn what_was_pushed_is_read_again() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.take(), None);
        assert_eq!(buffer.push(span("a")), Pushed::First);
        assert_eq!(buffer.push(span("b")), Pushed::More);
        let (spans, lost) = read(&buffer.take().unwrap().lines);
        assert_eq!(spans, [span("a"), span("b")]);
        assert_eq!(lost, 0);
        assert_eq!(buffer.push(span("c")), Pushed::First);
    }

    #[test]
    fn a_full_buffer_is_a_packet_and_what_is_lost_is_told() {
        let mut buffer = Buffer::default();
        let mut count = 1;
        let packet = loop {
            if let Pushed::Full(packet) = buffer.push(span("a")) {
                break packet;
            }
            count += 1;
        };
        assert!(packet.lines.len() >= FULL && packet.lines.len() < crate::datagram::MOST_LINES);
        assert_eq!(packet.spans, count);
        buffer.lose_more(packet.spans);
        let packet = buffer.take().unwrap();
        assert_eq!(
            packet.spans, count,
            "what says that they are lost is lost, too"
        );
        buffer.lose_more(packet.spans);
        buffer.push(span("b"));
        assert_eq!(
            read(&buffer.take().unwrap().lines),
            (vec![span("b")], count)
        );
        let mut long = span("a");
        long.state = "x".repeat(FULL);
        buffer.push(long);
        assert_eq!(read(&buffer.take().unwrap().lines), (vec![], 1));
    }

    proptest! {
        #[test]
        fn any_lines_are_read_without_harm(lines in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(&lines);
        }

        #[test]
        fn numbers_of_lost_spans_may_be_any(first: u64, second: u64) {
            let lines = format!("{{\"lost\":{first}}}\n{{\"lost\":{second}}}\nnone\n");
            prop_assert_eq!(read(lines.as_bytes()).1, first.saturating_add(second).saturating_add(1));
        }
    }
}
