//! A request that computes: the code of services, with what gives way to other requests in it.

use lighter_testkit::Containerd;

use super::client::ADDRESS;
use super::subject::{Serving, Subject};
use crate::table::Table;

/// Asks each subject in turn, on a server that answered before. `expected` is what it has to
/// compute.
pub(crate) fn measure(
    containerd: &Containerd,
    subjects: &[Subject],
    rounds: usize,
    expected: &str,
) -> Table {
    let names = subjects.iter().map(|subject| subject.name.as_str());
    let mut table = Table::new("a request that computes", &["ms"], names);
    let servers: Vec<Serving> = subjects
        .iter()
        .map(|subject| subject.start(containerd).0)
        .collect();
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            let which = (round + turn) % subjects.len();
            let name = &subjects[which].name;
            let url = format!("http://{ADDRESS}/compute");
            let curl = ["curl", "--silent", "--write-out", "%{time_total}", &url];
            let answer = servers[which].network.inside(curl).ok();
            let seconds = answer
                .strip_prefix(expected)
                .and_then(|seconds| seconds.parse::<f64>().ok());
            let seconds = seconds.unwrap_or_else(|| panic!("{name} answered {answer:?}"));
            eprintln!("compute, round {round}: {name}, a request: {seconds} s");
            table.rows[which].cells[0].push(seconds * 1000.0);
        }
    }
    servers.into_iter().for_each(Serving::stop);
    table
}
