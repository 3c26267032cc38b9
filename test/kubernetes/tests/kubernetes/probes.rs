//! From apply to Ready.

use lighter_kubernetes::{Space, get, pod, wasm};
use serde_json::json;

#[test]
fn a_service_is_ready_by_an_http_probe() {
    let space = Space::new("http-probe");
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        hello[probe] = json!({ "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 });
    }
    let seen = space.start(&pod("hello", &[hello]));
    assert_eq!(seen["status"]["phase"], "Running");
    let address = seen["status"]["podIP"].as_str().expect("it has an address");
    assert_eq!(
        get(address, 8080, "/").expect("it answers").body,
        "Hello from Wasm\n"
    );
}

#[test]
fn a_pod_is_ready_by_an_exec_probe_of_a_guest() {
    let space = Space::new("exec-probe");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["readinessProbe"] = json!({ "exec": { "command": ["/files.wasm", "stat", "/"] }, "periodSeconds": 1, "timeoutSeconds": 10 });
    space.start(&pod("sleep", &[sleep]));
}

#[test]
fn a_probe_that_fails_says_so_and_the_container_is_started_again() {
    let space = Space::new("failed-probe");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["livenessProbe"] = json!({
        "exec": { "command": ["/files.wasm", "stat", "/"] },
        "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1,
    });
    let mut other = wasm("other", &["/sleep.wasm", "1000"]);
    other["livenessProbe"] = json!({
        "exec": { "command": ["/exit.wasm", "3"] },
        "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1,
    });
    space.apply(&pod("sleep", &[sleep, other]));
    space.await_described(
        "sleep",
        &[
            "Liveness probe failed",
            "Container other failed liveness probe, will be restarted",
        ],
    );
    let seen = space.await_object("pod/sleep", "a second start", |pod| {
        statuses(pod)
            .iter()
            .any(|status| status["restartCount"].as_u64() > Some(0))
    });
    for status in statuses(&seen) {
        let restarts = status["restartCount"].as_u64().expect("a count");
        assert_eq!(restarts > 0, status["name"] == "other", "{status:#}");
    }
}

fn statuses(pod: &serde_json::Value) -> &[serde_json::Value] {
    pod["status"]["containerStatuses"]
        .as_array()
        .map_or(&[], Vec::as_slice)
}
