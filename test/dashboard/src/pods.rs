//! Pods of several kinds, on a private containerd with its CRI.

use std::fs;
use std::path::Path;

use lighter_testkit::{Cri, Image, Version};
use serde_json::json;

/// The services' ports, on this machine's own network.
pub const SHOP: u16 = 18081;
pub const CART: u16 = 18082;

pub struct Pods {
    cri: Cri,
    ids: Vec<String>,
}

impl Pods {
    /// Two services, and a program that has memory.
    pub fn start() -> Self {
        let mut pods = Self {
            cri: Cri::start(Version::V2),
            ids: Vec::new(),
        };
        pods.run("shop", "http-hello", SHOP, &[]);
        pods.run("cart", "http-python", CART, &[]);
        pods.run("index", "grow", 0, &["/grow.wasm", "24", "10000"]);
        pods
    }

    pub fn folder(&self) -> &Path {
        self.cri.containerd().folder()
    }

    /// Starts a guest in a pod of its own.
    fn run(&mut self, name: &str, guest: &str, port: u16, command: &[&str]) {
        let image = Image::wasm(guest);
        self.cri.import(&image);
        // Network mode 2 is the node's.
        let pod = json!({
            "metadata": { "name": format!("{name}-0"), "namespace": "default", "uid": name },
            "linux": {
                "cgroup_parent": format!("/{}", self.cri.containerd().namespace()),
                "security_context": { "namespace_options": { "network": 2 } },
            },
        });
        let mut container = json!({
            "metadata": { "name": name },
            "image": { "image": image.reference() },
            "envs": [{ "key": "PORT", "value": port.to_string() }],
            "linux": {},
        });
        if !command.is_empty() {
            container["command"] = json!(command);
        }
        let file = |kind: &str, value: &serde_json::Value| {
            let path = self.folder().join(format!("{name}-{kind}.json"));
            fs::write(&path, value.to_string()).expect("write a request");
            path.display().to_string()
        };
        let (pod, container) = (file("pod", &pod), file("container", &container));
        let call = |arguments: &[&str]| self.cri.crictl(arguments).ok().trim().to_owned();
        let id = call(&["runp", "--runtime", "wasmtime", &pod]);
        let container = call(&["create", "--no-pull", &id, &container, &pod]);
        call(&["start", &container]);
        self.ids.push(id);
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for id in &self.ids {
            self.cri.crictl(&["rmp", "--force", id]).output();
        }
    }
}
