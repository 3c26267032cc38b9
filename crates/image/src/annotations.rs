//! Annotations of a container by which other runtimes know that it is Wasm, and those of an
//! image that mean something here.
//!
//! crun (`handler-utils.c`) takes `run.oci.handler: wasm` and `module.wasm.image/variant: compat`
//! as "this is Wasm, whatever it looks like", and `wasm-smart` and `compat-smart` as "it is, if
//! the entrypoint's name ends so": a pod's annotation reaches its sidecars too. WasmEdge's
//! documents ask for them; runwasi reads none. Here the Wasm is found without them, so that they
//! confirm and nothing else: what is not Wasm then is an error.

use oci_spec::runtime::Spec;

/// Asks, with the value `true`, that the Wasm layers of an image are composed: on a manifest for
/// all containers of the image, on a container for that one, which counts more.
pub const COMPOSE: &str = "lighter.dev/compose";

/// CRI's word for what a container is in its pod.
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// The annotation, name and value, that says that the container of `spec` is Wasm.
///
/// Other values ask for other handlers of crun, and mean nothing here, as they mean nothing to runc.
/// The process that holds a pod's namespaces is never meant.
pub fn demands_wasm(spec: &Spec) -> Option<String> {
    let annotations = spec.annotations().as_ref()?;
    if annotations.get(CONTAINER_TYPE).map(String::as_str) == Some("sandbox") {
        return None;
    }
    let (name, value) = ["run.oci.handler", "module.wasm.image/variant"]
        .into_iter()
        .find_map(|name| Some((name, annotations.get(name)?)))?;
    let holds = match value.as_str() {
        "wasm" | "compat" => true,
        "wasm-smart" | "compat-smart" => is_called_wasm(spec),
        _ => false,
    };
    holds.then(|| format!("{name}: {value}"))
}

/// Whether the entrypoint's name ends as those of Wasm do, in either format.
fn is_called_wasm(spec: &Spec) -> bool {
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().as_ref());
    let name = args.and_then(|args| args.first());
    name.is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        let path = name.split('#').next().unwrap_or_default();
        path.ends_with(".wasm") || path.ends_with(".wat")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    use super::*;

    fn demanded(entrypoint: &str, annotations: &[(&str, &str)]) -> Option<String> {
        let process = ProcessBuilder::default()
            .args(vec![entrypoint.to_owned()])
            .cwd("/")
            .build()
            .unwrap();
        let annotations: HashMap<String, String> = annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let spec = SpecBuilder::default()
            .process(process)
            .annotations(annotations)
            .build()
            .unwrap();
        demands_wasm(&spec)
    }

    #[test]
    fn annotations_mean_what_they_mean_to_crun() {
        let handler = "run.oci.handler";
        let variant = "module.wasm.image/variant";
        for (entrypoint, annotation, value, wasm) in [
            ("/app", handler, "wasm", true),
            ("/app", variant, "compat", true),
            ("/app", handler, "wasm-smart", false),
            ("/app", variant, "compat-smart", false),
            ("/app.wasm", handler, "wasm-smart", true),
            ("/APP.WASM#run", variant, "compat-smart", true),
            ("/app.wat", variant, "compat-smart", true),
            ("/app.wasm", handler, "krun", false),
            ("/app.wasm", "other", "wasm", false),
        ] {
            let found = demanded(entrypoint, &[(annotation, value)]);
            assert_eq!(found.is_some(), wasm, "{entrypoint} {annotation}={value}");
        }
        // The handler decides when both are there.
        let both = [(handler, "krun"), (variant, "compat")];
        assert_eq!(demanded("/app", &both), None);
    }

    #[test]
    fn a_pods_own_process_is_not_meant() {
        let pod = [("run.oci.handler", "wasm"), (CONTAINER_TYPE, "sandbox")];
        assert_eq!(demanded("/pause", &pod), None);
        let container = [("run.oci.handler", "wasm"), (CONTAINER_TYPE, "container")];
        assert!(demanded("/app", &container).is_some());
    }
}
