//! Calls of the task API, through `ctr tasks`.

use std::time::{Duration, Instant};

use lighter_testkit::Image;

use crate::{containerd_with, init};
use lighter_testkit::shim::{Shim, eventually};

const LIMIT: Duration = Duration::from_secs(20);

fn sleeping() -> Image {
    Image::wasm("sleep").entrypoint(["/sleep.wasm", "100"])
}

#[test]
fn the_pid_of_a_task_is_that_of_its_init() {
    let image = sleeping();
    let containerd = containerd_with(&image);
    let id = containerd.run(&image).detach();
    let pid = init(&containerd, &id);
    // Start is answered before init has become the guest.
    eventually("it has the guest's name", || {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep.wasm\n"
    });
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    assert_ne!(
        std::fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap(),
        own
    );
    let ps = containerd.ctr(["tasks", "ps", &id]).ok();
    assert!(ps.contains(&pid.to_string()), "{ps}");
    containerd.remove(&id);
}

#[test]
fn metrics_count_time_memory_and_processes() {
    let image = Image::wasm("busy");
    let containerd = containerd_with(&image);
    let id = containerd.run(&image).detach();
    let metrics = || -> serde_json::Value {
        let text = containerd
            .ctr(["tasks", "metrics", "--format", "json", &id])
            .ok();
        serde_json::from_str(&text).unwrap()
    };
    // Nanoseconds on cgroup v1, microseconds on v2.
    let computed = |metrics: &serde_json::Value| {
        number(metrics, "/cpu/usage/total").max(number(metrics, "/cpu/usage_usec") * 1000)
    };
    let began = Instant::now();
    eventually("it has computed", || computed(&metrics()) > 200_000_000);
    let metrics = metrics();
    let passed = began.elapsed() + Duration::from_secs(5);
    containerd.remove(&id);
    assert!(
        u128::from(computed(&metrics)) < passed.as_nanos(),
        "{metrics}"
    );
    let memory = number(&metrics, "/memory/usage/usage").max(number(&metrics, "/memory/usage"));
    assert!((50_000..50_000_000).contains(&memory), "{metrics}");
    assert!(
        (1..10).contains(&number(&metrics, "/pids/current")),
        "{metrics}"
    );
}

fn number(metrics: &serde_json::Value, path: &str) -> u64 {
    metrics
        .pointer(path)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or(0)
}

#[test]
fn a_checkpoint_is_refused_with_the_reason() {
    let shim = Shim::start();
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    let error = shim.checkpoint("a").unwrap_err();
    assert!(error.contains("UNIMPLEMENTED"), "{error}");
    assert!(error.contains("CRIU"), "{error}");
    shim.remove("a");
}

#[test]
fn requests_in_the_wrong_state_have_the_right_class() {
    let image = sleeping();
    let containerd = containerd_with(&image);
    let id = containerd.run(&image).detach();
    let running = containerd.ctr(["tasks", "delete", &id]).output();
    assert_ne!(running.code(), 0);
    containerd
        .ctr(["tasks", "kill", "--signal", "SIGKILL", &id])
        .output()
        .exits(0);
    containerd.await_status(&id, "STOPPED", LIMIT);
    let killed = containerd.ctr(["tasks", "kill", &id]).output();
    assert!(
        killed.stderr.contains("not found") || killed.stderr.contains("finished"),
        "{}",
        killed.stderr
    );
    containerd.ctr(["tasks", "delete", &id]).output();
    containerd
        .ctr(["containers", "delete", &id])
        .output()
        .exits(0);
}

#[test]
fn all_processes_can_be_signalled() {
    let image = Image::busybox();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let script = "sleep 100 & sleep 100 & wait";
    let id = containerd
        .run(&image)
        .arguments(["sh", "-c", script])
        .detach();
    std::thread::sleep(Duration::from_millis(300));
    let ps = containerd.ctr(["tasks", "ps", &id]).ok();
    assert_eq!(ps.lines().count(), 4, "a heading and three processes: {ps}");
    containerd
        .ctr(["tasks", "kill", "--all", "--signal", "SIGKILL", &id])
        .output()
        .exits(0);
    containerd.await_status(&id, "STOPPED", LIMIT);
    containerd.remove(&id);
    leaks.assert_none_since();
}

/// A created task that is never started can be deleted, and an id can be used again.
#[test]
fn a_created_task_can_be_deleted() {
    let image = sleeping();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    for _ in 0..2 {
        let reference = image.reference();
        containerd
            .ctr([
                "containers",
                "create",
                "--runtime",
                lighter_testkit::WASMTIME,
                &reference,
                "same",
            ])
            .output()
            .exits(0);
        let id = "same";
        containerd
            .ctr(["tasks", "start", "--detach", id])
            .output()
            .exits(0);
        assert_eq!(containerd.status(id).as_deref(), Some("RUNNING"));
        containerd.remove(id);
    }
    leaks.assert_none_since();
}
