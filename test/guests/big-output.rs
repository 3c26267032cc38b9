//! Writes as many MiB to stdout as the first argument says, in lines of eight bytes that are
//! their own number in hexadecimal (`0000000`, `0000001`, ...), so that a loss can be located.

use std::io::{stdout, Write};

const LINES_PER_MIB: usize = (1 << 20) / 8;

fn main() {
    let mebibytes: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("the first argument is a number of MiB");
    let mut output = stdout().lock();
    let mut block = Vec::with_capacity(1 << 20);
    for mebibyte in 0..mebibytes {
        block.clear();
        for line in 0..LINES_PER_MIB {
            writeln!(block, "{:07x}", mebibyte * LINES_PER_MIB + line).expect("format a line");
        }
        output.write_all(&block).expect("write to stdout");
    }
    output.flush().expect("flush stdout");
}
