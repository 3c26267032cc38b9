//! A program that is no file of the rootfs, but a layer of the image.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use lighter_container::{Workload, apart};
use lighter_core::{ErrorClass, Failure};
use lighter_image::{ContentError, LayerProgram};
use lighter_wasm::{ArtifactCache, Program};
use oci_spec::runtime::Spec;

use super::{Container, Node, WasmGuest, prepare};

/// The layer that the container runs; `no_file` says why it runs no file, and is the answer for
/// an image that is files and nothing else.
///
/// The client of containerd lives in children of this process, which becomes the container's.
pub(super) fn find(
    spec: &Spec,
    container: &Container<'_>,
    node: &Node<'_>,
    no_file: Failure,
) -> Result<Workload, Failure> {
    let args = spec.process().as_ref().and_then(|it| it.args().as_ref());
    let entrypoint = args.and_then(|args| args.first()).map(String::as_str);
    let found = apart(|| {
        let found = container.store.find(container.id, entrypoint);
        found.map_err(|error| failure(&error))
    });
    let layer = match found {
        Ok(Some(layer)) => layer,
        Ok(None) => return Err(no_file),
        Err(failure) => {
            return Err(Failure::new(
                no_file.class,
                format!("{no_file}; {}", failure.message),
            ));
        }
    };
    let (options, cache) = prepare(spec, node)?;
    let content = &layer.program.content;
    let name = format!("the layer {} of {}", content.digest(), layer.image);
    let fetch = || fetch(&layer, container, &cache);
    let program = Program::load_content(
        content.sha256(),
        &fetch,
        &name,
        layer.program.export.as_deref(),
        &cache,
        options,
    )
    .map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))?;
    let called = entrypoint.or(layer.program.title.as_deref());
    Ok(Workload::Guest {
        guest: Box::new(WasmGuest(program)),
        path: PathBuf::from(called.unwrap_or(content.sha256())),
        identity: None,
    })
}

/// The layer's bytes, compared with its digest, in a file of this node.
fn fetch(
    layer: &LayerProgram,
    container: &Container<'_>,
    cache: &ArtifactCache,
) -> io::Result<File> {
    let (size, limit) = (layer.program.content.size(), cache.source_limit());
    if size > limit {
        return Err(io::Error::other(format!(
            "it has {} MiB, more than the {} MiB that this node accepts (option `source-bytes` of the cache)",
            size >> 20,
            limit >> 20
        )));
    }
    let file = cache.scratch_file().map_err(io::Error::other)?;
    apart(|| {
        let read = container.store.read(layer, &file);
        read.map_err(|error| failure(&error))
    })
    .map_err(|failure| io::Error::other(failure.message))?;
    Ok(file)
}

fn failure(error: &ContentError) -> Failure {
    let class = match error {
        ContentError::Containerd { .. } | ContentError::Write { .. } => ErrorClass::Internal,
        ContentError::Form { .. } | ContentError::Gone { .. } => ErrorClass::InvalidArgument,
    };
    Failure::from_error(class, error)
}
