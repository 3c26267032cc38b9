//! Profiles, as `lighter debug show` reads them: any stacks, also of functions with long names.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;

/// `lighter` is a program and no library: so these are its files.
#[path = "../../../crates/node/src/debug/profile.rs"]
mod profile;
#[path = "../../../crates/node/src/text.rs"]
#[allow(dead_code)]
mod text;

#[derive(Arbitrary, Debug)]
struct Line<'a> {
    function: &'a str,
    /// The name is so many times as long.
    times: u16,
    outer: &'a str,
    count: u64,
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Lines(Vec<Line<'a>>),
    Any(&'a str),
}

fuzz_target!(|input: Input<'_>| {
    let text = match input {
        Input::Any(text) => text.to_owned(),
        Input::Lines(lines) => lines
            .iter()
            .take(8)
            .map(|line| {
                let (outer, count) = (line.outer, line.count);
                let function = line.function.chars().take(2).collect::<String>();
                let function = function.repeat(line.times.into());
                format!("{outer};{function} {count}\n")
            })
            .collect(),
    };
    assert!(text.len() as u64 <= profile::MAX_BYTES);
    let summary = bounded(text.len(), 64, || profile::summary(&text));
    let lines: Vec<&str> = summary.split('\n').collect();
    assert!(lines[0].ends_with(" samples"), "{summary}");
    // The head, ten functions, and what is after the last line break.
    assert!(lines.len() <= 13, "{summary}");
    for line in &lines[2..lines.len() - 1] {
        let shares: Vec<f64> = line
            .split("%")
            .take(2)
            .map(|share| share.trim().parse().expect("a share is a number"))
            .collect();
        assert!(shares[0] <= shares[1] && shares[1] <= 100.0, "{line}");
    }
});
