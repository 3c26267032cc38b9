//! A program that is no file of the rootfs, but a layer of the image, or several that are composed.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use lighter_container::{Workload, apart};
use lighter_core::{ErrorClass, Failure};
use lighter_image::{ContentError, LayerProgram, Wanted, WasmLayer};
use lighter_wasm::{ArtifactCache, Composition, Options, Part, Program, ProgramError};
use oci_spec::runtime::Spec;

use super::{Container, Node, WasmGuest, cache, records};

/// The layer that a process runs; `no_file` says why it runs no file, and is the answer for
/// an image that is files and nothing else.
///
/// The client of containerd lives in children of this process, which becomes the container's.
pub(super) fn find(
    wanted: Wanted<'_>,
    spec: &Spec,
    container: &Container<'_>,
    node: &Node<'_>,
    no_file: Failure,
) -> Result<Workload, Failure> {
    let options = records::options(spec, container, node)?;
    let found = apart(|| {
        let found = container.store.find(container.id, wanted, options.compose);
        found.map_err(|error| failure(&error))
    });
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => return Err(no_file),
        Err(failure) => {
            return Err(Failure::new(
                failure.class,
                format!("{no_file}; {}", failure.message),
            ));
        }
    };
    let cache = cache(spec, container, node);
    let name = format!(
        "the layer {} of {}",
        found.program.layer.content.digest(),
        found.image
    );
    let record = records::open(&options, &name, spec, container)?;
    let mut program = super::load(&name, container, node, || {
        load(&found, &name, container, &cache, options)
    })?;
    if let Some(record) = record {
        program.record(record);
    }
    let layer = &found.program.layer;
    let called = match wanted {
        Wanted::Exec(name) => Some(name),
        Wanted::Entrypoint(name) => name.or(layer.title.as_deref()),
    };
    Ok(Workload::Guest {
        guest: Box::new(WasmGuest(program)),
        path: PathBuf::from(called.unwrap_or(layer.content.sha256())),
        identity: None,
    })
}

fn load(
    found: &LayerProgram,
    name: &str,
    container: &Container<'_>,
    cache: &ArtifactCache,
    options: Options,
) -> Result<Program, ProgramError> {
    let program = &found.program;
    let content = &program.layer.content;
    let export = program.export.as_deref();
    let total = layers(found).fold(0u64, |total, layer| {
        total.saturating_add(layer.content.size())
    });
    let fetch = |layer: &WasmLayer| {
        check_size(total, cache)?;
        fetch(found, layer, container, cache)
    };
    if program.others.is_empty() {
        let fetch = || fetch(&program.layer);
        return Program::load_content(content.sha256(), &fetch, name, export, cache, options);
    }
    let parts: Vec<Part> = layers(found)
        .map(|layer| Part {
            name: layer.name(),
            digest: layer.content.sha256().to_owned(),
        })
        .collect();
    let fetch = |part: &Part| {
        layers(found)
            .find(|layer| layer.content.sha256() == part.digest)
            .ok_or_else(|| io::Error::other("the layer is none of the image"))
            .and_then(fetch)
    };
    let composition = Composition::new(&parts, &fetch);
    Program::load_composition(composition, name, export, cache, options)
}

/// All layers that are needed, the program first.
fn layers(found: &LayerProgram) -> impl Iterator<Item = &WasmLayer> {
    let program = &found.program;
    std::iter::once(&program.layer).chain(&program.others)
}

/// Whether this node accepts so much, before it reads any of it.
fn check_size(total: u64, cache: &ArtifactCache) -> io::Result<()> {
    let limit = cache.source_limit();
    if total > limit {
        let message = format!(
            "it has {} MiB, more than the {} MiB that this node accepts (option `source-bytes` of the cache)",
            total >> 20,
            limit >> 20
        );
        return Err(io::Error::other(Failure::new(
            ErrorClass::ResourceExhausted,
            message,
        )));
    }
    Ok(())
}

/// A layer's bytes, compared with its digest, in a file of this node.
fn fetch(
    found: &LayerProgram,
    layer: &WasmLayer,
    container: &Container<'_>,
    cache: &ArtifactCache,
) -> io::Result<File> {
    let file = cache
        .scratch_file()
        .map_err(|error| io::Error::other(Failure::new(error.class(), error.to_string())))?;
    apart(|| {
        let read = container.store.read(&found.image, &layer.content, &file);
        read.map_err(|error| failure(&error))
    })
    .map_err(io::Error::other)?;
    Ok(file)
}

fn failure(error: &ContentError) -> Failure {
    let class = match error {
        ContentError::Containerd { .. } => ErrorClass::Internal,
        ContentError::Write { error, .. } => ErrorClass::of_io(error),
        ContentError::Form { .. }
        | ContentError::NoSuchLayer { .. }
        | ContentError::Gone { .. } => ErrorClass::InvalidArgument,
    };
    Failure::from_error(class, error)
}
