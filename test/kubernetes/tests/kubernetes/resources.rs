//! Requests and limits.

use lighter_kubernetes::{Guest, LIMIT, Space, pod, until, wasm};
use serde_json::{Value, json};

fn resources(cpu: &str, memory: &str) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } })
}

#[test]
fn a_pod_is_resized_in_place() {
    let space = Space::new("resize");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["resources"] = resources("100m", "64Mi");
    let seen = space.start(&pod("sleep", &[sleep]));
    let guest = Guest::of(&seen, "sleep");
    assert_eq!(
        guest.cgroup("memory", "memory.limit_in_bytes"),
        (64 << 20).to_string()
    );
    assert_eq!(guest.cgroup("cpu", "cpu.cfs_quota_us"), "10000");

    let patch = json!({ "spec": { "containers": [{ "name": "sleep", "resources": resources("300m", "128Mi") }] } });
    space
        .kubectl([
            "patch",
            "pod",
            "sleep",
            "--subresource",
            "resize",
            "--patch",
            &patch.to_string(),
        ])
        .ok();
    until("the kernel's limits are the new ones", LIMIT, || {
        let now = (
            guest.cgroup("memory", "memory.limit_in_bytes"),
            guest.cgroup("cpu", "cpu.cfs_quota_us"),
        );
        if now == ((128 << 20).to_string(), "30000".to_owned()) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    let status = "/status/containerStatuses/0/resources/limits";
    let after = space.await_value(
        "pod/sleep",
        status,
        &json!({ "cpu": "300m", "memory": "128Mi" }),
    );
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(Guest::of(&after, "sleep"), guest, "it was started again");
}

#[test]
fn limits_are_the_kernels() {
    let space = Space::new("limits");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["resources"] =
        json!({ "requests": { "cpu": "50m" }, "limits": { "cpu": "250m", "memory": "48Mi" } });
    let seen = space.start(&pod("sleep", &[sleep]));
    let guest = Guest::of(&seen, "sleep");
    assert_eq!(
        guest.cgroup("memory", "memory.limit_in_bytes"),
        (48 << 20).to_string()
    );
    assert_eq!(guest.cgroup("cpu", "cpu.cfs_quota_us"), "25000");
    assert_eq!(guest.cgroup("cpu", "cpu.shares"), "51");
}
