//! The memory limit of a guest's container, as the guest's process can read it: a file of the
//! bundle, written by Create and Update, whose descriptor the process inherits. Its cgroup is out
//! of the process's reach.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use lighter_core::Failure;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::manage::ContainerLocation;

/// Reads the limit in bytes as it is now. Cheap: one system call.
#[derive(Clone, Debug)]
pub struct MemoryLimit(Arc<File>);

impl MemoryLimit {
    /// `None` for a container without a limit.
    pub fn bytes(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        Some(u64::from_le_bytes(bytes)).filter(|limit| *limit > 0)
    }

    /// The descriptor, which the guest's process has to keep.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn path(location: &ContainerLocation) -> PathBuf {
    location.guest_bundle().join("memory-limit")
}

/// Makes the file with the limit of the spec.
pub(crate) fn create(location: &ContainerLocation, spec: &Spec) -> Result<MemoryLimit, Failure> {
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    std::fs::create_dir_all(location.guest_bundle())
        .and_then(|()| write(location, resources.and_then(limit).unwrap_or(0)))
        .and_then(|()| open(location))
        .map_err(|error| failed(location, &error))
}

/// The limit of a container that exists, for one process more in it.
pub(crate) fn find(location: &ContainerLocation) -> Result<MemoryLimit, Failure> {
    open(location).map_err(|error| failed(location, &error))
}

/// Follows an update that has succeeded.
pub(crate) fn follow(
    location: &ContainerLocation,
    resources: &LinuxResources,
) -> Result<(), Failure> {
    match limit(resources) {
        Some(limit) if path(location).exists() => {
            write(location, limit).map_err(|error| failed(location, &error))
        }
        _ => Ok(()),
    }
}

/// The limit that these resources set: 0 for none (OCI's -1), `None` when they leave it.
fn limit(resources: &LinuxResources) -> Option<u64> {
    let limit = resources.memory().as_ref()?.limit()?;
    Some(u64::try_from(limit).unwrap_or(0))
}

fn open(location: &ContainerLocation) -> io::Result<MemoryLimit> {
    Ok(MemoryLimit(Arc::new(File::open(path(location))?)))
}

/// Eight bytes in one write, which a reader sees all or none of.
fn write(location: &ContainerLocation, limit: u64) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path(location))?
        .write_all_at(&limit.to_le_bytes(), 0)
}

fn failed(location: &ContainerLocation, error: &io::Error) -> Failure {
    Failure::internal(format!("{}: {error}", path(location).display()))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder};

    use super::*;

    fn resources(limit: Option<i64>) -> LinuxResources {
        let mut memory = LinuxMemoryBuilder::default();
        if let Some(limit) = limit {
            memory = memory.limit(limit);
        }
        LinuxResourcesBuilder::default()
            .memory(memory.build().unwrap())
            .build()
            .unwrap()
    }

    #[test]
    fn no_limit_is_zero_and_silence_changes_nothing() {
        assert_eq!(limit(&resources(Some(1 << 25))), Some(1 << 25));
        assert_eq!(limit(&resources(Some(-1))), Some(0));
        assert_eq!(limit(&resources(None)), None);
    }
}
