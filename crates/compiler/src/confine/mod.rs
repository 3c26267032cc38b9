//! Takes from the worker what compiling does not need, since its input is hostile.
#![allow(unsafe_code)] // One system call that has no safe binding.

mod filter;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use caps::CapSet;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

/// Descriptors: three streams, and a few for the standard library.
const DESCRIPTORS: u64 = 16;
/// Seconds of processor time between SIGXCPU and SIGKILL.
const HARD_SECONDS: u64 = 2;
/// User and group that own nothing, `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// How much the worker may use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of memory that can be written to. The address space is not limited: what the
    /// allocator reserves for each thread counts there although it is never used.
    pub memory: u64,
    /// Seconds of processor time, over all threads. The clock is watched by the parent.
    pub seconds: u64,
    /// Bytes of the artifact.
    pub output: u64,
    /// Folders of cgroups to enter.
    pub cgroups: Vec<PathBuf>,
}

/// Confines this process for good. It must have one thread.
///
/// # Errors
/// One line that says what could not be given up. Nothing may be compiled then.
pub fn confine(limits: &Limits) -> Result<(), String> {
    for folder in &limits.cgroups {
        enter(folder).map_err(|error| refused("enter its cgroup", error))?;
    }
    close_other_descriptors()?;
    for (resource, limit) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_DATA, limits.memory),
        (Resource::RLIMIT_FSIZE, limits.output),
    ] {
        setrlimit(resource, limit, limit).map_err(|error| refused("limit its resources", error))?;
    }
    // At the hard limit the kernel kills without a word of why.
    let hard = limits.seconds.saturating_add(HARD_SECONDS);
    setrlimit(Resource::RLIMIT_CPU, limits.seconds, hard)
        .map_err(|error| refused("limit its time", error))?;
    if geteuid().is_root() {
        let apart = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        unshare(apart).map_err(|error| refused("leave the network", error))?;
        // The bounding set first: emptying it takes a capability.
        caps::clear(None, CapSet::Bounding)
            .map_err(|error| refused("give up capabilities", error))?;
        setgroups(&[])
            .and_then(|()| setgid(Gid::from_raw(NOBODY)))
            .and_then(|()| setuid(Uid::from_raw(NOBODY)))
            .map_err(|error| refused("become an unprivileged user", error))?;
    }
    // The change of user has cleared all but the inheritable ones, for root.
    for set in [
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ] {
        caps::clear(None, set).map_err(|error| refused("give up capabilities", error))?;
    }
    // After the change of user, which undoes these.
    prctl::set_no_new_privs()
        .and_then(|()| prctl::set_dumpable(false))
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
        .map_err(|error| refused("give up privileges", error))?;
    filter::install().map_err(|error| refused("filter its system calls", error))
}

/// Moves this process into a cgroup, so that all it does from here on is counted there.
fn enter(folder: &Path) -> std::io::Result<()> {
    // Zero stands for the process that writes it.
    fs::write(folder.join("cgroup.procs"), "0")
}

fn close_other_descriptors() -> Result<(), String> {
    // SAFETY: only the three standard streams are in use this early; whatever else was
    // inherited, nothing in this process refers to it.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(refused(
            "close inherited files",
            std::io::Error::last_os_error(),
        )),
    }
}

fn refused(what: &str, error: impl Display) -> String {
    format!("the compile worker cannot {what}: {error}")
}
