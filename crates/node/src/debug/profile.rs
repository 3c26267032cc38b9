//! Which functions a profile is about.

use std::collections::{BTreeMap, BTreeSet};

use crate::text::table;

/// Functions that are shown.
const SHOWN: usize = 10;

/// Bytes that are read of a profile: 10,000 stacks of 128 functions, and names of some length.
pub const MAX_BYTES: u64 = 256 << 20;

/// Samples in a function itself, and in it and what it calls.
#[derive(Clone, Copy, Default)]
struct Samples {
    own: u64,
    total: u64,
}

/// The functions that most samples were taken in.
pub fn summary(text: &str) -> String {
    let mut functions: BTreeMap<&str, Samples> = BTreeMap::new();
    let mut all = 0u64;
    for (stack, count) in text.lines().filter_map(parse) {
        all = all.saturating_add(count);
        let mut met = BTreeSet::new();
        for function in stack.split(';').filter(|function| met.insert(*function)) {
            let total = &mut functions.entry(function).or_default().total;
            *total = total.saturating_add(count);
        }
        if let Some(innermost) = stack.rsplit(';').next() {
            let own = &mut functions.entry(innermost).or_default().own;
            *own = own.saturating_add(count);
        }
    }
    let mut order: Vec<(&str, Samples)> = functions.into_iter().collect();
    order.sort_by_key(|(_, samples)| std::cmp::Reverse((samples.own, samples.total)));
    let share = |samples: u64| format!("{:.1} %", samples as f64 * 100.0 / all.max(1) as f64);
    let mut rows = vec![["SELF", "TOTAL", "FUNCTION"].map(str::to_owned).to_vec()];
    for (function, samples) in order.iter().take(SHOWN) {
        rows.push(vec![
            share(samples.own),
            share(samples.total),
            (*function).to_owned(),
        ]);
    }
    format!("{all} samples\n{}", table(&rows))
}

/// A stack and how often it was met.
fn parse(line: &str) -> Option<(&str, u64)> {
    let (stack, count) = line.rsplit_once(' ')?;
    Some((stack, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A guest that took its process over wrote it.
        #[test]
        fn any_text_is_read_without_harm(text in "([a-c;]{0,6} [0-9]{1,20}\n){0,8}|.{0,100}") {
            let _ = summary(&text);
        }
    }

    #[test]
    fn functions_are_ordered_by_their_own_time() {
        let text = summary("main;f 30\nmain;f;g 60\nmain;h;h 10\nbroken\n");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "100 samples");
        assert_eq!(
            lines[2].split_whitespace().collect::<Vec<_>>(),
            ["60.0", "%", "60.0", "%", "g"]
        );
        assert_eq!(
            lines[3].split_whitespace().collect::<Vec<_>>(),
            ["30.0", "%", "90.0", "%", "f"]
        );
        assert!(lines[4].ends_with("10.0 %   h"), "{text}");
        assert!(summary("").starts_with("0 samples"));
    }
}
