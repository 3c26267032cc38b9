//! Which functions a profile is about.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::text::table;

/// Functions that are shown.
const SHOWN: usize = 10;

/// The functions that most samples were taken in.
pub fn summary(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok(of(&text))
}

/// Samples in a function itself, and in it and what it calls.
#[derive(Clone, Copy, Default)]
struct Samples {
    own: u64,
    total: u64,
}

fn of(text: &str) -> String {
    let mut functions: BTreeMap<&str, Samples> = BTreeMap::new();
    let mut all = 0;
    for (stack, count) in text.lines().filter_map(parse) {
        all += count;
        let mut met = BTreeSet::new();
        for function in stack.split(';').filter(|function| met.insert(*function)) {
            functions.entry(function).or_default().total += count;
        }
        if let Some(innermost) = stack.rsplit(';').next() {
            functions.entry(innermost).or_default().own += count;
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
    use super::*;

    #[test]
    fn functions_are_ordered_by_their_own_time() {
        let text = of("main;f 30\nmain;f;g 60\nmain;h;h 10\nbroken\n");
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
        assert!(of("").starts_with("0 samples"));
    }
}
