//! Seconds from `kubectl apply` to Ready, of 1 and of 30 pods: a guest on the shim under test beside
//! busybox on runc, by the same probe. Prints a table as `docs/explanation/performance.md` has it.

use std::time::{Duration, Instant};

use lighter_kubernetes::{LIMIT, Space, deployment, linux, pod, runc, until, wasm};
use serde_json::{Value, json};

const COUNTS: [u32; 2] = [1, 30];
const ROUNDS: usize = 3;

/// A pod that serves, with a probe as often as Kubernetes can.
fn served(kind: &str) -> Value {
    let probe = json!({ "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 });
    match kind {
        "Wasm" => {
            let mut hello = wasm("hello", &["/http-hello.wasm"]);
            hello["readinessProbe"] = probe;
            pod("hello", &[hello])
        }
        _ => {
            let script = "echo hello >/tmp/index.html && exec httpd -f -p 8080 -h /tmp";
            let mut hello = linux("hello", script);
            hello["readinessProbe"] = probe;
            runc("hello", &[hello])
        }
    }
}

/// From apply until all are ready; afterwards all are gone again.
fn measure(space: &Space, kind: &str, count: u32) -> Duration {
    let object = deployment(&served(kind), count);
    let begin = Instant::now();
    space.apply(&object);
    space.await_rollout("hello");
    let took = begin.elapsed();
    space.kubectl(["delete", "deployment", "hello"]).ok();
    until("all pods are gone", LIMIT, || {
        let left = space.pods("app=hello").len();
        if left == 0 {
            Ok(())
        } else {
            Err(left.to_string())
        }
    });
    took
}

fn main() {
    let space = Space::alone("figures");
    // What only the first pod of each kind costs: compiling, unpacking.
    for kind in ["Wasm", "runc"] {
        measure(&space, kind, 1);
    }
    println!(
        "\n| from apply to Ready, seconds, median of {ROUNDS} (each) | Wasm | runc |\n| --- | ---: | ---: |"
    );
    for count in COUNTS {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (kind, took) in ["Wasm", "runc"].iter().zip(&mut took) {
                took.push(measure(&space, kind, count).as_secs_f64());
            }
        }
        let cells = took.map(|mut took| {
            let each = took
                .iter()
                .map(|took| format!("{took:.1}"))
                .collect::<Vec<_>>()
                .join(", ");
            took.sort_by(f64::total_cmp);
            format!("{:.1} ({each})", took[ROUNDS / 2])
        });
        let pods = if count == 1 {
            "1 pod".to_owned()
        } else {
            format!("{count} pods")
        };
        println!("| {pods} | {} | {} |", cells[0], cells[1]);
    }
}
