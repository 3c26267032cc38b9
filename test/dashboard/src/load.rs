//! Clients of the services, of all kinds.

use std::thread;
use std::time::{Duration, Instant};

use lighter_testkit::Call;

use crate::pods::{CART, SHOP};

/// Clients that come, stay for some time and go again; some of what they ask for is not there,
/// traps, or takes too long for them.
pub fn run(time: Duration) {
    let end = Instant::now() + time;
    thread::scope(|scope| {
        scope.spawn(|| waves(SHOP, end));
        scope.spawn(|| waves(CART, end));
        scope.spawn(|| each(end, Duration::from_millis(20), "/none"));
        scope.spawn(|| each(end, Duration::from_secs(7), "/trap"));
        scope.spawn(|| each(end, Duration::from_millis(200), "/sleep?1500"));
    });
}

/// One to four connections at a time, each number for a while.
fn waves(port: u16, end: Instant) {
    for connections in (1..=4u32).cycle() {
        let Some(left) = end.checked_duration_since(Instant::now()) else {
            return;
        };
        let seconds = left.as_secs().clamp(1, 12);
        let url = format!("http://127.0.0.1:{port}/");
        let flags = format!("-t1 -c{connections} -d{seconds}s {url}");
        let limit = Duration::from_secs(seconds + 30);
        Call::new("wrk", flags.split(' ')).limit(limit).ok();
    }
}

fn each(end: Instant, pause: Duration, path: &str) {
    while Instant::now() < end {
        let url = format!("http://127.0.0.1:{SHOP}{path}");
        Call::new("curl", ["--silent", "--max-time", "1", &url]).output();
        thread::sleep(pause);
    }
}
