//! What the compile worker says about an artifact that it has made, as one line of text.

use std::fmt;

use crate::engine::VERSION;

/// Exit status of a worker that could not do its work for a reason that is not its input's.
/// `EX_OSERR` of sysexits.h.
pub const HOST_FAULT: u8 = 71;

/// The same where there is no room for the result. `EX_CANTCREAT` of sysexits.h.
pub const NO_ROOM: u8 = 73;

/// What an artifact was made of, and by what.
///
/// It is no proof: a worker that hostile Wasm has taken over writes what it likes. It finds a
/// mix-up (a worker of another release, or one that read something else) before anything of it
/// is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// SHA-256 of the Wasm that was read, as 64 hexadecimal digits.
    pub source: String,
    /// `Engine::precompile_compatibility_hash` of the worker's engine, as 16 hexadecimal
    /// digits. The shim cannot compute it: the function exists only beside a compiler.
    pub engine: String,
    /// The release of the worker.
    pub version: String,
}

impl Report {
    /// What a worker of this release reports.
    pub fn new(source: String, engine: String) -> Self {
        Self {
            source,
            engine,
            version: VERSION.to_owned(),
        }
    }

    /// Reads what `Display` has written.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("compiled ")?.splitn(3, ' ');
        let hexadecimal = |word: &str, digits| {
            (word.len() == digits && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .then(|| word.to_owned())
        };
        Some(Self {
            source: hexadecimal(words.next()?, 64)?,
            engine: hexadecimal(words.next()?, 16)?,
            version: words.next()?.to_owned(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            engine,
            version,
        } = self;
        write!(formatter, "compiled {source} {engine} {version}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back() {
        let report = Report::new("0a".repeat(32), "0123456789abcdef".to_owned());
        assert_eq!(Report::parse(&report.to_string()), Some(report.clone()));
        assert!(report.version.contains(' '), "the version is the rest");
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let source = "0a".repeat(32);
        for line in [
            "",
            "compiled",
            "warning: something",
            &format!("compiled {source} 0123456789abcdef"),
            &format!("compiled {source} 0123 wasmtime 48"),
            &format!("compiled {} 0123456789abcdef wasmtime", "zz".repeat(32)),
        ] {
            assert_eq!(Report::parse(line), None, "{line}");
        }
    }
}
