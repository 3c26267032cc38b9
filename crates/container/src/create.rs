//! Create: from a bundle to an init that waits for Start.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use lighter_core::{Created, ErrorClass, Failure, Mount, Stdio};
use oci_spec::runtime::Spec;

use crate::diagnosis::Diagnosis;
use crate::executor::{ContainerExecutor, Workload};
use crate::manage::ContainerLocation;
use crate::{cwd, guest_view, manage, rootfs, stdio};

/// What Create is asked for.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Which container, and where its files are.
    pub location: ContainerLocation,
    /// Mounts that make up the rootfs; empty if it is there already.
    pub rootfs: Vec<Mount>,
    /// Where the container reads and writes.
    pub stdio: Stdio,
}

/// Creates the container. `workload` finds out what its entrypoint is, from the spec and the
/// path of the mounted rootfs.
///
/// Runs in a fork of the shim, see [`crate::Operation`]. On an error nothing is left behind.
pub fn create(
    request: &CreateRequest,
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
    build(request, workload).map_err(|failure| {
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
    workload: impl FnOnce(&Spec, &Path) -> Result<Workload, Failure>,
) -> Result<Created, Failure> {
    let location = &request.location;
    let spec = load_spec(&location.bundle)?;
    let cgroups_path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone());
    if cgroups_path.is_some_and(|path| is_systemd_path(&path)) {
        return Err(Failure::new(
            ErrorClass::Unimplemented,
            "the systemd cgroup driver is not supported yet; configure the cgroupfs driver (SystemdCgroup = false)",
        ));
    }
    rootfs::mount(&request.rootfs, &location.rootfs())?;
    let rootfs = rootfs_of(&spec, &location.bundle)?;
    cwd::create_missing(&spec, &rootfs);
    let workload = workload(&spec, &rootfs)?;
    let descriptors = open_descriptors()?;

    let is_guest = matches!(workload, Workload::Guest { .. });
    let bundle = if is_guest {
        write_guest_bundle(location, guest_view::restrict(spec.clone(), &rootfs)?)?
    } else {
        location.bundle.clone()
    };
    let created = run_libcontainer(request, &spec, &bundle, workload, descriptors)?;
    if is_guest {
        guest_view::seal(created.pid)?;
    }
    Ok(created)
}

fn run_libcontainer(
    request: &CreateRequest,
    spec: &Spec,
    bundle: &Path,
    workload: Workload,
    descriptors: Vec<RawFd>,
) -> Result<Created, Failure> {
    let location = &request.location;
    let stdio = stdio::open(&request.stdio, host_owner(spec))?;
    let diagnosis = Diagnosis::start()
        .map_err(|error| Failure::internal(format!("cannot make a memory file: {error}")))?;
    let executor = ContainerExecutor::new(workload, descriptors, diagnosis.clone());

    let mut builder = ContainerBuilder::new(location.id.to_string(), SyscallType::default())
        .with_executor(executor);
    if let Some(fd) = stdio.stdin {
        builder = builder.with_stdin(fd);
    }
    if let Some(fd) = stdio.stdout {
        builder = builder.with_stdout(fd);
    }
    if let Some(fd) = stdio.stderr {
        builder = builder.with_stderr(fd);
    }
    let container = builder
        .with_root_path(location.state_folder())
        .map(|builder| {
            builder
                .as_init(bundle)
                .with_systemd(false)
                .with_detach(true)
                .as_sibling(true)
        })
        .and_then(|builder| builder.build())
        .map_err(|error| diagnosis.explain(Failure::from_error(ErrorClass::Internal, &error)))?;
    let pid = container
        .pid()
        .ok_or_else(|| Failure::internal("libcontainer has created no process"))?;
    Ok(Created { pid: pid.as_raw() })
}

fn load_spec(bundle: &Path) -> Result<Spec, Failure> {
    let path = bundle.join("config.json");
    Spec::load(&path).map_err(|error| {
        let failure = Failure::from_error(ErrorClass::InvalidArgument, &error);
        Failure::invalid(format!("cannot read {}: {failure}", path.display()))
    })
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

/// A cgroups path of the form `slice:prefix:name` asks for the systemd driver.
fn is_systemd_path(path: &Path) -> bool {
    path.to_string_lossy().split(':').count() == 3
}

/// Descriptors that are open now: stdio, the answer, and what a guest's code is mapped from.
fn open_descriptors() -> Result<Vec<RawFd>, Failure> {
    let names = std::fs::read_dir("/proc/self/fd")
        .map_err(|error| Failure::internal(format!("cannot list /proc/self/fd: {error}")))?;
    Ok(names
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| is_regular_file(*fd))
        .collect())
}

fn is_regular_file(fd: RawFd) -> bool {
    std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|metadata| metadata.is_file())
}

/// Writes the spec that libcontainer reads for a guest; the bundle's own stays as it is.
fn write_guest_bundle(location: &ContainerLocation, spec: Spec) -> Result<PathBuf, Failure> {
    let folder = location.guest_bundle();
    let failed = |error: &dyn std::fmt::Display| {
        Failure::internal(format!("cannot write {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
    spec.save(folder.join("config.json"))
        .map_err(|error| failed(&error))?;
    Ok(folder)
}

/// The container's user as the host sees it, for the ownership of stdio.
fn host_owner(spec: &Spec) -> (u32, u32) {
    let user = spec.process().as_ref().map(|process| process.user());
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid(), user.gid()));
    let linux = spec.linux().as_ref();
    let map = |id: u32, mappings: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>| {
        mappings
            .into_iter()
            .flatten()
            .find_map(|range| {
                let offset = id.checked_sub(range.container_id())?;
                (offset < range.size()).then(|| range.host_id().saturating_add(offset))
            })
            .unwrap_or(id)
    };
    (
        map(uid, linux.and_then(|linux| linux.uid_mappings().as_ref())),
        map(gid, linux.and_then(|linux| linux.gid_mappings().as_ref())),
    )
}
