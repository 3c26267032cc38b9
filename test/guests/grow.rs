//! Grows its linear memory MiB by MiB to as many MiB more as the first argument says and
//! writes to every page. Prints `grown N` and sleeps as many seconds as the second argument
//! says (0 without one). When the host refuses it prints `refused at N` and exits 1.

use std::arch::wasm32::memory_grow;
use std::time::Duration;

const PAGE: usize = 65536;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mebibytes = arguments.next().expect("an argument").expect("a number of MiB");
    for mebibyte in 0..mebibytes {
        let first = memory_grow::<0>(16);
        if first == usize::MAX {
            println!("refused at {}", mebibyte);
            std::process::exit(1);
        }
        for offset in (0..16 * PAGE).step_by(4096) {
            // SAFETY: memory_grow just added these sixteen pages, and the allocator of std
            // grows the memory on its own and never takes pages that it did not ask for.
            unsafe { ((first * PAGE + offset) as *mut u8).write_volatile(1) };
        }
    }
    println!("grown {}", mebibytes);
    if let Some(seconds) = arguments.next() {
        std::thread::sleep(Duration::from_secs(seconds.expect("a number of seconds") as u64));
    }
}
