//! Create: from a bundle to an init that waits for Start.

use std::io::{BufWriter, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use lighter_core::{Created, Descriptor, ErrorClass, Executed, Failure, Mount, Stdio};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::counters::CountersPage;
use crate::diagnosis::Diagnosis;
use crate::executor::{ContainerExecutor, GuestContext, Workload};
use crate::fork::pidfd_open;
use crate::manage::ContainerLocation;
use crate::memory_limit::MemoryLimit;
use crate::memory_map::{MemoryMapSender, host_proc};
use crate::mount_points::ContainerTree;
use crate::spec_file::load_spec;
use crate::trace::{GuestEnd, TraceRequest};
use crate::user_namespace::UserNamespace;
use crate::warnings;
use crate::{
    cgroup_files, console, cwd, dev, devices, guest_view, hooks, keyring, limits, loopback, manage,
    memory_limit, memory_watch, native_spec, rootfs, staged_volumes, state_dir, stdio,
    user_namespace, validation,
};

/// What Create is asked for.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Which container, and where its files are.
    pub location: ContainerLocation,
    /// Mounts that make up the rootfs; empty if it is there already.
    pub rootfs: Vec<Mount>,
    /// Where the container reads and writes.
    pub stdio: Stdio,
    /// How its guest makes spans, if they are wanted.
    pub trace: Option<TraceRequest>,
}

/// Creates the container. `workload` finds out what its entrypoint is, from the spec and the
/// path of the mounted rootfs. What the shim needs of it is put into `handed`, and named in the
/// answer.
///
/// Runs in a fork of the shim, see [`crate::Operation`]. On an error nothing is left behind.
pub fn create(
    request: &CreateRequest,
    handed: &mut Vec<OwnedFd>,
    workload: impl FnOnce(&Spec, &Path) -> Result<Workload, Failure>,
) -> Result<Created, Failure> {
    let location = &request.location;
    if location.state().exists() {
        return Err(Failure::new(
            ErrorClass::AlreadyExists,
            format!(
                "container {} exists already in namespace {}",
                location.id, location.namespace
            ),
        ));
    }
    build(request, handed, workload).map_err(|failure| {
        let message = match manage::remove(location) {
            Ok(()) => failure.message,
            Err(left) => format!("{}; and cleaning up failed: {left}", failure.message),
        };
        Failure::new(
            failure.class,
            format!("cannot create container {}: {message}", location.id),
        )
    })
}

