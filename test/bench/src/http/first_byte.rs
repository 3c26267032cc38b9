//! From the call of `ctr run` to the first byte of an answer.

use std::fs;
use std::time::Duration;

use lighter_testkit::Containerd;
use nix::unistd::sync;

use super::subject::Subject;
use crate::table::Table;

const WARM: usize = 0;
const COLD: usize = 1;

/// Starts each subject `starts` times, in turn, with the files it needs in the page cache; then
/// half as often without. The first start of each is not counted: a node makes it once.
pub(crate) fn measure(containerd: &Containerd, subjects: &[Subject], starts: usize) -> Table {
    let names = subjects.iter().map(|subject| subject.name.as_str());
    let columns = ["ms", "cold page cache, ms"];
    let mut table = Table::new("start to first byte", &columns, names);
    for subject in subjects {
        let first = once(containerd, subject);
        eprintln!("start: {}, first: {first:?}", subject.name);
    }
    for (column, rounds) in [(WARM, starts), (COLD, starts.div_ceil(2))] {
        for round in 0..rounds {
            for turn in 0..subjects.len() {
                let which = (round + turn) % subjects.len();
                if column == COLD {
                    drop_page_cache();
                }
                let elapsed = once(containerd, &subjects[which]);
                let name = &subjects[which].name;
                eprintln!(
                    "{}, round {round}: {name}: {elapsed:?}",
                    table.columns[column]
                );
                table.rows[which].cells[column].push(milliseconds(elapsed));
            }
        }
    }
    table
}

fn once(containerd: &Containerd, subject: &Subject) -> Duration {
    let (server, elapsed) = subject.start(containerd);
    server.stop();
    elapsed
}

/// Also that of the daemon's and the shims' own files: as after the boot of a node.
fn drop_page_cache() {
    sync();
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root may drop the page cache");
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
