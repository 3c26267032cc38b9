//! What is peculiar to systemd's driver: where it cannot be, and names that are taken.

use std::fs;
use std::path::{Path, PathBuf};

use lighter_testkit::{Driver, Hierarchy};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use lighter_testkit::shim::{Shim, Stdio, eventually};

fn spec(shim: &Shim, id: &str, slice: &str, prefix: &str) -> Value {
    let mut spec = shim.spec(id, &["/sleep.wasm", "100"]);
    spec["linux"]["cgroupsPath"] = json!(format!("{slice}:{prefix}:a"));
    spec
}

/// Demands that systemd's driver is refused, for one of these reasons.
fn assert_refused(shim: &Shim, reasons: &[[&str; 2]]) {
    let error = shim
        .create("a", &spec(shim, "a", "system.slice", &shim.namespace))
        .unwrap_err();
    assert!(
        reasons
            .iter()
            .any(|[class, why]| error.contains(class) && error.contains(why)),
        "{error}"
    );
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// It is refused on cgroup v1, without systemd, and without the bus that systemd is asked over.
#[test]
fn a_scope_is_refused_where_systemd_cannot_be_asked() {
    if Path::new("/run/systemd/system").is_dir() {
        let shim = Shim::start_without_bus();
        assert_refused(&shim, &[["FAILED_PRECONDITION", "no system bus answers"]]);
    } else {
        let shim = Shim::start();
        let reasons = [
            ["UNIMPLEMENTED", "needs cgroup v2"],
            ["FAILED_PRECONDITION", "systemd is not running"],
        ];
        assert_refused(&shim, &reasons);
    }
}

/// Units have one name for all of systemd, whatever slice they are in. Cgroups of the same name in
/// different places are two, for the other driver.
#[test]
fn a_scope_of_another_container_is_not_joined() {
    let shim = Shim::start();
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let second = match Driver::of_tests() {
        Driver::Systemd => spec(&shim, "b", "system.slice", &shim.namespace),
        Driver::Cgroupfs => {
            let mut spec = shim.spec("b", &["/sleep.wasm", "100"]);
            spec["linux"]["cgroupsPath"] = json!(format!("/{}/below/a", shim.namespace));
            spec
        }
    };
    match (Driver::of_tests(), shim.create("b", &second)) {
        (Driver::Systemd, Err(error)) => assert!(
            error.contains("ALREADY_EXISTS") && error.contains("systemd has a unit"),
            "{error}"
        ),
        (Driver::Cgroupfs, Ok(_)) => shim.remove("b"),
        (driver, result) => panic!("{driver:?}: {result:?}"),
    }
    assert_eq!(shim.pids("a").len(), 1, "the other one still runs");
    shim.remove("a");
}

/// Takes its cgroup from a container, as systemd does as soon as it is empty: before the shim knows
/// of the end, at times.
fn lose_cgroup(shim: &Shim, id: &str, pid: i32) {
    let folder = Driver::of_tests().folder(&shim.namespace, id);
    for hierarchy in Hierarchy::all() {
        let own = hierarchy.mount.join(&folder);
        if own.is_dir() {
            fs::write(hierarchy.mount.join("cgroup.procs"), pid.to_string()).unwrap();
            if Driver::of_tests() == Driver::Cgroupfs {
                eventually("it is empty", || fs::remove_dir(&own).is_ok());
            }
            eventually("systemd removes it", || !own.exists());
        }
    }
}

/// A call that comes between the end of a container and the shim's notice of it is answered as
/// one that comes after it.
#[test]
fn a_container_whose_cgroup_is_gone_has_stopped() {
    let shim = Shim::start();
    let pid = shim
        .create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    lose_cgroup(&shim, "a", pid);
    assert_eq!(shim.pids("a"), Vec::<i32>::new());
    // On cgroup v1 libcgroups counts zero, and makes folders where there are none.
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let stopped = |result: Result<(), String>, class: &str| {
            let error = result.unwrap_err();
            assert!(
                error.contains(class) && error.contains("has stopped"),
                "{error}"
            );
        };
        let limit = json!({ "memory": { "limit": 64 << 20 } });
        stopped(shim.update("a", &limit), "FAILED_PRECONDITION");
        stopped(shim.pause("a"), "FAILED_PRECONDITION");
        let process = shim.process(&["/hello.wasm"]);
        shim.exec("a", "e", &process, Stdio::default()).unwrap();
        stopped(shim.start_exec("a", "e").map(drop), "FAILED_PRECONDITION");
        stopped(shim.statistics("a"), "NOT_FOUND");
        stopped(shim.kill_all("a", Signal::SIGKILL), "NOT_FOUND");
    }
    shim.remove("a");
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}
