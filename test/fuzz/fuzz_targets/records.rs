//! What the cache of artifacts and the compile worker write for later: any bytes, as a disk or a
//! worker that was taken over may have them.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;
use lighter_wasm::cache::{KnownSource, Trailer};
use lighter_wasm::composition::Composed;
use lighter_wasm::report::Report;

const FACTOR: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    bounded(bytes.len(), FACTOR, || {
        if let Some(trailer) = Trailer::parse(bytes) {
            assert!(trailer.written_at() >= SystemTime::UNIX_EPOCH);
            assert_eq!(Trailer::parse(&trailer.bytes()), Some(trailer));
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Some(known) = KnownSource::parse(text) {
            assert_eq!(known.text(), text);
        }
        if let Some(report) = Report::parse(text) {
            assert_eq!(report.to_string(), text);
        }
        if let Some(composed) = Composed::parse(text) {
            assert_eq!(composed.to_string(), text);
        }
    });
});
