//! How far a compilation has come, for those who wait for it.
//!
//! A job notes in its lock when it began and the process id of its worker.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lock::Lock;

/// A compilation that is under way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How long it has been compiled. None before that, while it is read.
    age: Option<Duration>,
    /// Processor time that it has used.
    used: Option<Duration>,
    /// Seconds of processor time that it may use.
    limit: u64,
}

/// Notes that a worker has begun.
pub(super) fn note(lock: &Lock, worker: u32) {
    lock.note(&format!("{} {worker}\n", now().as_secs()));
}

impl Progress {
    /// That of the compilation whose lock is at `path`.
    pub(super) fn of(path: &Path, limit: u64) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut words = text.split_whitespace();
        let began = words.next().and_then(|word| word.parse().ok());
        let worker = words.next().and_then(|word| word.parse().ok());
        Self {
            age: began.map(|began| now().saturating_sub(Duration::from_secs(began))),
            used: worker.and_then(processor_time),
            limit,
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(age) = self.age else {
            return Ok(());
        };
        write!(formatter, ": {} s so far", age.as_secs())?;
        if let Some(used) = self.used {
            let (used, limit) = (used.as_secs(), self.limit);
            write!(
                formatter,
                ", {used} s of processor time of {limit} s at most"
            )?;
        }
        Ok(())
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The processor time of all threads of a process.
fn processor_time(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may have spaces and parentheses in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| -> Option<u64> { fields.get(field)?.parse().ok() };
    // utime and stime, the 14th and 15th of all (`man 5 proc`).
    let ticks = ticks(11)? + ticks(12)?;
    /// The same on every machine with Linux.
    const TICKS_PER_SECOND: u64 = 100;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_a_worker_has_used_is_found_by_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path, Instant::now()).unwrap();
        assert_eq!(Progress::of(&path, 480).to_string(), "");
        while processor_time(std::process::id()).unwrap() < Duration::from_secs(1) {
            std::hint::black_box(path.clone());
        }
        note(&lock, std::process::id());
        let text = Progress::of(&path, 480).to_string();
        assert!(text.starts_with(": 0 s so far, "), "{text}");
        assert!(
            text.ends_with(" s of processor time of 480 s at most"),
            "{text}"
        );
        assert!(!text.contains(" 0 s of processor time"), "{text}");
        lock.note("1 0\n");
        let text = Progress::of(&path, 480).to_string();
        assert!(!text.contains("processor"), "{text}");
        lock.release();
    }
}
