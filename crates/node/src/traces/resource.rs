//! Who has made spans, in the words of OpenTelemetry's conventions.

use std::collections::HashMap;
use std::path::PathBuf;

use lighter_trace::Origin;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::metrics::containers;

/// Most containers whose names are remembered.
const MOST: usize = 1024;

/// The resources of containers, which are looked up once.
pub(super) struct Resources {
    /// Folder of the containers' state.
    root: PathBuf,
    known: HashMap<Origin, Resource>,
}

impl Resources {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            known: HashMap::new(),
        }
    }

    pub(super) fn of(&mut self, origin: &Origin) -> Resource {
        if let Some(resource) = self.known.get(origin) {
            return resource.clone();
        }
        let Some(id) = &origin.container else {
            return resource("containerd-shim-wasmtime-v1", shim(&origin.namespace));
        };
        let labels = containers::labels_of(&self.root, &origin.namespace, id);
        let found = labels.is_some();
        let (name, attributes) = container(&origin.namespace, id, &labels.unwrap_or_default());
        let resource = resource(&name, attributes);
        // One that has gone without a trace may have been too fast; it does not come again.
        if found {
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(origin.clone(), resource.clone());
        }
        resource
    }
}

/// With what `OTEL_RESOURCE_ATTRIBUTES` says of this node.
fn resource(service: &str, attributes: Vec<KeyValue>) -> Resource {
    Resource::builder()
        .with_attributes(attributes)
        .with_service_name(service.to_owned())
        .build()
}

fn shim(namespace: &str) -> Vec<KeyValue> {
    vec![
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("containerd.namespace", namespace.to_owned()),
    ]
}

/// The name of a container's service, and its attributes. `labels` are those of its metrics.
fn container(
    namespace: &str,
    id: &str,
    labels: &[(&'static str, String)],
) -> (String, Vec<KeyValue>) {
    let label = |name: &str| {
        let found = labels.iter().find(|(label, _)| *label == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let pod_namespace = label("namespace");
    let named = [
        ("service.namespace", pod_namespace),
        ("k8s.namespace.name", pod_namespace),
        ("k8s.pod.name", label("pod")),
        ("k8s.container.name", label("container")),
        ("container.image.name", label("image")),
        ("container.id", id),
        ("service.instance.id", id),
        ("container.runtime", "wasmtime"),
        ("containerd.namespace", namespace),
    ];
    let attributes = named
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| KeyValue::new(name, value.to_owned()));
    let name = match label("container") {
        "" => id,
        name => name,
    };
    (name.to_owned(), attributes.collect())
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    #[test]
    fn a_pods_container_is_named_as_in_kubernetes() {
        let labels = [
            ("namespace", "shop".to_owned()),
            ("pod", "cart-1".to_owned()),
            ("container", "cart".to_owned()),
            ("image", String::new()),
        ];
        let (name, attributes) = container("k8s.io", "c0ffee", &labels);
        assert_eq!(name, "cart");
        assert!(attributes.contains(&KeyValue::new("k8s.pod.name", "cart-1")));
        assert!(attributes.contains(&KeyValue::new("container.id", "c0ffee")));
        assert!(
            !attributes
                .iter()
                .any(|pair| pair.key.as_str() == "container.image.name")
        );
        assert_eq!(container("default", "c0ffee", &[]).0, "c0ffee");
    }

    #[test]
    fn a_shim_and_a_container_that_has_gone_have_resources_too() {
        let root = tempfile::tempdir().unwrap();
        let mut resources = Resources::new(root.path().to_owned());
        let mut service = |container: Option<&str>| {
            let resource = resources.of(&Origin {
                namespace: "default".to_owned(),
                container: container.map(str::to_owned),
            });
            resource.get(&Key::new("service.name")).unwrap().to_string()
        };
        assert_eq!(service(None), "containerd-shim-wasmtime-v1");
        assert_eq!(service(Some("gone")), "gone");
    }
}