fn build(
    request: &CreateRequest,
    handed: &mut Vec<OwnedFd>,
    workload: impl FnOnce(&Spec, &Path) -> Result<Workload, Failure>,
) -> Result<Created, Failure> {
    let location = &request.location;
    let (mut spec, mut differs) = load_spec(&location.bundle)?;
    validation::check(&spec)?;
    differs |= location.set_default_cgroup_path(&mut spec);
    let users = UserNamespace::of_container(&mut spec)?;
    differs |= users.is_some() || staged_volumes::has_mapped(&spec);
    let systemd = cgroup_files::uses_systemd(&spec)?;
    cgroup_files::require_empty(location)?;
    state_dir::create(location)
        .map_err(|error| Failure::internal(format!("cannot make the state directory: {error}")))?;
    rootfs::mount(&request.rootfs, &location.rootfs())?;
    let rootfs = rootfs_of(&spec, &location.bundle)?;
    let tree = ContainerTree::new(&spec, &rootfs)?;
    dev::create_missing(&tree, &rootfs)?;
    let is_cwd_late = cwd::create_missing(&spec, &tree, &rootfs)?;
    let mut workload = workload(&spec, &rootfs)?;
    let is_guest = matches!(workload, Workload::Guest { .. });
    let memory_limit = if is_guest {
        Some(memory_limit::create(location, &spec)?)
    } else {
        None
    };
    let mut descriptors = workload.descriptors()?;
    descriptors.extend(memory_limit.iter().map(MemoryLimit::descriptor));
    let memory_map = MemoryMapSender::new(&mut workload);
    let mut context = GuestContext {
        memory_limit,
        ..GuestContext::default()
    };
    let spans = GuestEnd::open(request.trace.as_ref(), &workload);
    if let Some(spans) = &spans {
        spans.give(&mut context, &mut descriptors);
    }
    let page = if is_guest {
        CountersPage::new(location)
            .map_err(|error| uncounted(&error))
            .ok()
    } else {
        None
    };
    if let Some(page) = &page {
        context.counters = page.counters;
    }

    let mapped = |spec: &mut Spec| {
        if let Some(users) = &users {
            users.give_to(spec);
        }
        staged_volumes::stage(spec, &location.bundle, users.as_ref(), is_guest)
    };
    let mut volumes = None;
    let (adapted, mut late) = native_spec::adapt(&spec, &tree, is_cwd_late)?;
    if is_guest {
        late = late.without_propagation();
    }
    let adapted = adapted.or_else(|| differs.then(|| spec.clone()));
    let bundle = if let Workload::Guest { path, .. } = &workload {
        let mut spec = guest_view::restrict(adapted.unwrap_or_else(|| spec.clone()), &rootfs)?;
        name_program(&mut spec, path);
        volumes = mapped(&mut spec)?;
        write_bundle(location.guest_bundle(), spec)?
    } else if let Some(mut spec) = adapted {
        guest_view::set_root(&mut spec, &rootfs);
        volumes = mapped(&mut spec)?;
        write_bundle(location.native_bundle(), spec)?
    } else {
        location.bundle.clone()
    };
    let prepared = Prepared {
        bundle,
        systemd,
        workload,
        descriptors,
        context,
        late_cwd: late.cwd().map(Path::to_owned),
    };
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().clone());
    let resources = resources.map(limits::possible).transpose()?;
    keyring::join(location)?;
    let executed = run_libcontainer(request, &spec, prepared, handed);
    drop(volumes);
    let mut executed = executed.map_err(|failure| {
        // libcontainer has removed its state, and with it the hooks that a removal calls.
        hooks::run_poststop(location, &spec);
        limits::explain(resources.as_ref(), failure)
    })?;
    if users.is_some() {
        user_namespace::set_limits(&spec, executed.pid)?;
    }
    state_dir::restrict(location).map_err(|error| {
        Failure::internal(format!(
            "cannot make the container's state private: {error}"
        ))
    })?;
    devices::confine(location, &spec)?;
    if let Some(resources) = resources {
        limits::complete(location, &resources)?;
    }
    loopback::bring_up(&spec, executed.pid)?;
    late.apply(executed.pid)?;
    if is_guest {
        guest_view::seal(executed.pid)?;
    }
    if let Some(memory_map) = memory_map {
        memory_map.send(host_proc()?, executed.pid)?;
    }
    if let Some(page) = page
        && let Err(error) = page.publish(location, executed.pid)
    {
        uncounted(&error);
    }
    if let Some(spans) = spans {
        spans.hand_over(&mut executed, handed);
    }
    // A host without a memory controller has nothing to watch.
    if let Ok(watch) = memory_watch::watch(location) {
        for (what, descriptor) in watch {
            executed.descriptors.push(what);
            handed.push(descriptor);
        }
    }
    Ok(Created {
        pid: executed.pid,
        owns_pid_namespace: guest_view::has_own(&spec, LinuxNamespaceType::Pid),
        stdio: executed,
    })
}

/// A container that cannot be watched runs all the same.
fn uncounted(error: &std::io::Error) {
    warnings::warn(format!(
        "the container has no counters for `lighter metrics`: {error}"
    ));
}

/// Gives a guest that would have no argument its name: some images have no entrypoint, and a process
/// without a single argument is nothing that libcontainer or a program expects.
fn name_program(spec: &mut Spec, path: &Path) {
    if let Some(process) = spec.process_mut()
        && process.args().as_ref().is_none_or(Vec::is_empty)
    {
        process.set_args(Some(vec![path.to_string_lossy().into_owned()]));
    }
}

/// What is known of a container before libcontainer makes it.
struct Prepared {
    /// The folder whose `config.json` libcontainer reads.
    bundle: PathBuf,
    /// Whether systemd makes the cgroup.
    systemd: bool,
    workload: Workload,
    /// Descriptors that the workload needs.
    descriptors: Vec<RawFd>,
    context: GuestContext,
    /// The working directory, if libcontainer cannot enter it.
    late_cwd: Option<PathBuf>,
}

