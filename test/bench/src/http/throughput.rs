//! How many requests a server answers, and how long the slowest of them take.

use std::time::Duration;

use lighter_testkit::Containerd;

use super::load::{CONNECTIONS, Generator, THREADS};
use super::subject::Subject;
use crate::table::{Findings, Table};

/// Load that is not counted, before each that is: the server may have been idle for long.
const WARM_UP: Duration = Duration::from_secs(1);

/// How often and how long.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
}

/// Loads the subjects of each guest in turn. All of a guest's subjects are up at once, each in
/// a network of its own, so that what else the machine does meets them all.
pub(crate) fn measure(
    containerd: &Containerd,
    guests: &[(&str, Vec<Subject>)],
    plan: &Plan,
) -> Findings {
    let mut notes = Vec::new();
    let tables = guests
        .iter()
        .map(|(guest, subjects)| table(containerd, guest, subjects, plan, &mut notes));
    Findings {
        name: "http",
        about: format!(
            "`wrk -c {CONNECTIONS} -t {THREADS}` inside each server's network namespace, {} rounds \
             of {} s each, in turn.",
            plan.rounds,
            plan.time.as_secs()
        ),
        tables: tables.collect(),
        notes,
    }
}

fn table(
    containerd: &Containerd,
    guest: &str,
    subjects: &[Subject],
    plan: &Plan,
    notes: &mut Vec<String>,
) -> Table {
    let names = subjects.iter().map(|subject| subject.name.as_str());
    let mut table = Table::new(guest, &["req/s", "p99, ms"], names);
    let generator = Generator::new(containerd.folder());
    let servers: Vec<_> = subjects
        .iter()
        .map(|subject| {
            eprintln!("http, {guest}: starting {}", subject.name);
            subject.start(containerd).0
        })
        .collect();
    let mut errors = vec![0; subjects.len()];
    for round in 0..plan.rounds {
        for turn in 0..servers.len() {
            let which = (round + turn) % servers.len();
            let network = &servers[which].network;
            generator.load(network, WARM_UP);
            let load = generator.load(network, plan.time);
            let name = &subjects[which].name;
            eprintln!("http, {guest}, round {round}: {name}: {load:?}");
            table.rows[which].cells[0].push(load.rate);
            table.rows[which].cells[1].push(load.p99);
            errors[which] += load.errors;
        }
    }
    for (subject, errors) in subjects.iter().zip(errors) {
        if errors > 0 {
            notes.push(format!(
                "{guest}, {}: {errors} requests failed.",
                subject.name
            ));
        }
    }
    for server in servers {
        server.stop();
    }
    table
}
