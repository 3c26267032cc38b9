//! Which pages of a slot are worth keeping. Pure.
//!
//! When an instance has ended, Wasmtime looks for the pages that it wrote to. The first 32 runs of
//! such pages it fills anew where they are; all pages behind them it gives back to the
//! system, from which the next instance takes them again, one page fault each. An interpreter
//! writes to some 150 runs, most of them of one page. So neighbouring runs are made one, by
//! writing to what is between them once: to fill a page anew costs a tenth of taking it.

use std::collections::BTreeMap;
use std::ops::Range;

/// Pages of a slot, by their number in it.
pub(crate) type Pages = Range<u32>;

/// Ranges that are kept: less than Wasmtime handles, which leaves some for what an instance writes
/// to that others did not.
const MOST_RANGES: usize = 28;
/// Pages that are looked at, at most; a guest that writes to more has other costs.
const MOST_SEEN: usize = 16 << 10;
/// As often a page must have been found written to.
const OFTEN: u32 = 2;

/// What is known of the instances of one program.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    seen: BTreeMap<u32, u32>,
    ranges: Vec<Pages>,
}

impl Clusters {
    /// One instance has written to these pages, in order; no more than `most_pages` are kept.
    pub(crate) fn learn(&mut self, written: &[Pages], most_pages: u32) {
        let mut is_new = false;
        let outside = written.iter().cloned().flatten();
        for page in outside.filter(|page| !contains(&self.ranges, *page)) {
            if self.seen.len() < MOST_SEEN || self.seen.contains_key(&page) {
                let count = self.seen.entry(page).or_default();
                *count = count.saturating_add(1);
                is_new |= *count == OFTEN;
            }
        }
        if is_new {
            let often = self.seen.iter().filter(|(_, count)| **count >= OFTEN);
            let pages = often.map(|(page, _)| *page..page + 1);
            self.ranges = cover(&joined(pages), MOST_RANGES, most_pages);
        }
    }

    /// The ranges to keep, in order.
    pub(crate) fn ranges(&self) -> &[Pages] {
        &self.ranges
    }
}

/// Whether one of `ranges`, which are in order, has the page.
fn contains(ranges: &[Pages], page: u32) -> bool {
    let next = ranges.partition_point(|range| range.end <= page);
    ranges.get(next).is_some_and(|range| range.contains(&page))
}

/// Whether `ranges`, which are in order, have all pages of `wanted`.
pub(crate) fn covers(ranges: &[Pages], wanted: &Pages) -> bool {
    let next = ranges.partition_point(|range| range.end <= wanted.start);
    let found = ranges.get(next);
    found.is_some_and(|range| range.start <= wanted.start && range.end >= wanted.end)
}

/// Whether `ranges`, which are in order, have any page of `wanted`.
pub(crate) fn meets(ranges: &[Pages], wanted: &Pages) -> bool {
    let next = ranges.partition_point(|range| range.end <= wanted.start);
    ranges
        .get(next)
        .is_some_and(|range| range.start < wanted.end)
}

/// Pages in order, with neighbours in one range.
pub(crate) fn joined(pages: impl Iterator<Item = Pages>) -> Vec<Pages> {
    let mut joined: Vec<Pages> = Vec::new();
    for next in pages {
        match joined.last_mut() {
            Some(last) if last.end == next.start => last.end = next.end,
            _ => joined.push(next),
        }
    }
    joined
}

/// At most `most_ranges` ranges of at most `most_pages` pages together that have what was written,
/// with the smallest gaps closed. Where that is too much, the last pages are left out: what is left
/// out before others would count as a run of its own, and what is behind the last of 32 runs is
/// given back anyway.
fn cover(written: &[Pages], most_ranges: usize, most_pages: u32) -> Vec<Pages> {
    let mut count = written.len();
    loop {
        let ranges = merged(&written[..count], most_ranges);
        if ranges.iter().map(length).sum::<u32>() <= most_pages {
            return ranges;
        }
        count -= 1 + count / 16;
    }
}

fn length(range: &Pages) -> u32 {
    range.end - range.start
}

/// `written` as `most` ranges, with the smallest gaps closed.
fn merged(written: &[Pages], most: usize) -> Vec<Pages> {
    let gap = |index: usize| written[index].start - written[index - 1].end;
    let mut cuts: Vec<usize> = (1..written.len()).collect();
    cuts.sort_by_key(|index| std::cmp::Reverse(gap(*index)));
    cuts.truncate(most.saturating_sub(1));
    cuts.sort_unstable();
    let mut ranges = Vec::new();
    let mut first = 0;
    for next in cuts.into_iter().chain([written.len()]) {
        if let Some(runs) = written.get(first..next).filter(|runs| !runs.is_empty()) {
            ranges.push(runs[0].start..runs[runs.len() - 1].end);
        }
        first = next;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(pages: &[u32]) -> Vec<Pages> {
        let mut pages = pages.to_vec();
        pages.sort_unstable();
        pages.dedup();
        joined(pages.into_iter().map(|page| page..page + 1))
    }

    #[test]
    fn small_gaps_are_closed_first() {
        let written = runs(&[1, 3, 100, 104, 200]);
        assert_eq!(cover(&written, 3, 100), [1..4, 100..105, 200..201]);
        assert_eq!(
            cover(&written, 4, 100),
            [1..4, 100..101, 104..105, 200..201]
        );
        // Nine pages are too much: the last one is left out.
        assert_eq!(cover(&written, 3, 8), [1..4, 100..101, 104..105]);
    }

    #[test]
    fn ranges_meet_or_cover_others() {
        let ranges = runs(&[3, 4, 5, 9]);
        for (wanted, met, covered) in [
            (0..3, false, false),
            (0..4, true, false),
            (3..6, true, true),
            (4..5, true, true),
            (5..7, true, false),
            (6..9, false, false),
            (6..10, true, false),
            (10..11, false, false),
        ] {
            assert_eq!(meets(&ranges, &wanted), met, "{wanted:?}");
            assert_eq!(covers(&ranges, &wanted), covered, "{wanted:?}");
        }
    }

    #[test]
    fn what_was_written_once_is_not_kept() {
        let mut clusters = Clusters::default();
        clusters.learn(&runs(&[1, 2, 9]), 100);
        assert_eq!(clusters.ranges(), []);
        clusters.learn(&runs(&[1, 2]), 100);
        assert_eq!(clusters.ranges(), runs(&[1, 2]));
        clusters.learn(&runs(&[9]), 100);
        assert_eq!(clusters.ranges(), [1..3, 9..10]);
    }

    proptest! {
        #[test]
        fn ranges_are_few_and_in_order_and_begin_and_end_at_what_was_written(
            pages in proptest::collection::vec(0..4000u32, 0..300),
            most_ranges in 1..40usize,
            most_pages in 0..1000u32,
        ) {
            let written = runs(&pages);
            let ranges = cover(&written, most_ranges, most_pages);
            prop_assert!(ranges.len() <= most_ranges);
            prop_assert!(ranges.iter().map(length).sum::<u32>() <= most_pages);
            prop_assert!(ranges.windows(2).all(|two| two[0].end < two[1].start));
            for range in &ranges {
                prop_assert!(contains(&written, range.start));
                prop_assert!(contains(&written, range.end - 1));
            }
            if written.len() <= most_ranges && pages.len() as u32 <= most_pages {
                prop_assert_eq!(ranges, written);
            }
        }
    }
}
