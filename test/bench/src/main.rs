//! Lighter against runc on one containerd, in one run: the time of `ctr run --rm`, and what an
//! idle container costs in memory and processes. Once on the host as it is, once with 200
//! more mounts on it.
//!
//! Writes `bench.md`, `bench.json` and `bench.svg` and prints the first.

mod idle;
mod mounts;
mod plot;
mod report;
mod start;
mod subject;

use std::path::PathBuf;

use lighter_testkit::{Containerd, Version, shim_binary};

use crate::mounts::ExtraMounts;
use crate::report::{Condition, Report};
use crate::subject::Subject;

const USAGE: &str = "usage: lighter-bench [--runs N] [--containers N] [--out FOLDER] [--control]

  --runs N        ctr run --rm of each, alternating (default 30)
  --containers N  idle containers of each, together (default 30)
  --out FOLDER    where bench.md, bench.json and bench.svg go (default target/bench)
  --control       runc against runc: shows how much of a difference is noise

Lighter's binaries are those in $LIGHTER_BIN, else in target/dist.";

/// How many mounts the second half of a run adds to the host.
const EXTRA_MOUNTS: usize = 200;

struct Arguments {
    runs: usize,
    containers: usize,
    out: PathBuf,
    control: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut parsed = Arguments {
        runs: 30,
        containers: 30,
        out: PathBuf::from("target/bench"),
        control: false,
    };
    let mut all = std::env::args().skip(1);
    while let Some(name) = all.next() {
        let mut value = || all.next().ok_or(format!("{name} needs a value\n{USAGE}"));
        let number = |text: String| match text.parse() {
            Ok(number @ 1..) => Ok(number),
            _ => Err(format!("{text} is not a positive number\n{USAGE}")),
        };
        match name.as_str() {
            "--runs" => parsed.runs = number(value()?)?,
            "--containers" => parsed.containers = number(value()?)?,
            "--out" => parsed.out = PathBuf::from(value()?),
            "--control" => parsed.control = true,
            _ => return Err(format!("no argument {name}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn measure(containerd: &Containerd, subjects: &[Subject; 2], given: &Arguments) -> Condition {
    let mounts = mounts::count();
    eprintln!("{mounts} mounts on the host: {} runs of each", given.runs);
    let start = start::measure(containerd, subjects, given.runs);
    eprintln!(
        "{mounts} mounts on the host: {} idle containers of each",
        given.containers
    );
    let idle = subjects
        .each_ref()
        .map(|it| idle::measure(containerd, it, given.containers));
    Condition {
        mounts,
        start,
        idle,
    }
}

fn main() -> Result<(), String> {
    let given = arguments()?;
    if !given.control {
        shim_binary();
    }
    let subjects = [
        if given.control {
            Subject::runc("control")
        } else {
            Subject::lighter()
        },
        Subject::runc("runc"),
    ];
    let containerd = Containerd::start_for_measurements(Version::V2);
    for subject in &subjects {
        containerd.import(&subject.short);
        containerd.import(&subject.idle);
    }

    let leaks = containerd.leaks();
    let quiet = measure(&containerd, &subjects, &given);
    let extra = ExtraMounts::add(containerd.folder(), EXTRA_MOUNTS);
    let crowded = measure(&containerd, &subjects, &given);
    drop(extra);
    leaks.assert_none_since();

    let report = Report {
        names: subjects.each_ref().map(|subject| subject.name),
        runs: given.runs,
        containers: given.containers,
        conditions: [quiet, crowded],
    };
    report
        .write(&given.out)
        .map_err(|error| format!("cannot write the report: {error}"))?;
    println!("{}", report.markdown());
    Ok(())
}
