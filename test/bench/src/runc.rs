//! Lighter against runc on one containerd, in one run: the time of `ctr run --rm`, and what an
//! idle container costs in memory and processes. Once on the host as it is, once with 200
//! more mounts on it.

use lighter_testkit::Containerd;

use crate::arguments::Arguments;
use crate::mounts::{self, ExtraMounts};
use crate::report::{Condition, Report};
use crate::subject::Subject;
use crate::{idle, start};

/// How many mounts the second half of a run adds to the host.
const EXTRA_MOUNTS: usize = 200;

/// Measures both.
pub(crate) fn compare(containerd: &Containerd, given: &Arguments) -> Report {
    let subjects = [
        if given.control {
            Subject::runc("control")
        } else {
            Subject::lighter()
        },
        Subject::runc("runc"),
    ];
    for subject in &subjects {
        containerd.import(&subject.short);
        containerd.import(&subject.idle);
    }

    let leaks = containerd.leaks();
    let quiet = measure(containerd, &subjects, given);
    let extra = ExtraMounts::add(containerd.folder(), EXTRA_MOUNTS);
    let crowded = measure(containerd, &subjects, given);
    drop(extra);
    leaks.assert_none_since();

    Report {
        names: subjects.each_ref().map(|subject| subject.name),
        runs: given.runs,
        containers: given.containers,
        conditions: [quiet, crowded],
    }
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
