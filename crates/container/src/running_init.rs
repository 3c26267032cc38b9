//! The init of a container that runs, as an operation finds it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use lighter_core::{ErrorClass, Failure};
use nix::sched::CloneFlags;

use crate::fork::pidfd_open;

/// `CLONE_NEWTIME` (linux/sched.h).
const TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// The container's init, seen from outside.
pub(crate) struct Init {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// What it has that this process has not.
    pub(crate) namespaces: CloneFlags,
}

impl Init {
    /// That of a task, a child of the shim.
    ///
    /// # Errors
    /// FailedPrecondition, if it has ended.
    pub(crate) fn find(pid: i32) -> Result<Self, Failure> {
        let gone = || {
            Failure::new(
                ErrorClass::FailedPrecondition,
                "the container's init has ended",
            )
        };
        let pidfd = pidfd_open(pid).map_err(|_| gone())?;
        // The shim's child: no other process has got the number of one that has just ended.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| gone())?;
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent != Some(nix::unistd::getppid().as_raw()) {
            return Err(gone());
        }
        Ok(Self {
            pid,
            pidfd,
            namespaces: differing_namespaces(pid).map_err(|_| gone())?,
        })
    }

    /// Whether it is in another user namespace than this process.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.namespaces.contains(CloneFlags::CLONE_NEWUSER)
    }

    /// Its user namespace, if the process has to mount file systems before it joins that: within, the
    /// kernel mounts a procfs only for who sees one already.
    pub(crate) fn late_user_namespace(&self, has_view: bool) -> Result<Option<OwnedFd>, Failure> {
        if !has_view || !self.has_user_namespace() {
            return Ok(None);
        }
        let path = format!("/proc/{}/ns/user", self.pid);
        let file = File::open(&path)
            .map_err(|error| Failure::internal(format!("cannot open {path}: {error}")))?;
        Ok(Some(file.into()))
    }

    /// The table of its mounts (proc_pid_mountinfo(5)).
    pub(crate) fn mounts(&self) -> Result<String, Failure> {
        let path = format!("/proc/{}/mountinfo", self.pid);
        std::fs::read_to_string(&path)
            .map_err(|error| Failure::internal(format!("cannot read {path}: {error}")))
    }

    /// The root of its file system.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.pid).into()
    }
}

fn differing_namespaces(pid: i32) -> std::io::Result<CloneFlags> {
    let identity = |path: String| {
        let metadata = std::fs::metadata(path)?;
        std::io::Result::Ok((metadata.dev(), metadata.ino()))
    };
    let mut differing = CloneFlags::empty();
    for (name, flag) in [
        ("user", CloneFlags::CLONE_NEWUSER),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("net", CloneFlags::CLONE_NEWNET),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("time", TIME),
    ] {
        // A kernel may lack a kind.
        let Ok(own) = identity(format!("/proc/self/ns/{name}")) else {
            continue;
        };
        if own != identity(format!("/proc/{pid}/ns/{name}"))? {
            differing |= flag;
        }
    }
    Ok(differing)
}
