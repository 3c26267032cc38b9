//! Components that become one: any bytes, as the compile worker reads them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| lighter_fuzz::composition::check(input));
