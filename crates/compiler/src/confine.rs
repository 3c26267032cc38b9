//! Takes from the worker what compiling does not need, since its input is hostile.
#![allow(unsafe_code)] // One system call that has no safe binding.

use std::fmt::Display;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

/// Seconds of processor time, over all threads.
const CPU_SECONDS: u64 = 300;
/// Descriptors: three streams, and a few for the standard library.
const DESCRIPTORS: u64 = 16;
/// Bytes of memory that can be written to. The address space is not limited: what the
/// allocator reserves for each thread counts there although it is never used.
const MEMORY: u64 = 4 << 30;
/// Bytes of the artifact.
const OUTPUT: u64 = 4 << 30;
/// User and group that own nothing, `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Confines this process for good.
///
/// # Errors
/// One line that says what could not be given up. Nothing may be compiled then.
pub fn confine() -> Result<(), String> {
    close_other_descriptors()?;
    for (resource, limit) in [
        (Resource::RLIMIT_CPU, CPU_SECONDS),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_DATA, MEMORY),
        (Resource::RLIMIT_FSIZE, OUTPUT),
    ] {
        setrlimit(resource, limit, limit).map_err(|error| refused("limit its resources", error))?;
    }
    if geteuid().is_root() {
        let apart = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        unshare(apart).map_err(|error| refused("leave the network", error))?;
        setgroups(&[])
            .and_then(|()| setgid(Gid::from_raw(NOBODY)))
            .and_then(|()| setuid(Uid::from_raw(NOBODY)))
            .map_err(|error| refused("become an unprivileged user", error))?;
    }
    // After the change of user, which undoes these.
    prctl::set_no_new_privs()
        .and_then(|()| prctl::set_dumpable(false))
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL))
        .map_err(|error| refused("give up privileges", error))
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
