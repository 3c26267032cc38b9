//! Pods of several kinds, on a private containerd with its CRI.

use lighter_testkit::{Cri, Image, Pod};
use serde_json::json;

/// The services' ports, on this machine's own network.
pub const SHOP: u16 = 18081;
pub const CART: u16 = 18082;

/// Two services, and a program that has memory. They are there as long as what is returned.
pub fn start(cri: &Cri) -> [Pod<'_>; 3] {
    [
        run(cri, "shop", "http-hello", SHOP, &[]),
        run(cri, "cart", "http-python", CART, &[]),
        run(cri, "index", "grow", 0, &["/grow.wasm", "24", "10000"]),
    ]
}

/// Starts a guest in a pod of its own.
fn run<'a>(cri: &'a Cri, name: &str, guest: &str, port: u16, command: &[&str]) -> Pod<'a> {
    let image = Image::wasm(guest);
    cri.import(&image);
    let pod = cri.pod_named(&format!("{name}-0"), &json!({}));
    let mut container = json!({
        "metadata": { "name": name },
        "image": { "image": image.reference() },
        "envs": [{ "key": "PORT", "value": port.to_string() }],
        "linux": {},
    });
    if !command.is_empty() {
        container["command"] = json!(command);
    }
    pod.start(&container)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    pod
}
