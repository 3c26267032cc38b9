//! What an idle container costs.

use std::fs;
use std::thread;
use std::time::Duration;

use lighter_testkit::{Containerd, Process};

use crate::start::quantile;
use crate::subject::Subject;

/// How long the host may take to settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);

/// Cost of one container: the mean over all that run together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    /// By how much the host's MemAvailable fell, MB of 10^6 bytes.
    pub(crate) available: f64,
    /// Proportional set size of shims and containers, MB.
    pub(crate) pss: f64,
    /// Private dirty memory of shims and containers, MB.
    pub(crate) dirty: f64,
    /// Shims and containers' processes.
    pub(crate) processes: f64,
}

/// Starts `count` idle containers, measures, and removes them.
pub(crate) fn measure(containerd: &Containerd, subject: &Subject, count: usize) -> Idle {
    let start = || {
        containerd
            .run(&subject.idle)
            .runtime(subject.runtime)
            .arguments(&subject.idle_arguments)
            .detach()
    };
    // The first one compiles, and makes containerd grow.
    containerd.remove(&start());
    let leaks = containerd.leaks();
    leaks.assert_none_since();
    let (idle, ids) = cost(containerd, count, start);
    for id in ids {
        containerd.remove(&id);
    }
    leaks.assert_none_since();
    idle
}

/// What each of `count` containers costs, and what `start` answered for them.
pub(crate) fn cost<T>(
    containerd: &Containerd,
    count: usize,
    mut start: impl FnMut() -> T,
) -> (Idle, Vec<T>) {
    thread::sleep(SETTLE);
    let before = available();
    let started = (0..count).map(|_| start()).collect();
    thread::sleep(SETTLE);
    let after = available();
    let (mut pss, mut dirty, mut processes) = (0.0, 0.0, 0);
    for process in containerd.scope().processes() {
        // containerd serves all subjects; its own memory is no container's.
        if process.pid != containerd.pid() {
            pss += smaps(&process, "Pss:");
            dirty += smaps(&process, "Private_Dirty:");
            processes += 1;
        }
    }
    let each = |sum: f64| sum / count as f64;
    let idle = Idle {
        available: each(before - after),
        pss: each(pss),
        dirty: each(dirty),
        processes: each(f64::from(processes)),
    };
    (idle, started)
}

/// MemAvailable in MB: the median of some readings, since the kernel's figure wavers.
fn available() -> f64 {
    let readings: Vec<f64> = (0..9)
        .map(|_| {
            thread::sleep(Duration::from_millis(100));
            let text = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
            field(&text, "MemAvailable:").expect("this kernel has MemAvailable")
        })
        .collect();
    quantile(&readings, 0.5)
}

/// A field of a process' memory map in MB; 0 when the process is gone.
fn smaps(process: &Process, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid));
    text.ok().and_then(|text| field(&text, name)).unwrap_or(0.0)
}

/// The value of a line `NAME: N kB`, in MB of 10^6 bytes.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn a_field_is_read_in_megabytes() {
        let text = "MemFree:  10 kB\nMemAvailable:    2000000 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(2048.0));
        assert_eq!(field(text, "Missing:"), None);
    }
}
