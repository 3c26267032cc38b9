//! What a guest that broke out of Wasm could do with its process.
//!
//! The rules of its filter are tried in `crates/container`, `guest_filter/tests.rs`: no guest can make
//! a system call of its choice. Here real guests have it.

use std::collections::HashMap;
use std::fs;

use lighter_testkit::shim::{DEFAULT_CAPABILITIES, Shim, Stdio, eventually};
use serde_json::{Value, json};

/// DAC_OVERRIDE, FOWNER and NET_BIND_SERVICE.
const USEFUL: &str = "000000000000040a";
const NONE: &str = "0000000000000000";

fn status(pid: i32) -> HashMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn with_capabilities(mut process: Value, names: &[&str]) -> Value {
    let sets = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    let sets = sets.map(|set| (set.to_owned(), json!(names)));
    process["capabilities"] = Value::Object(sets.into_iter().collect());
    process
}

/// Waits until the guest runs. The last thing before is the second of two filters, beside those of the
/// container's profile.
fn await_filters(pid: i32, profile: u32) -> HashMap<String, String> {
    let expected = (profile + 2).to_string();
    eventually("a guest has its filters", || {
        status(pid).get("Seccomp_filters") == Some(&expected)
    });
    status(pid)
}

#[test]
fn a_guest_of_root_has_a_filter_and_no_capability_that_it_cannot_use() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
    spec["process"] = with_capabilities(spec["process"].clone(), &DEFAULT_CAPABILITIES);
    let pid = shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    shim.exec("a", "e", &spec["process"], Stdio::default())
        .unwrap();
    let exec = shim.start_exec("a", "e").unwrap();
    for process in [pid, exec] {
        let status = await_filters(process, 0);
        assert_eq!(status["Seccomp"], "2");
        assert_eq!(status["NoNewPrivs"], "1");
        for set in ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(status[set], USEFUL, "{set}");
        }
    }
    shim.remove("a");
}

/// A spec that says nothing of capabilities left a guest those of the shim.
#[test]
fn a_guest_whose_spec_has_no_capabilities_does_not_have_all_of_them() {
    let shim = Shim::start();
    let spec = shim.spec("a", &["/sleep.wasm", "100"]);
    let pid = shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    let status = await_filters(pid, 0);
    for set in ["CapBnd", "CapEff", "CapPrm"] {
        // CAP_DAC_READ_SEARCH is among them.
        assert_eq!(status[set], "000000000000040e", "{set}");
    }
    assert_eq!(status["CapInh"], NONE);
    assert_eq!(status["CapAmb"], NONE);
    shim.remove("a");
}

#[test]
fn the_filter_stands_beside_the_containers_own_profile() {
    for profile in [
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }],
        }),
        // The filter takes no seccomp(2) of its own.
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["seccomp"], "action": "SCMP_ACT_ERRNO" }],
        }),
    ] {
        for privileges in [Value::Null, json!(false), json!(true)] {
            let shim = Shim::start();
            let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
            spec["process"] = with_capabilities(spec["process"].clone(), &DEFAULT_CAPABILITIES);
            spec["process"]["noNewPrivileges"] = privileges;
            spec["linux"]["seccomp"] = profile.clone();
            let pid = shim.create("a", &spec).unwrap();
            shim.start_task("a").unwrap();
            let status = await_filters(pid, 1);
            assert_eq!(status["NoNewPrivs"], "1");
            shim.remove("a");
        }
    }
}

/// A profile under which the filter cannot be loaded is no reason to run without it.
#[test]
fn without_its_filter_no_guest_runs() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/hello.wasm"]);
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        // PR_SET_SECCOMP.
        "syscalls": [{
            "names": ["prctl"], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": 0, "value": 22, "op": "SCMP_CMP_EQ" }],
        }],
    });
    let errors = shim.fifo("a", "stderr");
    let mut reader = fs::File::options()
        .read(true)
        .write(true)
        .open(errors)
        .unwrap();
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    assert_eq!(shim.wait("a"), 125);
    let mut text = [0; 512];
    let count = std::io::Read::read(&mut reader, &mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..count]);
    assert!(text.contains("cannot load the filter of guests"), "{text}");
    shim.delete("a").unwrap();
}

/// A Linux program beside a guest is one of the container's own, with all that its spec gives it.
#[test]
fn a_linux_program_beside_a_guest_keeps_its_capabilities() {
    let shim = Shim::start();
    fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
    let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
    spec["process"] = with_capabilities(spec["process"].clone(), &DEFAULT_CAPABILITIES);
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    let process = with_capabilities(shim.process(&["/bin/sleep", "100"]), &["CAP_CHOWN"]);
    shim.exec("a", "e", &process, Stdio::default()).unwrap();
    let pid = shim.start_exec("a", "e").unwrap();
    let status = status(pid);
    assert_eq!(status["CapEff"], "0000000000000001");
    assert_eq!(status["Seccomp"], "0");
    assert_eq!(status["NoNewPrivs"], "0");
    shim.remove("a");
}