fn run_libcontainer(
    request: &CreateRequest,
    spec: &Spec,
    prepared: Prepared,
    handed: &mut Vec<OwnedFd>,
) -> Result<Executed, Failure> {
    let Prepared {
        bundle,
        systemd,
        workload,
        descriptors,
        context,
        late_cwd,
    } = prepared;
    let location = &request.location;
    let terminal = request.stdio.terminal;
    let is_guest = matches!(workload, Workload::Guest { .. });
    let owner = stdio::host_owner(spec, spec.process().as_ref());
    let mut opened = stdio::open(&request.stdio, owner, location)?;
    let diagnosis = Diagnosis::start()
        .map_err(|error| Failure::internal(format!("cannot make a memory file: {error}")))?;
    let executor =
        ContainerExecutor::new(workload, descriptors, terminal, context, diagnosis.clone())
            .with_late_cwd(late_cwd);
    let failed =
        |error: std::io::Error| Failure::internal(format!("cannot make the terminal: {error}"));

    let mut builder = ContainerBuilder::new(location.id.to_string(), SyscallType::default())
        .with_executor(executor);
    let mut executed = Executed::default();
    opened.pass_logger(&mut executed, handed);
    let mut console = None;
    if terminal && is_guest {
        let terminal = console::open(spec.process().as_ref()).map_err(failed)?;
        let slave = || terminal.slave.try_clone().map_err(failed);
        builder = builder
            .with_stdin(slave()?)
            .with_stdout(slave()?)
            .with_stderr(slave()?);
        opened.hand_over(terminal.master, &mut executed, handed);
    } else if terminal {
        let socket = console::ConsoleSocket::bind(&location.bundle).map_err(failed)?;
        builder = builder.with_console_socket(Some(socket.path().to_owned()));
        console = Some((socket, opened));
    } else {
        if let Some(fd) = opened.stdin {
            builder = builder.with_stdin(fd);
        }
        if let Some(fd) = opened.stdout {
            builder = builder.with_stdout(fd);
        }
        if let Some(fd) = opened.stderr {
            builder = builder.with_stderr(fd);
        }
    }
    let container = builder
        .with_root_path(location.state_folder())
        .map(|builder| {
            builder
                .as_init(bundle)
                .with_systemd(systemd)
                .with_detach(true)
                .as_sibling(true)
        })
        .and_then(|builder| builder.build())
        .map_err(|error| diagnosis.explain(Failure::from_error(ErrorClass::Internal, &error)))?;
    let pid = container
        .pid()
        .ok_or_else(|| Failure::internal("libcontainer has created no process"))?;
    executed.pid = pid.as_raw();
    let pidfd = pidfd_open(executed.pid)
        .map_err(|_| Failure::internal("the container's init has ended while it was set up"))?;
    executed.descriptors.push(Descriptor::Init);
    handed.push(pidfd);
    if let Some((socket, opened)) = console {
        let master = socket.receive().map_err(failed)?;
        console::adopt(&master, spec.process().as_ref(), owner).map_err(failed)?;
        opened.hand_over(master, &mut executed, handed);
    }
    Ok(executed)
}

/// The rootfs as an absolute path: the spec's may be relative to the bundle.
fn rootfs_of(spec: &Spec, bundle: &Path) -> Result<PathBuf, Failure> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Failure::invalid("config.json has no root"))?;
    let path = bundle.join(root.path());
    path.canonicalize()
        .map_err(|error| Failure::invalid(format!("rootfs {}: {error}", path.display())))
}

/// Writes the spec that libcontainer reads instead of the bundle's own, which stays as it is. It is
/// for root alone: it has the environment.
fn write_bundle(folder: PathBuf, spec: Spec) -> Result<PathBuf, Failure> {
    let write = || -> std::io::Result<()> {
        state_dir::create_private(&folder)?;
        let file = state_dir::create_private_file(&folder.join("config.json"))?;
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, &spec)?;
        writer.flush()
    };
    write().map_err(|error| {
        Failure::internal(format!("cannot write {}: {error}", folder.display()))
    })?;
    Ok(folder)
}
