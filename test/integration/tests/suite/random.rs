//! Random values: each container and each instance has its own, although those of a pod are
//! forks of one process.

use std::collections::BTreeSet;

use lighter_testkit::{Containerd, Image, Network, Version};

use crate::shims;
use lighter_testkit::shim::eventually;

/// What `ctr run` is told for a container of this pod.
const POD: [&str; 2] = ["--annotation", "io.kubernetes.cri.sandbox-id=pod-1"];

/// Commands by preview 1 and by 0.2, each twice, while one container keeps the pod's shim.
#[test]
fn commands_of_a_pod_have_random_values_of_their_own() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::wasm("random")
        .guest("/component.wasm", "random-component")
        .guest("/sleep.wasm", "sleep");
    containerd.import(&image);
    let run = |path: &str| containerd.run(&image).flags(POD).arguments([path]);
    containerd
        .run(&image)
        .flags(POD)
        .arguments(["/sleep.wasm", "100"])
        .detach();
    let paths = ["/random.wasm", "/component.wasm"].repeat(3);
    let values: Vec<String> = paths.iter().map(|path| run(path).output().ok()).collect();
    assert_eq!(shims(&containerd).len(), 1);
    assert!(values.iter().all(|value| value.len() == 33), "{values:?}");
    assert_eq!(
        values.iter().collect::<BTreeSet<_>>().len(),
        values.len(),
        "{values:?}"
    );
}

/// The first values that each interface of wasi:random 0.2 gives, also those that need not be
/// good ones: tables of a program are made by them.
#[test]
fn instances_of_services_have_random_values_of_their_own() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::wasm("http-hello");
    containerd.import(&image);
    let network = Network::new();
    let ports = ["8080", "8081", "8082"];
    for port in ports {
        containerd
            .run(&image)
            .flags(network.flags())
            .flags(POD)
            .flags(["--env", &format!("PORT={port}")])
            .detach();
    }
    let mut values = Vec::new();
    for port in ports.repeat(3) {
        let url = format!("http://127.0.0.1:{port}/random");
        eventually("the service answers", || {
            network.curl([&url]).output().status.success()
        });
        values.extend(network.curl([&url]).ok().lines().map(str::to_owned));
    }
    assert_eq!(shims(&containerd).len(), 1);
    assert_eq!(values.len(), 3 * 3 * ports.len());
    assert!(values.iter().all(|value| value.len() == 32), "{values:?}");
    assert_eq!(
        values.iter().collect::<BTreeSet<_>>().len(),
        values.len(),
        "{values:?}"
    );
}
