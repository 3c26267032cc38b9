//! What a pod costs beside its containers is what the RuntimeClass says.

use std::fs;

use lighter_testkit::{Cri, Image, Process, Version};
use serde_json::json;

const PODS: usize = 10;

/// What the RuntimeClass has a pod charged for, in bytes.
fn overhead() -> f64 {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/base/runtimeclass.yaml"
    );
    let text = fs::read_to_string(file).unwrap();
    let (_, memory) = text.split_once("podFixed: {memory: ").unwrap();
    let (mebibytes, _) = memory.split_once("Mi}").unwrap();
    mebibytes.parse::<f64>().unwrap() * 1024.0 * 1024.0
}

/// The process' share of memory that it has mapped, in bytes.
fn share(process: &Process) -> f64 {
    let map = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).unwrap();
    let line = map.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<f64>().unwrap() * 1024.0
}

/// Shims and sandboxes of pods that run a guest each.
#[test]
fn a_pods_overhead_covers_its_shim_and_its_sandbox() {
    let cri = Cri::start(Version::V2);
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "1000"]);
    cri.import(&image);
    let container = json!({ "image": { "image": image.reference() }, "linux": {} });
    let pods: Vec<_> = (0..PODS).map(|_| cri.pod(&json!({}))).collect();
    for pod in &pods {
        pod.start(&container).unwrap();
    }
    let mut processes = cri.containerd().scope().processes();
    processes.retain(|process| process.pid != cri.containerd().pid());
    let guests = |process: &Process| process.comm == "sleep.wasm";
    let count = processes.iter().filter(|process| guests(process)).count();
    assert_eq!((count, processes.len()), (PODS, 3 * PODS));
    processes.retain(|process| !guests(process));
    let each = processes.iter().map(share).sum::<f64>() / PODS as f64;
    println!("{:.2} MiB a pod", each / 1024.0 / 1024.0);
    let promised = overhead();
    assert!(
        each < promised,
        "{each} bytes, and the RuntimeClass says {promised}"
    );
}
