//! Guests with Linux programs in one pod.

use std::time::Duration;

use lighter_kubernetes::{Space, get, linux, pod, until, wasm};
use serde_json::json;

#[test]
fn a_linux_sidecar_and_a_guest_reach_each_other_on_localhost() {
    let space = Space::new("sidecar");
    let script = "mkdir /tmp/www && echo from the sidecar >/tmp/www/file && exec httpd -f -p 8081 -h /tmp/www";
    let mut sidecar = linux("sidecar", script);
    // An init container that is started again is a sidecar, and is ready before the others start.
    sidecar["restartPolicy"] = json!("Always");
    sidecar["readinessProbe"] = json!({ "tcpSocket": { "port": 8081 }, "periodSeconds": 1 });
    let mut both = pod("hello", &[wasm("hello", &["/http-hello.wasm"])]);
    both["spec"]["initContainers"] = json!([sidecar]);
    let seen = space.start(&both);
    let address = seen["status"]["podIP"].as_str().expect("it has an address");
    let answer = until(
        "the guest asks the sidecar",
        Duration::from_secs(30),
        || get(address, 8080, "/fetch?http://127.0.0.1:8081/file"),
    );
    assert!(
        answer.body.contains("200") && answer.body.contains("from the sidecar"),
        "{answer:?}"
    );
    let text = space
        .kubectl([
            "exec",
            "hello",
            "-c",
            "sidecar",
            "--",
            "wget",
            "-qO-",
            "http://127.0.0.1:8080/",
        ])
        .ok();
    assert_eq!(text, "Hello from Wasm\n");
}
