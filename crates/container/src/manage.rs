//! Operations on a container that exists: start, signals, pause, processes, removal.

use std::path::{Path, PathBuf};

use libcgroups::common::{AnyCgroupManager, CgroupConfig, CgroupManager, FreezerState};
use libcontainer::config::YoukiConfig;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::LibcontainerError;
use lighter_core::{ContainerId, ErrorClass, Failure, STATE_ROOT};
use nix::errno::Errno;
use oci_spec::runtime::Spec;

use crate::spec_file::load_spec;
use crate::{cgroup_files, counters, hooks, rootfs};

/// Which container, and where its files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLocation {
    /// containerd's namespace.
    pub namespace: ContainerId,
    /// The container's id.
    pub id: ContainerId,
    /// Its bundle: the folder with `config.json`.
    pub bundle: PathBuf,
}

impl ContainerLocation {
    /// Where libcontainer keeps the state of all containers of the namespace.
    pub(crate) fn state_folder(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(self.namespace.as_str())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.state_folder().join(self.id.as_str())
    }

    /// Where containerd has the shim mount the rootfs.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// Holds the spec of a guest's container.
    pub(crate) fn guest_bundle(&self) -> PathBuf {
        self.bundle.join("guest")
    }

    /// Holds the spec of a Linux container, where libcontainer needs another one.
    pub(crate) fn native_bundle(&self) -> PathBuf {
        self.bundle.join("native")
    }

    fn load(&self) -> Result<Container, Failure> {
        Container::load(self.state()).map_err(|error| {
            let cause = Failure::from_error(ErrorClass::NotFound, &error);
            Failure::new(
                ErrorClass::NotFound,
                format!(
                    "container {} has no state in {STATE_ROOT}: {cause}",
                    self.id
                ),
            )
        })
    }

    /// Gives a spec without a path of the cgroup the one that runc would give it. Returns whether it
    /// had none.
    pub(crate) fn set_default_cgroup_path(&self, spec: &mut Spec) -> bool {
        let Some(mut linux) = spec.linux().clone() else {
            return false;
        };
        let has_none = linux.cgroups_path().is_none();
        if has_none {
            linux.set_cgroups_path(Some(self.default_cgroup_path()));
            spec.set_linux(Some(linux));
        }
        has_none
    }

    fn default_cgroup_path(&self) -> PathBuf {
        Path::new("/").join(self.id.as_str())
    }

    /// Path of the cgroup, from libcontainer's state or, when create did not get so far, the
    /// spec. Nothing for an empty path or `/`, which would name a cgroup that is not ours.
    pub(crate) fn cgroup_path(&self) -> Option<PathBuf> {
        let path = match YoukiConfig::load(self.state()) {
            Ok(config) => Some(config.cgroup_path),
            Err(_) => load_spec(&self.bundle).ok().and_then(|(spec, _)| {
                let path = spec.linux().as_ref()?.cgroups_path().clone();
                Some(path.unwrap_or_else(|| self.default_cgroup_path()))
            }),
        };
        path.filter(|path| path.file_name().is_some())
    }

    /// The cgroup as the kernel has it, whoever made it.
    fn cgroup(&self) -> Result<Option<AnyCgroupManager>, Failure> {
        let path = self.cgroup_path();
        let plain = path.map(|path| Path::new("/").join(cgroup_files::plain_path(&path)));
        plain.map(|path| self.manager(path, false)).transpose()
    }

    /// The cgroup to set limits on: systemd has to be told of those of its own.
    pub(crate) fn cgroup_to_change(&self) -> Result<AnyCgroupManager, Failure> {
        match self.cgroup_path() {
            Some(path) if cgroup_files::is_systemd(&path) => {
                cgroup_files::require_bus()?;
                self.manager(path, true)
            }
            _ => self.require_cgroup(),
        }
    }

    fn manager(&self, cgroup_path: PathBuf, systemd: bool) -> Result<AnyCgroupManager, Failure> {
        libcgroups::common::create_cgroup_manager(CgroupConfig {
            cgroup_path,
            systemd_cgroup: systemd,
            container_name: self.id.to_string(),
        })
        .map_err(|error| Failure::from_error(ErrorClass::Internal, &error))
    }

    /// A failure with the container's cgroup. If that has gone, its reason is that the container has
    /// ended: systemd removes a scope with its last process, at times before the shim knows of it.
    pub(crate) fn or_ended(&self, failure: Failure, class: ErrorClass) -> Failure {
        if cgroup_files::exists(self) {
            return failure;
        }
        Failure::new(
            class,
            format!("container {} has stopped: its cgroup is gone", self.id),
        )
    }

    pub(crate) fn require_cgroup(&self) -> Result<AnyCgroupManager, Failure> {
        self.cgroup()?.ok_or_else(|| {
            Failure::new(
                ErrorClass::NotFound,
                format!("container {} has no cgroup", self.id),
            )
        })
    }
}

/// Lets the created init run. Runs in a fork of the shim.
pub fn start(location: &ContainerLocation) -> Result<(), Failure> {
    location.load()?.start().map_err(|error| {
        let failure = Failure::from_error(ErrorClass::Internal, &error);
        Failure::internal(format!("cannot start container {}: {failure}", location.id))
    })
}

