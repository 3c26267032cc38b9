//! Lighter against others, each part in one run on one private containerd. Each part writes a
//! table, its data and a plot, and prints the first:
//!
//! - `runc`: `bench.md`, `bench.json`, `bench.svg`
//! - `start`, `http`, `compute`, `images`: the same with their names

#![allow(
    clippy::disallowed_methods,
    reason = "banned for the shim's sake; a benchmark may have threads"
)]

mod arguments;
mod compute;
mod http;
mod idle;
mod images;
mod mounts;
mod plot;
mod report;
mod runc;
mod start;
mod subject;
mod table;

use std::io;

use lighter_testkit::{Containerd, Version, shim_binary};

use crate::arguments::{Arguments, Part};
use crate::table::Findings;

fn main() -> Result<(), String> {
    let given = Arguments::read(std::env::args().skip(1))?;
    if !given.control && given.wants("lighter") {
        shim_binary();
    }
    for part in &given.parts {
        let written = measure(*part, &given);
        written.map_err(|error| format!("cannot write the report: {error}"))?;
    }
    Ok(())
}

/// Each part on a containerd of its own: what one of them left in memory is none of the next
/// one's figures.
fn measure(part: Part, given: &Arguments) -> io::Result<()> {
    let containerd = Containerd::start_for_measurements(Version::V2);
    let findings: Findings = match part {
        Part::Runc => {
            let report = runc::compare(&containerd, given);
            println!("{}", report.markdown());
            return report.write(&given.out);
        }
        Part::Start => http::start(&containerd, given),
        Part::Http => http::throughput(&containerd, given),
        Part::Compute => compute::measure(&containerd, given),
        Part::Images => images::measure(&containerd, given),
    };
    println!("{}", findings.markdown());
    findings.write(&given.out)
}
