//! Writes as many MiB as the second argument says to the file that the first one names, has each
//! of them reach the disk before the next (fdatasync), and says on stdout when it has begun and
//! how many are written.

use std::fs::File;
use std::io::Write;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the first argument is a path");
    let mebibytes: usize = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .expect("the second argument is a number of MiB");
    let mut file = File::create(path).expect("create the file");
    println!("begun");
    for _ in 0..mebibytes {
        file.write_all(&[1; 1 << 20]).expect("write to the file");
        file.sync_data().expect("write the file to the disk");
    }
    println!("filled {}", mebibytes);
}
