//! Work in a namespace of a container.

use std::fs::File;
use std::os::fd::AsFd;

use lighter_core::Failure;
use nix::sched::{CloneFlags, setns};

/// Runs `work` in one namespace of the process `pid`, and comes back.
///
/// In a mount namespace the root and the working directory are the namespace's root meanwhile, and
/// afterwards this process's own root.
///
/// Only for a forked operation, which has one thread. It ends with its failure if it cannot come back.
pub(crate) fn within<T>(
    pid: i32,
    kind: CloneFlags,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let name = match kind {
        CloneFlags::CLONE_NEWNET => "net",
        _ => "mnt",
    };
    let own = open(&format!("/proc/self/ns/{name}"))?;
    enter(&open(&format!("/proc/{pid}/ns/{name}"))?, kind)?;
    let done = work();
    enter(&own, kind)?;
    done
}

fn open(path: &str) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::internal(format!("cannot open {path}: {error}")))
}

fn enter(namespace: &File, kind: CloneFlags) -> Result<(), Failure> {
    setns(namespace.as_fd(), kind).map_err(|error| {
        Failure::internal(format!(
            "cannot enter a namespace of the container: {error}"
        ))
    })
}
