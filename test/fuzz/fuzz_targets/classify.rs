//! What a file is: any bytes, as an image may hold them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| lighter_fuzz::classification::check(bytes));
