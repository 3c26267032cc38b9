//! Draws the dashboard (`deploy/grafana/lighter.json`) of a real run: pods under load, `lighter
//! metrics`, a Prometheus that scrapes it, and the panels' own queries. Fails if one has no data.
//!
//! ```text
//! lighter-dashboard PROMETHEUS DASHBOARD PICTURE [SECONDS]
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "banned for the shim's sake; this may have threads"
)]

mod dashboard;
mod load;
mod picture;
mod pods;
mod prometheus;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lighter_testkit::{Call, Cri, Version, node_tool};
use nix::sys::signal::Signal;

use crate::dashboard::Dashboard;
use crate::prometheus::Prometheus;

/// Where `lighter metrics` listens.
const METRICS: &str = "127.0.0.1:19464";
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (program, board, picture, seconds) = match arguments.as_slice() {
        [program, board, picture] => (program, board, picture, 90),
        [program, board, picture, seconds] => (program, board, picture, seconds.parse()?),
        _ => return Err("usage: lighter-dashboard PROMETHEUS DASHBOARD PICTURE [SECONDS]".into()),
    };
    let board = Dashboard::read(Path::new(board))?;
    let cri = Cri::start(Version::V2);
    let pods = pods::start(&cri);
    let folder = cri.containerd().folder();
    // As on a node: docs/guides/monitoring.md, Prometheus.
    let token = folder.join("metrics-token").display().to_string();
    std::fs::write(&token, "a token of this run".replace(' ', "-"))?;
    let words = ["metrics", "--listen", METRICS, "--token-file", &token];
    let mut metrics = Call::new(node_tool(), words).spawn();
    metrics.await_stdout("serves metrics", LIMIT);
    let prometheus = Prometheus::start(program, folder, METRICS, &token);
    let begin = SystemTime::now();
    println!("load for {seconds} s");
    load::run(Duration::from_secs(seconds));
    let mut drawn = Vec::new();
    for panel in board.panels {
        let lines = prometheus.lines(&panel, begin)?;
        drawn.push((panel, lines));
    }
    picture::draw(Path::new(picture), begin, &drawn)?;
    println!("{picture}");
    drop(pods);
    metrics.signal(Signal::SIGTERM);
    metrics.wait(LIMIT);
    Ok(())
}
