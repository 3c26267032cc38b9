//! Prints `ready`, sleeps as many seconds (a decimal fraction is fine) as the first argument
//! says, prints `done`.

use std::time::Duration;

fn main() {
    let seconds: f64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("the first argument is a number of seconds");
    println!("ready");
    std::thread::sleep(Duration::from_secs_f64(seconds));
    println!("done");
}
