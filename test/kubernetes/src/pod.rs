//! Objects, as JSON, to be changed by those who ask for them.

use serde_json::{Value, json};

use crate::image::{BUSYBOX, GUESTS};

/// A pod on the shim under test.
pub fn pod(name: &str, containers: &[Value]) -> Value {
    let mut pod = runc(name, containers);
    pod["spec"]["runtimeClassName"] = json!("wasmtime");
    pod
}

/// A pod on the default handler.
pub fn runc(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": containers,
        },
    })
}

/// A container of a guest, `/NAME.wasm` with arguments.
pub fn wasm(name: &str, command: &[&str]) -> Value {
    json!({ "name": name, "image": GUESTS, "imagePullPolicy": "Never", "command": command })
}

/// A container of busybox that runs a script, also in a pod of guests.
pub fn linux(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": BUSYBOX, "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
    })
}

/// A Deployment of pods as `pod`, with its labels.
pub fn deployment(pod: &Value, replicas: u32) -> Value {
    let name = &pod["metadata"]["name"];
    let labels = &pod["metadata"]["labels"];
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod["spec"] },
        },
    })
}

/// A Service at port 80 for port 8080 of the pods of that name, of both address families.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": { "app": name },
            "ports": [{ "port": 80, "targetPort": 8080 }],
        },
    })
}