/// Sends `signal` to every process of the container. Runs in a fork of the shim.
///
/// `paused` says whether the container is frozen now: it stays so, unless it is killed.
pub fn signal_all(location: &ContainerLocation, signal: i32, paused: bool) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| {
        let failure = Failure::from_error(ErrorClass::Internal, error);
        let message = format!("cannot signal container {}: {failure}", location.id);
        location.or_ended(Failure::internal(message), ErrorClass::NotFound)
    };
    let cgroup = location.require_cgroup()?;
    // So that none is forked between the list and the signal.
    cgroup
        .freeze(FreezerState::Frozen)
        .map_err(|error| failed(&error))?;
    let sent = cgroup
        .get_all_pids()
        .map_err(|error| failed(&error))
        .and_then(|pids| {
            for pid in pids {
                match crate::fork::kill(pid.as_raw(), signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(Errno::EINVAL) => {
                        return Err(Failure::invalid(format!("there is no signal {signal}")));
                    }
                    Err(error) => return Err(failed(&error)),
                }
            }
            Ok(())
        });
    // On cgroup v1 a frozen process does not even die.
    if (!paused || signal == libc::SIGKILL)
        && let Err(error) = cgroup.freeze(FreezerState::Thawed)
        && cgroup_files::exists(location)
    {
        return Err(failed(&error));
    }
    sent
}

/// Freezes all processes of the container. Runs in a fork of the shim.
pub fn pause(location: &ContainerLocation) -> Result<(), Failure> {
    freeze(location, FreezerState::Frozen, "pause")
}

/// Lets the processes of a frozen container go on. Runs in a fork of the shim.
pub fn resume(location: &ContainerLocation) -> Result<(), Failure> {
    freeze(location, FreezerState::Thawed, "resume")
}

fn freeze(location: &ContainerLocation, state: FreezerState, what: &str) -> Result<(), Failure> {
    location.require_cgroup()?.freeze(state).map_err(|error| {
        let failure = Failure::from_error(ErrorClass::Internal, &error);
        let message = format!("cannot {what} container {}: {failure}", location.id);
        location.or_ended(Failure::internal(message), ErrorClass::FailedPrecondition)
    })
}

/// Process ids of all processes in the container's cgroup. Runs in a fork of the shim.
///
/// A cgroup that has gone has none, as for runc.
pub fn pids(location: &ContainerLocation) -> Result<Vec<i32>, Failure> {
    let pids = match location.require_cgroup()?.get_all_pids() {
        Err(error) if cgroup_files::exists(location) => {
            return Err(Failure::from_error(ErrorClass::Internal, &error));
        }
        pids => pids.unwrap_or_default(),
    };
    Ok(pids.into_iter().map(|pid| pid.as_raw()).collect())
}

/// Removes all of the container: processes, cgroup, state, mounts.
///
/// It can be called for a container that was half created, that still runs, whose shim was
/// killed, or that is gone: what is not there is no error. Runs in a fork of the shim or in
/// the `delete` binary.
pub fn remove(location: &ContainerLocation) -> Result<(), Failure> {
    let mut failures = Vec::new();
    counters::keep(location);
    if let Ok(mut container) = location.load() {
        // A pid in the state file may be another process by now; cgroups tell for sure.
        if container.status() != ContainerStatus::Stopped {
            kill_cgroup(location);
        }
        cgroup_files::remove_below(location);
        match delete(location, &mut container) {
            Ok(()) => {}
            // The rest of the removal goes on (runtime specification, "Lifecycle").
            Err(LibcontainerError::Hook(error)) => hooks::warn_of_poststop(&error),
            Err(error) => failures.push(Failure::from_error(ErrorClass::Internal, &error).message),
        }
    }
    if location.state().exists() || location.guest_bundle().exists() || !failures.is_empty() {
        kill_cgroup(location);
        cgroup_files::remove_below(location);
        cgroup_files::await_systemd(location);
        if let Ok(Some(cgroup)) = location.cgroup()
            && let Err(error) = cgroup.remove()
            // It may have gone meanwhile, by systemd's hand.
            && cgroup_files::exists(location)
        {
            failures.push(format!("cgroup: {error}"));
        }
    }
    cgroup_files::await_systemd(location);
    for folder in [
        location.state(),
        location.guest_bundle(),
        location.native_bundle(),
    ] {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                failures.push(format!("{}: {error}", folder.display()));
            }
            _ => {}
        }
    }
    if let Err(failure) = rootfs::unmount(&location.rootfs()) {
        failures.push(failure.message);
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::internal(format!(
            "cannot remove all of container {}: {}",
            location.id,
            failures.join("; ")
        )))
    }
}

/// libcontainer's part of a removal. systemd is asked to remove the scope only if it does not do so
/// by itself, as it does once what init may have left behind is killed: it has an error for a scope
/// that is gone, and on a busy node takes its time to answer.
fn delete(
    location: &ContainerLocation,
    container: &mut Container,
) -> Result<(), LibcontainerError> {
    if container.systemd() {
        kill_cgroup(location);
        cgroup_files::await_systemd(location);
        let stays = cgroup_files::exists(location) && cgroup_files::require_bus().is_ok();
        container.set_systemd(stays);
    }
    match container.delete(true) {
        Err(_) if container.systemd() && !cgroup_files::exists(location) => {
            container.set_systemd(false);
            container.delete(true)
        }
        deleted => deleted,
    }
}

/// Kills what is in the cgroup, which is what the container's id may still stand for.
fn kill_cgroup(location: &ContainerLocation) {
    let Ok(Some(cgroup)) = location.cgroup() else {
        return;
    };
    for pid in cgroup.get_all_pids().unwrap_or_default() {
        let pid = nix::unistd::Pid::from_raw(pid.as_raw());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    // On cgroup v1 a frozen process does not even die.
    let _ = cgroup.freeze(FreezerState::Thawed);
}
