//! Spans that wait to be exported, by who made them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lighter_trace::{Datagram, Origin, Span};

/// Spans at which it is time to export, as OpenTelemetry's own processor has it.
const FULL: usize = 512;
/// Most spans that wait.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Batch {
    spans: HashMap<Origin, Vec<Span>>,
    count: usize,
    lost: u64,
}

impl Batch {
    /// Adds a datagram; `lost` is how many spans were lost before it.
    pub(super) fn add(&mut self, datagram: Option<Datagram>, lost: u64) {
        self.lost = self.lost.saturating_add(lost);
        let Some(datagram) = datagram else {
            return;
        };
        self.lost = self.lost.saturating_add(datagram.lost);
        let mut spans = datagram.spans;
        let room = MOST - self.count;
        if spans.len() > room {
            self.lost = self.lost.saturating_add((spans.len() - room) as u64);
            spans.truncate(room);
        }
        self.count += spans.len();
        if !spans.is_empty() {
            self.spans.entry(datagram.origin).or_default().extend(spans);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= FULL
    }

    /// What has gathered, and how many spans were lost.
    pub(super) fn take(&mut self) -> (HashMap<Origin, Vec<Span>>, u64) {
        let Self { spans, lost, .. } = std::mem::take(self);
        (spans, lost)
    }
}

/// How often it is told that spans were lost, at most: a service that makes too many does so for hours.
const TELL: Duration = Duration::from_secs(60);

/// Spans that were lost, until somebody is told.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u64,
    told: Option<Instant>,
}

impl Losses {
    /// Adds some, and answers how many are to be told now.
    pub(super) fn add(&mut self, lost: u64, now: Instant) -> Option<u64> {
        self.count = self.count.saturating_add(lost);
        let is_early = self
            .told
            .is_some_and(|told| now.duration_since(told) < TELL);
        if self.count == 0 || is_early {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use lighter_trace::SpanKind;

    use super::*;

    fn datagram(container: &str, spans: usize, lost: u64) -> Option<Datagram> {
        let span = Span {
            trace: 1,
            id: 2,
            parent: 0,
            state: String::new(),
            name: "a".into(),
            kind: SpanKind::Internal,
            begin: 0,
            end: 1,
            attributes: Vec::new(),
            error: None,
        };
        Some(Datagram {
            origin: Origin {
                namespace: "default".to_owned(),
                container: Some(container.to_owned()),
            },
            spans: vec![span; spans],
            lost,
        })
    }

    #[test]
    fn losses_are_told_at_once_and_then_once_a_minute() {
        let mut losses = Losses::default();
        let begin = Instant::now();
        assert_eq!(losses.add(0, begin), None);
        assert_eq!(losses.add(3, begin), Some(3));
        assert_eq!(losses.add(4, begin + TELL / 2), None);
        assert_eq!(losses.add(0, begin + TELL), Some(4));
        assert_eq!(losses.add(0, begin + 3 * TELL), None);
        assert_eq!(losses.add(u64::MAX, begin + 3 * TELL), Some(u64::MAX));
    }

    #[test]
    fn spans_gather_by_container_and_are_bounded() {
        let mut batch = Batch::default();
        batch.add(datagram("a", 2, 1), 2);
        batch.add(datagram("b", 1, 0), 0);
        batch.add(datagram("a", 1, 0), 0);
        batch.add(None, 1);
        assert!(!batch.is_full());
        let (spans, lost) = batch.take();
        let mut counts: Vec<usize> = spans.values().map(Vec::len).collect();
        counts.sort_unstable();
        assert_eq!((counts, lost), (vec![1, 3], 4));
        batch.add(datagram("a", FULL, 0), 0);
        assert!(batch.is_full());
        batch.add(datagram("b", MOST, u64::MAX), 0);
        let (spans, lost) = batch.take();
        assert_eq!(spans.values().map(Vec::len).sum::<usize>(), MOST);
        assert_eq!(lost, u64::MAX);
        assert_eq!(batch.take().1, 0);
    }
}
