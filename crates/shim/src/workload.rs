//! What a container runs: a program of its image, or a guest on Wasmtime.

use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lighter_container::{Guest, GuestProcess, Workload};
use lighter_core::{ErrorClass, ExitReason, Failure};
use lighter_image::annotations::demands_wasm;
use lighter_image::{
    ContentStore, Entrypoint, EntrypointError, Format, Wanted, find_entrypoint, find_program,
};
use lighter_wasm::{
    ArtifactCache, Heap, Job, MemoryLimit, NodeOptions, Owner, Program, ProgramError,
};
use oci_spec::runtime::Spec;

use crate::allocator;
use crate::trace::OperationTrace;

mod layer;
pub(crate) mod records;

/// Where compiled code is kept. Root's alone: what is in it is run as it is.
const ARTIFACTS: &str = "/var/lib/lighter/artifacts";

/// How long a container of Kubernetes waits until its program is compiled: kubelet gives a start two
/// minutes, after which its event says nothing but that. It tries again.
const CRI_PATIENCE: Duration = Duration::from_secs(105);

/// What a node gives to all of its containers.
pub(crate) struct Node<'a> {
    pub(crate) options: NodeOptions,
    /// The compile worker's program.
    pub(crate) compiler: &'a Path,
    /// What spans are made with, if they are.
    pub(crate) trace: Option<&'a OperationTrace>,
}

/// A container as containerd knows it.
pub(crate) struct Container<'a> {
    pub(crate) store: ContentStore,
    pub(crate) id: &'a str,
    /// Whether it is a process beside the container's own, of which nothing is recorded: there
    /// may be endlessly many.
    pub(crate) is_exec: bool,
}

/// Finds the container's entrypoint and, if it is Wasm, maps its compiled code.
///
/// Runs in the fork that creates the container, before libcontainer does anything. containerd is
/// asked about the image only if the rootfs has no such file: most containers never wait for it.
pub(crate) fn find(
    spec: &Spec,
    rootfs: &Path,
    container: &Container<'_>,
    node: &Node<'_>,
) -> Result<Workload, Failure> {
    let no_file = match find_entrypoint(spec, rootfs) {
        Ok(entrypoint) => {
            confirm(&entrypoint, spec)?;
            return workload(entrypoint, spec, rootfs, container, node);
        }
        Err(error) => error,
    };
    let failure = Failure::from_error(ErrorClass::InvalidArgument, &no_file);
    if is_no_file(&no_file) {
        let wanted = Wanted::Entrypoint(first_argument(spec));
        layer::find(wanted, spec, container, node, failure)
    } else {
        Err(failure)
    }
}

/// Whether what is not there as a file may be a layer.
fn is_no_file(error: &EntrypointError) -> bool {
    matches!(
        error,
        EntrypointError::NoArgs
            | EntrypointError::NotInPath { .. }
            | EntrypointError::Missing { .. }
    )
}

fn first_argument(spec: &Spec) -> Option<&str> {
    let args = spec.process().as_ref()?.args().as_ref()?;
    args.first().map(String::as_str)
}

/// Refuses what is not Wasm where an annotation says that it is.
fn confirm(entrypoint: &Entrypoint, spec: &Spec) -> Result<(), Failure> {
    match demands_wasm(spec) {
        Some(annotation) if entrypoint.format != Format::Wasm => Err(refuse(
            &entrypoint.path,
            &format!(
                "the annotation {annotation} says that this container is Wasm, but the file is not"
            ),
        )),
        _ => Ok(()),
    }
}

fn workload(
    entrypoint: Entrypoint,
    spec: &Spec,
    rootfs: &Path,
    container: &Container<'_>,
    node: &Node<'_>,
) -> Result<Workload, Failure> {
    match entrypoint.format {
        Format::Wasm => guest(entrypoint, spec, container, node),
        Format::Elf if lighter_wasm::is_precompiled(&head(&entrypoint)?) => Err(refuse(
            &entrypoint.path,
            "the image holds code that was compiled ahead of time by Wasmtime; only code that this node compiled itself is run, so ship the .wasm",
        )),
        Format::Elf | Format::Script => match wasm_behind_init(spec, rootfs) {
            Some(module) => Err(refuse(
                &entrypoint.path,
                &format!(
                    "it cannot start {module}, because Linux cannot execute Wasm; run without --init: a guest ends on every signal and has no children to reap"
                ),
            )),
            None => Ok(Workload::Native),
        },
        // The order of execve: who may not run a file is not told what is wrong with it.
        Format::Unknown if !is_executable(&entrypoint)? => Err(refuse(
            &entrypoint.path,
            "permission denied: the file is neither Wasm nor executable",
        )),
        Format::Unknown => Err(refuse(
            &entrypoint.path,
            "exec format error: the file is neither Wasm nor an ELF program nor a script that starts with #!",
        )),
    }
}

/// Finds what an exec runs in a container whose root is seen at `root`: in a guest's container
/// as [`find`] does, in a Linux container native programs only. A layer has to be named by its
/// title: an exec of what is not there must not start the only program once more.
pub(crate) fn find_exec(
    spec: &Spec,
    root: &Path,
    is_guest: bool,
    container: &Container<'_>,
    node: &Node<'_>,
) -> Result<Workload, Failure> {
    let entrypoint = match find_entrypoint(spec, root) {
        Ok(entrypoint) => entrypoint,
        Err(error) => {
            let failure = Failure::from_error(ErrorClass::InvalidArgument, &error);
            if !is_guest {
                return Err(failure);
            }
            let failure = Failure::new(
                failure.class,
                format!(
                    "{failure}; this is a Wasm container, which runs the .wasm files and Wasm layers of its image, and Linux programs only if the image brings them"
                ),
            );
            return match first_argument(spec) {
                Some(name) if is_no_file(&error) => {
                    layer::find(Wanted::Exec(name), spec, container, node, failure)
                }
                _ => Err(failure),
            };
        }
    };
    if !is_guest && entrypoint.format == Format::Wasm {
        return Err(refuse(
            &entrypoint.path,
            "exec format error: the file is Wasm, but this is a Linux container, which a guest could reach the kernel's files in; run it as a container of its own",
        ));
    }
    workload(entrypoint, spec, root, container, node)
}

