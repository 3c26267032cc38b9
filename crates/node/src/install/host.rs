//! The host as an agent in a container sees it: through the mount namespace of process 1.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::arguments::NodeArguments;

/// Enters the host's mount namespace if that is asked for. Answers the path by which a folder of the
/// one that is left can still be reached.
pub fn enter(arguments: &NodeArguments, folder: &Path) -> Result<PathBuf, String> {
    if !arguments.host {
        return Ok(folder.to_owned());
    }
    let open = |path: &Path| {
        File::open(path).map_err(|error| format!("cannot open {}: {error}", path.display()))
    };
    let kept = open(folder)?;
    let namespace = open(Path::new("/proc/1/ns/mnt"))?;
    setns(namespace, CloneFlags::CLONE_NEWNS).map_err(|error| {
        format!(
            "cannot enter the host's mount namespace: {error}: the pod needs hostPID and privileged"
        )
    })?;
    let descriptor = std::os::fd::IntoRawFd::into_raw_fd(kept);
    Ok(format!("/proc/self/fd/{descriptor}").into())
}
