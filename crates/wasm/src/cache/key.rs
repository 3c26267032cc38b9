//! The name of an artifact: everything that decides what code it holds.

use std::fmt;

use crate::engine::{self, Compilation};
use crate::source::Digest;

/// What was compiled, how, and for which engine and processor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// SHA-256 of the Wasm, as 64 hexadecimal digits.
    pub(super) source: String,
    pub(super) compilation: Compilation,
    /// 16 hexadecimal digits for versions, configuration and processor.
    engine: String,
}

impl Key {
    /// The name of what this process can map for a source.
    pub(super) fn of(source: &str, compilation: Compilation) -> Self {
        Self {
            source: source.to_owned(),
            compilation,
            engine: engine_key(compilation),
        }
    }

    /// Whether this process can map it: it is of this release and for this processor.
    pub(super) fn is_usable(&self) -> bool {
        self.engine == engine_key(self.compilation)
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (rest, engine) = name.rsplit_once('-')?;
        let (source, compilation) = rest.split_once('-')?;
        let is_hexadecimal = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        (is_hexadecimal(source, 64) && is_hexadecimal(engine, 16)).then_some(Self {
            source: source.to_owned(),
            compilation: Compilation::from_text(compilation)?,
            engine: engine.to_owned(),
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            compilation,
            engine,
        } = self;
        write!(formatter, "{source}-{compilation}-{engine}")
    }
}

fn engine_key(compilation: Compilation) -> String {
    let text = format!("{}\n{}", engine::compatibility(compilation), processor());
    let mut key = Digest::of(text.as_bytes()).to_string();
    key.truncate(16);
    key
}

/// What code can be compiled for on this processor: the list is Wasmtime's.
///
/// Wasmtime refuses code that needs more than the processor has. With the features in the name,
/// a folder that moves between machines holds code for each, and none drives out the other's.
fn processor() -> String {
    macro_rules! present {
        ($($feature:tt),* $(,)?) => {
            [$(($feature, std::is_x86_feature_detected!($feature))),*]
        };
    }
    present![
        "cmpxchg16b",
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "avxvnni",
        "bmi1",
        "bmi2",
        "avx512bitalg",
        "avx512dq",
        "avx512f",
        "avx512vl",
        "avx512vbmi",
        "avx512vnni",
        "lzcnt",
    ]
    .into_iter()
    .filter_map(|(feature, present)| present.then_some(feature))
    .collect::<Vec<_>>()
    .join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_is_read_back_and_says_all() {
        let source = Digest::of(b"wasm").to_string();
        let mut names = BTreeSet::new();
        for compilation in Compilation::all() {
            let key = Key::of(&source, compilation);
            assert_eq!(Key::parse(&key.to_string()), Some(key.clone()));
            assert!(key.is_usable());
            names.insert(key.to_string());
            names.insert(key.engine);
        }
        assert_eq!(names.len(), 16, "{names:?}");
    }

    #[test]
    fn other_names_are_no_keys() {
        let source = Digest::of(b"wasm").to_string();
        for name in [
            "",
            "a-b-c",
            &source,
            &format!("{source}-fast-0123456789abcdef"),
            &format!("{source}-command-0123456789abcde"),
            &format!("{source}-command-0123456789abcdeg"),
            &format!("{}-command-0123456789abcdef", &source[1..]),
        ] {
            assert_eq!(Key::parse(name), None, "{name}");
        }
        let other = format!("{source}-command-0123456789abcdef");
        assert!(!Key::parse(&other).unwrap().is_usable());
    }

    #[test]
    fn every_x86_64_processor_has_a_feature() {
        assert!(processor().contains("sse3"), "{}", processor());
    }
}
