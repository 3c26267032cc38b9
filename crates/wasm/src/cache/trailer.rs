//! The last bytes of an artifact: what it is, so that it cannot be taken for another one.
//!
//! They stand in the file itself because one rename then publishes both. Wasmtime reads the
//! ELF file before them and ignores what follows it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::key::Key;
use crate::classify::World;

/// Bytes of a trailer.
pub(super) const LENGTH: u64 = 512;

const TITLE: &str = "\nlighter artifact 1";

/// What an artifact says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    pub(super) key: Key,
    pub(super) world: World,
    /// Length of the Wasm file.
    pub(super) source_bytes: u64,
    /// Length of the code before the trailer.
    pub(super) code_bytes: u64,
    /// BLAKE3 of the code, as 64 hexadecimal digits.
    pub(super) checksum: String,
    /// The compatibility hash of the compile worker's engine.
    pub(super) engine: String,
    /// When it was written, in seconds since 1970. The file is given this very time of
    /// modification, so a file with another one has been written to since.
    pub(super) written: u64,
    /// How long the compilation took.
    pub(super) milliseconds: u64,
}

impl Trailer {
    /// When it was written.
    pub fn written_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.written)
    }

    /// The trailer as it stands in the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{TITLE}\n");
        for (name, value) in [
            ("key", self.key.to_string()),
            ("world", self.world.name().to_owned()),
            ("source-bytes", self.source_bytes.to_string()),
            ("code-bytes", self.code_bytes.to_string()),
            ("checksum", self.checksum.clone()),
            ("engine", self.engine.clone()),
            ("written", self.written.to_string()),
            ("milliseconds", self.milliseconds.to_string()),
        ] {
            writeln!(text, "{name} {value}").expect("text grows as it must");
        }
        let mut bytes = text.into_bytes();
        assert!(bytes.len() < LENGTH as usize, "a trailer has a fixed size");
        bytes.resize(LENGTH as usize - 1, b' ');
        bytes.push(b'\n');
        bytes
    }

    /// Reads what [`Trailer::bytes`] has written.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let values: BTreeMap<&str, &str> = text
            .strip_prefix(TITLE)?
            .strip_prefix('\n')?
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        let number = |name: &str| values.get(name)?.parse().ok();
        let hexadecimal = |name: &str, digits| {
            let value = *values.get(name)?;
            let fits = value.len() == digits && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            fits.then(|| value.to_owned())
        };
        let written = number("written")?;
        // A damaged one may have more seconds than the clock.
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(written))?;
        Some(Self {
            key: Key::parse(values.get("key")?)?,
            world: World::from_name(values.get("world")?)?,
            source_bytes: number("source-bytes")?,
            code_bytes: number("code-bytes")?,
            checksum: hexadecimal("checksum", 64)?,
            engine: hexadecimal("engine", 16)?,
            written,
            milliseconds: number("milliseconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Compilation;
    use crate::source::Digest;

    #[test]
    fn a_trailer_is_read_back() {
        for compilation in Compilation::all() {
            let trailer = Trailer {
                key: Key::of(&Digest::of(b"wasm").to_string(), compilation),
                world: World::Command3,
                source_bytes: u64::MAX,
                code_bytes: u64::MAX,
                checksum: "f".repeat(64),
                engine: "0".repeat(16),
                written: i64::MAX as u64,
                milliseconds: u64::MAX,
            };
            let bytes = trailer.bytes();
            assert_eq!(bytes.len() as u64, LENGTH);
            assert_eq!(Trailer::parse(&bytes), Some(trailer));
            assert_eq!(Trailer::parse(&bytes[1..]), None);
            assert_eq!(Trailer::parse(&bytes[..300]), None);
            assert_eq!(Trailer::parse(&vec![0; LENGTH as usize]), None);
            let text = String::from_utf8(bytes).unwrap();
            let never = text.replace(&i64::MAX.to_string(), &u64::MAX.to_string());
            assert_eq!(Trailer::parse(never.as_bytes()), None);
            for (whole, damaged) in [
                ("artifact 1", "artifact 12"),
                ("checksum f", "checksum \r"),
                ("engine 0", "engine "),
            ] {
                let damaged = text.replace(whole, damaged);
                assert_eq!(Trailer::parse(damaged.as_bytes()), None);
            }
        }
    }
}
