//! What a core dump says at a glance.

use lighter_wasm::debugging::TRAP_SECTION;
use wasmparser::{KnownCustom, Parser, Payload};

use crate::text::size;

/// Bytes that are read of a dump: a linear memory of 32 bits, and as much of the rest.
pub const MAX_BYTES: u64 = 5 << 30;

/// The trap with its backtrace, and what else is in the dump.
///
/// # Errors
/// The bytes are no Wasm, or not all of it.
pub fn summary(bytes: &[u8]) -> Result<String, wasmparser::BinaryReaderError> {
    let (mut trap, mut memory, mut dumped) = (String::new(), 0u64, 0);
    let (mut modules, mut frames) = (0, 0);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::MemorySection(section) => {
                for each in section {
                    memory = memory.saturating_add(each?.initial.saturating_mul(1 << 16));
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    dumped += data?.data.len() as u64;
                }
            }
            Payload::CustomSection(section) if section.name() == TRAP_SECTION => {
                trap = String::from_utf8_lossy(section.data()).into_owned();
            }
            Payload::CustomSection(section) => match section.as_known() {
                KnownCustom::CoreDumpModules(section) => modules = section.modules.len(),
                KnownCustom::CoreDumpStack(section) => frames = section.frames.len(),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(format!(
        "{}\n{frames} frames, {modules} modules, {} of memory, of which {} are not zero",
        trap.trim_end(),
        size(memory),
        size(dumped)
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A guest that took its process over wrote it.
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = summary(&[b"\0asm\x01\0\0\0".as_slice(), &bytes].concat());
        }
    }

    #[test]
    fn memories_that_cannot_be_are_no_overflow() {
        // Two memories of 64 bits with 2^48 pages each, the most that the format has.
        let memory = [4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
        let section = [&[5, 17, 2], memory.as_slice(), &memory].concat();
        let dump = [b"\0asm\x01\0\0\0".as_slice(), &section].concat();
        let text = summary(&dump).unwrap();
        assert!(text.contains(&size(u64::MAX)), "{text}");
    }

    #[test]
    fn what_is_cut_is_no_core_dump() {
        assert!(summary(b"\0asm\x01\0\0").is_err());
        assert!(summary(b"").is_err());
        // The sections of names that a dump has, but nothing in them.
        let empty = summary(b"\0asm\x01\0\0\0").unwrap();
        assert!(empty.contains("0 frames, 0 modules, 0 B"), "{empty}");
    }

    #[test]
    fn the_trap_is_shown_as_the_log_had_it() {
        let mut dump = b"\0asm\x01\0\0\0".to_vec();
        let text = b"lighter: /app.wasm trapped: x\n";
        dump.extend([0, (1 + TRAP_SECTION.len() + text.len()) as u8]);
        dump.push(TRAP_SECTION.len() as u8);
        dump.extend(TRAP_SECTION.bytes());
        dump.extend(text);
        assert!(
            summary(&dump)
                .unwrap()
                .starts_with("lighter: /app.wasm trapped: x\n0 frames")
        );
    }
}
