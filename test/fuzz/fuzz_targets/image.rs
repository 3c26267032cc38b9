//! Index, manifest and config of an image: any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lighter_fuzz::image::check(bytes));
