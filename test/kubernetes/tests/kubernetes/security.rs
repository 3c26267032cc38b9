//! Whom a guest runs as, and what it may do.

use lighter_kubernetes::{Guest, Space, linux, pod, wasm};
use serde_json::json;

#[test]
fn a_security_context_holds_for_a_guest() {
    let space = Space::new("security");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["securityContext"] = json!({
        "runAsUser": 1000, "runAsGroup": 2000, "runAsNonRoot": true,
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let mut confined = pod("sleep", &[sleep]);
    confined["spec"]["securityContext"] = json!({ "fsGroup": 3000, "supplementalGroups": [4000] });
    let seen = space.start(&confined);
    let guest = Guest::of(&seen, "sleep");
    assert_eq!(guest.status("Uid"), "1000 1000 1000 1000");
    assert_eq!(guest.status("Gid"), "2000 2000 2000 2000");
    let groups = guest.status("Groups");
    for group in ["3000", "4000"] {
        assert!(
            groups.split(' ').any(|seen| seen == group),
            "no {group} in {groups}"
        );
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(guest.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(guest.status("NoNewPrivs"), "1");
    assert_eq!(guest.status("Seccomp"), "2");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let space = Space::new("capabilities");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["securityContext"] =
        json!({ "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] } });
    let seen = space.start(&pod("sleep", &[sleep]));
    // Bit 10 of capabilities(7).
    assert_eq!(
        Guest::of(&seen, "sleep").status("CapEff"),
        "0000000000000400"
    );
}

#[test]
fn a_read_only_root_is_one_and_its_volumes_are_not() {
    let space = Space::new("read-only");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["securityContext"] = json!({ "readOnlyRootFilesystem": true });
    sleep["volumeMounts"] = json!([{ "name": "own", "mountPath": "/own" }]);
    let mut read_only = pod("sleep", &[sleep]);
    read_only["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    space.start(&read_only);
    let tries = [
        "/files.wasm",
        "write",
        "/file",
        "x",
        "stat",
        "/file",
        "write",
        "/own/file",
        "x",
    ];
    let text = space.exec("sleep", tries).ok();
    // Wasmtime tells guests EIO for EROFS.
    for line in [
        "write /file: error",
        "stat /file: error NotFound",
        "write /own/file: ok",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
}

#[test]
fn run_as_non_root_refuses_an_image_of_roots() {
    let space = Space::new("non-root");
    let mut hello = wasm("hello", &["/hello.wasm"]);
    hello["securityContext"] = json!({ "runAsNonRoot": true });
    space.apply(&pod("hello", &[hello]));
    space.await_described(
        "hello",
        &[
            "CreateContainerConfigError",
            "container has runAsNonRoot and image will run as root",
        ],
    );
}

#[test]
fn a_shared_process_namespace_shows_the_guest_to_its_neighbour() {
    let space = Space::new("shared-processes");
    let mut shared = pod(
        "hello",
        &[
            wasm("hello", &["/http-hello.wasm"]),
            linux("tools", "exec sleep 1d"),
        ],
    );
    shared["spec"]["shareProcessNamespace"] = json!(true);
    let seen = space.start(&shared);
    let before = Guest::of(&seen, "hello");
    let text = space
        .kubectl(["exec", "hello", "-c", "tools", "--", "ps"])
        .ok();
    let line = text.lines().find(|line| line.contains("http-hello.wasm"));
    let pid = line
        .and_then(|line| line.split_whitespace().next())
        .unwrap_or_else(|| panic!("no guest in {text}"));
    assert_ne!(pid, "1", "the first process is the pod's own: {text}");
    // The neighbour may end it, and it is started again.
    space
        .kubectl(["exec", "hello", "-c", "tools", "--", "kill", pid])
        .ok();
    let again = space.await_object("pod/hello", "a second start", |pod| {
        let statuses = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        statuses.iter().any(|status| {
            status["name"] == "hello"
                && status["restartCount"] == 1
                && status["state"]["running"].is_object()
        })
    });
    assert_ne!(Guest::of(&again, "hello"), before);
}
