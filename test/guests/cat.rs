//! Copies stdin to stdout until end of file, then says on stderr how many bytes it were.

use std::io::{copy, stdin, stdout, Write};

fn main() {
    let mut output = stdout().lock();
    let bytes = copy(&mut stdin().lock(), &mut output).expect("copy stdin to stdout");
    output.flush().expect("flush stdout");
    eprintln!("end of file after {} bytes", bytes);
}
