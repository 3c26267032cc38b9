//! Clocks that go in steps of a millisecond.

use std::time::{Duration, Instant, SystemTime};

use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

const STEP: Duration = Duration::from_millis(1);

/// Time that is known to the millisecond, too coarse to tell a cache hit from a miss.
pub(crate) struct CoarseClock {
    start: Instant,
}

impl CoarseClock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

fn in_steps(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl HostWallClock for CoarseClock {
    fn resolution(&self) -> Duration {
        STEP
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        in_steps(now.unwrap_or_default())
    }
}

impl HostMonotonicClock for CoarseClock {
    fn resolution(&self) -> u64 {
        STEP.as_nanos() as u64
    }

    fn now(&self) -> u64 {
        in_steps(self.start.elapsed()).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_in_steps() {
        let clock = CoarseClock::new();
        for _ in 0..1000 {
            assert_eq!(HostMonotonicClock::now(&clock) % 1_000_000, 0);
            assert_eq!(HostWallClock::now(&clock).subsec_nanos() % 1_000_000, 0);
        }
    }
}
