//! The results as text, as data and as a picture.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::idle::Idle;
use crate::plot::{Chart, charts};
use crate::start::{Times, quantile};

/// What was measured with one number of mounts on the host.
pub(crate) struct Condition {
    pub(crate) mounts: usize,
    pub(crate) start: Times,
    pub(crate) idle: [Idle; 2],
}

/// Everything; index 0 is Lighter (or the control), index 1 is runc.
pub(crate) struct Report {
    pub(crate) names: [&'static str; 2],
    pub(crate) runs: usize,
    pub(crate) containers: usize,
    pub(crate) conditions: [Condition; 2],
}

/// A figure of both subjects.
struct Row {
    what: &'static str,
    unit: &'static str,
    values: [f64; 2],
}

impl Condition {
    fn rows(&self) -> Vec<Row> {
        let start = |share| self.start.each_ref().map(|times| quantile(times, share));
        let idle = |part: fn(&Idle) -> f64| self.idle.each_ref().map(part);
        let row = |what, unit, values| Row { what, unit, values };
        vec![
            row("ctr run --rm, median", "ms", start(0.5)),
            row("ctr run --rm, first decile", "ms", start(0.1)),
            row("ctr run --rm, ninth decile", "ms", start(0.9)),
            row(
                "idle container: MemAvailable",
                "MB",
                idle(|idle| idle.available),
            ),
            row("idle container: PSS", "MB", idle(|idle| idle.pss)),
            row(
                "idle container: private dirty",
                "MB",
                idle(|idle| idle.dirty),
            ),
            row("idle container: processes", "", idle(|idle| idle.processes)),
        ]
    }

    fn json(&self, names: [&str; 2]) -> Value {
        let subject = |which: usize| {
            let idle = &self.idle[which];
            json!({
                "name": names[which],
                "start_ms": self.start[which],
                "start_ms_median": quantile(&self.start[which], 0.5),
                "idle_mb_available": idle.available,
                "idle_mb_pss": idle.pss,
                "idle_mb_private_dirty": idle.dirty,
                "idle_processes": idle.processes,
            })
        };
        json!({ "mounts": self.mounts, "subjects": [subject(0), subject(1)] })
    }
}

impl Report {
    /// A table for each number of mounts, and what it was measured on.
    pub(crate) fn markdown(&self) -> String {
        let [first, second] = self.names;
        let mut text = format!(
            "{first} against {second} on one containerd, alternating: {} runs, {} idle \
             containers of each. {}.\n",
            self.runs,
            self.containers,
            machine()
        );
        for condition in &self.conditions {
            let _ = write!(
                text,
                "\n| {} mounts on the host | {first} | {second} | ratio |\n\
                 | --- | ---: | ---: | ---: |\n",
                condition.mounts
            );
            for Row {
                what,
                unit,
                values: [one, other],
            } in condition.rows()
            {
                let ratio = ratio(one, other);
                let _ = writeln!(
                    text,
                    "| {what} | {one:.1} {unit} | {other:.1} {unit} | {ratio} |"
                );
            }
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "machine": machine(),
            "runs": self.runs,
            "containers": self.containers,
            "conditions": self.conditions.each_ref().map(|condition| condition.json(self.names)),
        })
    }

    fn svg(&self) -> String {
        let group = |condition: &Condition, row: usize| {
            (
                format!("{} mounts", condition.mounts),
                condition.rows()[row].values.to_vec(),
            )
        };
        let chart = |title: &str, row: usize| Chart {
            title: title.to_owned(),
            groups: self
                .conditions
                .iter()
                .map(|condition| group(condition, row))
                .collect(),
        };
        charts(
            &self.names,
            &[
                chart("ctr run --rm, median, ms", 0),
                chart("idle container, MemAvailable, MB", 3),
                chart("idle container, PSS, MB", 4),
                chart("idle container, private dirty, MB", 5),
            ],
        )
    }

    /// Writes `bench.md`, `bench.json` and `bench.svg` into the folder, which is made.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("bench.md"), self.markdown())?;
        fs::write(folder.join("bench.json"), format!("{:#}\n", self.json()))?;
        fs::write(folder.join("bench.svg"), self.svg())
    }
}

/// The first by the second; none where the noise of a busy host has made one of them negative.
fn ratio(one: f64, other: f64) -> String {
    if one > 0.0 && other > 0.0 {
        format!("{:.2}", one / other)
    } else {
        "-".to_owned()
    }
}

/// Kernel, processors, cgroup version and load of this machine: figures of a host that does
/// other work say little about memory.
pub(crate) fn machine() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(2).unwrap_or("unknown");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let hierarchies = lighter_testkit::Hierarchy::all();
    let cgroups = if hierarchies.iter().all(|hierarchy| hierarchy.unified) {
        2
    } else {
        1
    };
    format!(
        "Linux {}, {processors} processors, cgroup v{cgroups}, load {load} over 15 minutes",
        release.trim()
    )
}