/// The module that a minimal init (`docker run --init`: `docker-init -- PROGRAM`) would start.
fn wasm_behind_init(spec: &Spec, rootfs: &Path) -> Option<String> {
    let args = spec.process().as_ref()?.args().as_ref()?;
    let name = args.iter().skip(1).skip_while(|arg| *arg != "--").nth(1)?;
    let program = find_program(spec, rootfs, name).ok()?;
    (program.format == Format::Wasm).then(|| name.clone())
}

fn refuse(path: &Path, why: &str) -> Failure {
    Failure::invalid(format!("exec: {path:?}: {why}"))
}

/// Whether anybody may execute the file.
fn is_executable(entrypoint: &Entrypoint) -> Result<bool, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = entrypoint.file.metadata();
    metadata
        .map(|metadata| metadata.permissions().mode() & 0o111 != 0)
        .map_err(|error| refuse(&entrypoint.path, &error.to_string()))
}

fn head(entrypoint: &Entrypoint) -> Result<Vec<u8>, Failure> {
    use std::os::unix::fs::FileExt;
    let mut head = vec![0; 4096];
    let length = entrypoint
        .file
        .read_at(&mut head, 0)
        .map_err(|error| refuse(&entrypoint.path, &error.to_string()))?;
    head.truncate(length);
    Ok(head)
}

fn guest(
    entrypoint: Entrypoint,
    spec: &Spec,
    container: &Container<'_>,
    node: &Node<'_>,
) -> Result<Workload, Failure> {
    let options = records::options(spec, container, node)?;
    let cache = cache(spec, container, node);
    let name = entrypoint.path.display().to_string();
    let record = records::open(&options, &name, spec, container)?;
    let export = entrypoint.export.as_deref();
    let mut program = load(&name, container, node, || {
        Program::load(entrypoint.file, &name, export, &cache, options)
    })?;
    if let Some(record) = record {
        program.record(record);
    }
    Ok(Workload::Guest {
        guest: Box::new(WasmGuest(program)),
        path: entrypoint.path,
        identity: Some(entrypoint.identity),
    })
}

/// Has a program loaded, and makes a span of it.
fn load(
    name: &str,
    container: &Container<'_>,
    node: &Node<'_>,
    load: impl FnOnce() -> Result<Program, ProgramError>,
) -> Result<Program, Failure> {
    let loading = node.trace.map(|trace| trace.load(container.id, name));
    let loaded = load().map_err(|error| Failure::from_error(error.class(), &error));
    if let Some(loading) = loading {
        loading.done(match &loaded {
            Ok(program) => Ok(program.compile_time()),
            Err(failure) => Err(&failure.message),
        });
    }
    loaded
}

/// Where a guest's code comes from. Asked for by whoever is about to load one.
fn cache(spec: &Spec, container: &Container<'_>, node: &Node<'_>) -> ArtifactCache {
    // Wasmtime chains its trap handlers to those that stand when its engine is made.
    lighter_wasm::exit_on_fatal_signals();
    let cache = ArtifactCache::new(PathBuf::from(ARTIFACTS), node.compiler.to_owned())
        .with_limits(node.options.cache.clone())
        .for_owner(owner(spec, container))
        .with_jobs(detached);
    match annotation(spec, "container-type") {
        Some(_) => cache.with_patience(CRI_PATIENCE),
        None => cache,
    }
}

/// Does a job in a process of its own, which goes on when the operation is killed.
fn detached(job: Job<'_>) -> Result<Option<bool>, Failure> {
    let descriptors = job.descriptors.clone();
    lighter_container::detached(&descriptors, job.patience(), || {
        job.confine()?;
        job.run()
    })
}

/// An annotation that containerd gives to containers of Kubernetes.
fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a String> {
    let annotations = spec.annotations().as_ref()?;
    annotations.get(&format!("io.kubernetes.cri.{name}"))
}

/// Who shares the node's compilations with others: by CRI's annotations, where there are any.
fn owner(spec: &Spec, container: &Container<'_>) -> Owner {
    let value = |name: &str| annotation(spec, name);
    let namespace = &container.store.namespace;
    Owner {
        tenant: match value("sandbox-namespace") {
            Some(inner) => format!("{namespace}/{inner}"),
            None => namespace.clone(),
        },
        pod: value("sandbox-id")
            .map_or(container.id, String::as_str)
            .to_owned(),
    }
}

struct WasmGuest(Program);

impl Guest for WasmGuest {
    fn run(self: Box<Self>, process: GuestProcess) -> ExitReason {
        allocator::stop_wiping();
        self.0.run(lighter_wasm::Guest {
            args: process.args,
            env: process.env,
            cwd: process.cwd,
            memory_limit: process
                .context
                .memory_limit
                .map(|limit| Arc::new(move || limit.bytes()) as MemoryLimit),
            heap: Heap {
                bytes: allocator::heap_bytes,
                trim: allocator::trim,
            },
            counters: process.context.counters,
            trace: process.context.trace,
        })
    }

    fn descriptors(&self) -> std::io::Result<Vec<RawFd>> {
        self.0.descriptors()
    }

    fn take_memory_map_sender(&mut self) -> Option<OwnedFd> {
        self.0.take_memory_map_sender()
    }
}
