//! Notice of a container that runs out of memory, as descriptors for the shim's event loop.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use libcgroups::v1::ControllerType;
use lighter_core::{Descriptor, Failure};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::cgroup_files::{MEMORY_EVENTS_V1, MEMORY_EVENTS_V2, folder, is_systemd, is_unified};
use crate::manage::ContainerLocation;

/// What the shim watches the container's memory by.
///
/// On cgroup v1 an eventfd (kernel documentation, cgroup-v1/memory.rst, section 10). On v2 the file
/// `memory.events` itself, which poll(2) has a priority event for (cgroup-v2.rst): inotify would
/// take one of the few instances that a user may have. Of a scope of systemd's the slice's file comes
/// with it (decision 0021). Fails when there is no memory controller.
pub(crate) fn watch(location: &ContainerLocation) -> Result<Vec<(Descriptor, OwnedFd)>, Failure> {
    let folder = folder(location, ControllerType::Memory)?;
    let failed = |error: std::io::Error| {
        Failure::internal(format!(
            "cannot watch the memory of container {} in {}: {error}",
            location.id,
            folder.display()
        ))
    };
    let unified = is_unified()?;
    let events = File::open(folder.join(if unified {
        MEMORY_EVENTS_V2
    } else {
        MEMORY_EVENTS_V1
    }))
    .map_err(failed)?;
    let watch: OwnedFd = if unified {
        events.try_clone().map_err(failed)?.into()
    } else {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let eventfd = EventFd::from_flags(flags).map_err(|error| failed(error.into()))?;
        let line = format!("{} {}", eventfd.as_raw_fd(), events.as_raw_fd());
        fs::write(folder.join("cgroup.event_control"), line).map_err(failed)?;
        eventfd.as_fd().try_clone_to_owned().map_err(failed)?
    };
    let mut handed = vec![
        (Descriptor::MemoryWatch, watch),
        (Descriptor::MemoryEvents, events.into()),
    ];
    if location.cgroup_path().is_some_and(|path| is_systemd(&path))
        && let Some(slice) = events_of_slice(&folder)
    {
        handed.push((Descriptor::SliceMemoryEvents, slice.into()));
    }
    Ok(handed)
}

/// The root of the hierarchy counts nothing.
fn events_of_slice(scope: &Path) -> Option<File> {
    File::open(scope.parent()?.join(MEMORY_EVENTS_V2)).ok()
}
