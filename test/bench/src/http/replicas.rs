//! What one more replica of a service costs.

use lighter_testkit::Containerd;

use super::network::Network;
use super::subject::Subject;
use crate::idle::cost;
use crate::table::Table;

/// Starts `count` replicas of each subject, which answer one request each, and measures.
pub(crate) fn measure(containerd: &Containerd, subjects: &[Subject], count: usize) -> Table {
    let names = subjects.iter().map(|subject| subject.name.as_str());
    let columns = ["MemAvailable, MB", "PSS, MB", "private dirty, MB"];
    let mut table = Table::new("one of the replicas", &columns, names);
    for (row, subject) in table.rows.iter_mut().zip(subjects) {
        eprintln!("replicas: {count} of {}", subject.name);
        // The first one makes containerd grow, and fills the page cache, which all share.
        subject.start(containerd).0.stop();
        // Made before, so that they are no part of the figures.
        let mut networks: Vec<Network> = (0..count).map(|_| Network::new()).collect();
        let (idle, servers) = cost(containerd, count, || {
            let network = networks.pop().expect("there is one for each");
            subject.start_in(containerd, network).0
        });
        for server in servers {
            server.stop();
        }
        row.cells = [idle.available, idle.pss, idle.dirty]
            .map(|figure| vec![figure])
            .into();
    }
    table
}
