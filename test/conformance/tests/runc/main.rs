//! Runs the same bundle by the shim and by two versions of runc, and expects the same output and exit
//! code.
//!
//! Where Debian's runc 1.1 and runc 1.3 differ, either will do. A difference that stays is named with
//! its reason; one that has gone fails the test, so that no reason outlives it.

mod bundle;
mod cases;
mod runtimes;

use bundle::Case;
use runtimes::{Lighter, Outcome, Runc};

/// Compares all cases of one subject.
fn compare(cases: Vec<Case>) {
    let lighter = Lighter::start();
    let runcs = [Runc::of_the_system(), Runc::newer()];
    let mut failures = Vec::new();
    for case in cases {
        let references: Vec<Outcome> = runcs.iter().map(|runc| runc.run(&case)).collect();
        let ours = lighter.run(&case);
        let is_same = references.contains(&ours);
        match (case.reason, is_same) {
            (None, true) | (Some(_), false) => {}
            (None, false) => failures.push(format!(
                "{}: Lighter: {ours:?}\n    runc 1.1: {:?}\n    runc 1.3: {:?}\n    {}",
                case.name,
                references[0],
                references[1],
                lighter.last_error(),
            )),
            (Some(reason), true) => failures.push(format!(
                "{}: there is no difference any more, for which the reason was: {reason}",
                case.name
            )),
        }
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

#[test]
fn processes() {
    compare(cases::processes());
}

#[test]
fn file_systems() {
    compare(cases::file_systems());
}

#[test]
fn mounts() {
    compare(cases::mounts());
}

#[test]
fn namespaces_and_limits() {
    compare(cases::namespaces_and_limits());
}

#[test]
fn hooks() {
    compare(cases::hooks());
}

/// The issue is a hundred features, and none twice.
#[test]
fn there_are_a_hundred_cases() {
    let all = [
        cases::processes(),
        cases::file_systems(),
        cases::mounts(),
        cases::namespaces_and_limits(),
        cases::hooks(),
    ];
    let mut names: Vec<&str> = all.iter().flatten().map(|case| case.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(count >= 100, "{count}");
}
