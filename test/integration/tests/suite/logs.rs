//! What the shim says in containerd's log.

use lighter_testkit::{Cri, Image, Version};
use serde_json::json;

use crate::containerd_with;
use crate::http::Service;
use lighter_testkit::shim::Shim;

/// The shim's own lines, which are among containerd's, without those for debugging.
fn lines(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains(" runtime=wasmtime ") && !line.contains(" level=debug "))
        .collect()
}

#[test]
fn a_failure_is_one_line_with_container_and_cause_and_without_secrets() {
    let image = Image::new("failing").file("/app.wasm", "\0asm\x01\0\0\0nonsense", 0o755);
    let containerd = containerd_with(&image);
    let id = containerd.next_id();
    containerd
        .run(&image)
        .id(&id)
        .flags(["--env", "PASSWORD=hunter2", "--label", "key=hunter2"])
        .arguments(["/app.wasm", "hunter2"])
        .output()
        .fails_with(&["/app.wasm"]);
    let log = containerd.log();
    let lines = lines(&log);
    let [line] = lines.as_slice() else {
        panic!("{lines:?} in {log}");
    };
    let container = format!("container=\"{id}\"");
    for part in [
        "level=error",
        "time=20",
        &container,
        "/app.wasm",
        "truncated",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("hunter2"), "{line}");
}

#[test]
fn a_pods_lines_name_it() {
    let cri = Cri::start(Version::V2);
    let image = Image::new("failing").file("/app.wasm", "\0asm\x01\0\0\0nonsense", 0o755);
    cri.import(&image);
    let error = cri
        .attempt(&image.reference(), &["/app.wasm"], &json!({}))
        .unwrap_err();
    assert!(error.contains("/app.wasm"), "{error}");
    let log = cri.containerd().log();
    let lines = lines(&log);
    let named = |line: &&&str| line.contains("pod=\"default/") && line.contains("/app.wasm");
    assert_eq!(lines.iter().filter(named).count(), 1, "{lines:?}");
}

/// What is not done as it was asked for is said, though nothing fails.
#[test]
fn limits_that_do_not_hold_are_told() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/hello.wasm"]);
    spec["linux"]["resources"] = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }] });
    shim.create("a", &spec).unwrap();
    shim.kill("a", nix::sys::signal::Signal::SIGKILL).unwrap();
    shim.wait("a");
    shim.delete("a").unwrap();
    let log = shim.log();
    let has_controller = std::fs::read_to_string("/proc/self/cgroup")
        .unwrap()
        .contains("hugetlb")
        || std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|controllers| controllers.contains("hugetlb"));
    let warnings = log.matches("limits of huge pages do not hold").count();
    assert_eq!(warnings, usize::from(!has_controller), "{log}");
}

/// Requests and exits of guests are the container's own affair.
#[test]
fn what_goes_well_is_not_logged() {
    let service = Service::start("http-hello", &[]);
    for path in ["/", "/none", "/trap"] {
        service.answer(path);
    }
    let id = &service.id;
    service
        .containerd
        .ctr(["tasks", "kill", "--signal", "SIGKILL", id])
        .ok();
    service
        .containerd
        .await_status(id, "STOPPED", std::time::Duration::from_secs(20));
    service.containerd.remove(id);
    let log = service.containerd.log();
    assert!(lines(&log).is_empty(), "{:?}", lines(&log));
}
