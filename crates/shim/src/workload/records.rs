//! What is recorded of a container's guest, if its pod asks for that and may.

use std::path::PathBuf;

use lighter_container::ContainerLocation;
use lighter_core::Failure;
use lighter_wasm::Options;
use lighter_wasm::debugging::{DebugFolder, Record, Subject};
use oci_spec::runtime::Spec;

use super::{Container, Node};
use crate::options;

fn folder() -> DebugFolder {
    DebugFolder::new(PathBuf::from(DebugFolder::DEFAULT))
}

/// The options of a container's guest, or of a guest beside it.
pub(super) fn options(
    spec: &Spec,
    container: &Container<'_>,
    node: &Node<'_>,
) -> Result<Options, Failure> {
    let mut options = options::for_container(&node.options, spec)?;
    if container.is_exec {
        options.debug.clear();
    }
    Ok(options)
}

/// The files that are written to for these options, if any.
pub(super) fn open(
    options: &Options,
    program: &str,
    spec: &Spec,
    container: &Container<'_>,
) -> Result<Option<Record>, Failure> {
    if options.debug.is_empty() {
        return Ok(None);
    }
    let subject = Subject {
        namespace: container.store.namespace.clone(),
        id: container.id.to_owned(),
        pod: pod(spec),
        program: program.to_owned(),
    };
    folder()
        .record(&subject, &options.debug, options.debug_bytes)
        .map(Some)
        .map_err(|error| {
            Failure::internal(format!(
                "cannot record what lighter.dev/debug asks for: {error}"
            ))
        })
}

/// Removes what nothing was written to, after the container's end. What cannot be removed stays, and
/// `lighter debug` shows it: it keeps nobody from deleting the container.
pub(crate) fn settle(location: &ContainerLocation) {
    if let Err(error) = folder().settle(location.namespace.as_str(), location.id.as_str()) {
        lighter_container::warn(format!("its records cannot be removed: {error}"));
    }
}

/// NAMESPACE/POD/CONTAINER, by CRI's annotations.
fn pod(spec: &Spec) -> Option<String> {
    let annotations = spec.annotations().as_ref()?;
    let value = |name: &str| annotations.get(&format!("io.kubernetes.cri.{name}"));
    Some(format!(
        "{}/{}/{}",
        value("sandbox-namespace")?,
        value("sandbox-name")?,
        value("container-name")?
    ))
}
