//! Core dumps, as `lighter debug show` reads them: any bytes, as a guest that took its process over
//! may have written them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;

/// `lighter` is a program and no library: so these are its files.
#[path = "../../../crates/node/src/debug/core_dump.rs"]
mod core_dump;
#[path = "../../../crates/node/src/text.rs"]
#[allow(dead_code)]
mod text;

fuzz_target!(|bytes: &[u8]| {
    assert!(bytes.len() as u64 <= core_dump::MAX_BYTES);
    for bytes in [bytes, &[b"\0asm\x01\0\0\0", bytes].concat()] {
        if let Ok(summary) = bounded(bytes.len(), 64, || core_dump::summary(bytes)) {
            assert!(summary.contains(" frames, "), "{summary}");
        }
    }
});
