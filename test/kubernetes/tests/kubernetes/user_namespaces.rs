//! Pods with `hostUsers: false`: their root is nobody on the node.

use std::time::Duration;

use lighter_kubernetes::{Guest, Space, get, linux, pod, until, wasm};
use serde_json::{Value, json};

/// The handler by which containerd 2.1 knows what the shim can (cluster.sh).
const CLASS: &str = "wasmtime-users";

fn private(name: &str, containers: &[Value]) -> Value {
    let mut private = pod(name, containers);
    private["spec"]["runtimeClassName"] = json!(CLASS);
    private["spec"]["hostUsers"] = json!(false);
    private
}

/// The host's number of the root of a container: the first of 65536 that no other pod has.
fn root_of(seen: &Value, container: &str) -> u32 {
    let uids = Guest::of(seen, container).status("Uid");
    let first = uids.split(' ').next().and_then(|uid| uid.parse().ok());
    first.unwrap_or_else(|| panic!("no user in {uids}"))
}

#[test]
fn guests_and_linux_programs_are_root_of_their_pod_alone() {
    let space = Space::new("host-users");
    let mount = json!([
        { "name": "own", "mountPath": "/own" },
        { "name": "config", "mountPath": "/config", "readOnly": true },
    ]);
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    let mut tools = linux("tools", "touch /own/linux && exec sleep 1d");
    for container in [&mut hello, &mut tools] {
        container["volumeMounts"] = mount.clone();
    }
    space.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "config" },
        "data": { "key": "a setting" },
    }));
    let mut first = private("first", &[hello, tools]);
    first["spec"]["volumes"] = json!([
        { "name": "own", "emptyDir": {} },
        { "name": "config", "configMap": { "name": "config" } },
    ]);
    let seen = space.start(&first);
    let root = root_of(&seen, "hello");
    assert!(root >= 65536, "{root}");
    assert_eq!(root_of(&seen, "tools"), root);

    // It serves, and reads what the node's root has written for it.
    let address = seen["status"]["podIP"].as_str().expect("it has an address");
    let answer = until("the guest answers", Duration::from_secs(30), || {
        get(address, 8080, "/read?/config/key")
    });
    assert_eq!(answer.body, "a setting");

    let tools = |script: &str| {
        let exec = ["exec", "first", "-c", "tools", "--", "sh", "-c", script];
        space.kubectl(exec).ok()
    };
    let map = tools("cat /proc/self/uid_map");
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, ["0", &root.to_string(), "65536"]);
    // A guest that is executed there is the same root.
    let write = ["/files.wasm", "write", "/own/guest", "x"];
    let written = space.exec("first", write).ok();
    assert_eq!(written, "write /own/guest: ok\n");
    assert_eq!(
        tools("stat -c '%n %u' /own/*"),
        "/own/guest 0\n/own/linux 0\n"
    );

    // Another pod has other users.
    let other = space.start(&private(
        "other",
        &[wasm("sleep", &["/sleep.wasm", "1000"])],
    ));
    let other = root_of(&other, "sleep");
    assert!(other.abs_diff(root) >= 65536, "{other} and {root}");
}

#[test]
fn a_user_of_such_a_pod_owns_its_volume() {
    let space = Space::new("host-users-volume");
    let mut files = wasm(
        "files",
        &[
            "/files.wasm",
            "write",
            "/own/made",
            "x",
            "read",
            "/own/made",
        ],
    );
    files["securityContext"] = json!({
        "runAsUser": 1000, "runAsGroup": 2000, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    files["volumeMounts"] = json!([{ "name": "own", "mountPath": "/own" }]);
    let mut once = private("files", &[files]);
    once["spec"]["restartPolicy"] = json!("Never");
    once["spec"]["securityContext"] = json!({ "fsGroup": 3000 });
    once["spec"]["volumes"] = json!([{ "name": "own", "emptyDir": {} }]);
    space.apply(&once);
    space.await_value("pod/files", "/status/phase", &json!("Succeeded"));
    let log = space.kubectl(["logs", "files"]).ok();
    assert_eq!(log, "write /own/made: ok\nread /own/made: ok x\n");
}
