//! What execve does to a process, done by hand for a guest that runs without an execve, and
//! the part of it that a Rust program has to do before a real one.
// Signal dispositions and _exit are raw system interfaces.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use caps::errors::CapsError;
use caps::{CapSet, CapsHashSet};
use lighter_core::Failure;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use seccompiler::BpfProgram;

use crate::guest_filter;

/// Gives every signal its default action and blocks none.
///
/// Rust's runtime ignores SIGPIPE and libcontainer leaves it so; a program that execve starts
/// inherits ignored signals, and a shell pipeline in it would not end.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid handler; for SIGKILL, SIGSTOP and the signals that libc
        // reserves the call fails and changes nothing.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Makes of init the process that execve would have made: capabilities by the rules of exec,
/// no descriptor but stdio and `descriptors` (the guest's mapped code), the filter of guests, and the
/// program's name.
///
/// Source: capabilities(7), "Transformation of capabilities during execve()", for a program
/// without file capabilities. Signals are the guest's own business: it handles them all.
pub(crate) fn become_program(name: &str, descriptors: &[RawFd]) -> Result<(), Failure> {
    crate::descriptors::close_others(descriptors.iter().copied());
    transform_capabilities().map_err(|error| {
        Failure::internal(format!("cannot set the guest's capabilities: {error}"))
    })?;
    // Last but for the name: it refuses much of the above. Who sees the name sees a confined process.
    guest_filter::load()?;
    let base = name.rsplit('/').next().unwrap_or(name);
    if let Ok(base) = std::ffi::CString::new(base) {
        let _ = nix::sys::prctl::set_name(&base);
    }
    Ok(())
}

/// Adds a filter to those of this thread. It takes no_new_privs, or CAP_SYS_ADMIN.
///
/// By prctl(2), which a container's seccomp profile has to allow anyway, and not by seccomp(2).
pub(crate) fn load_filter(program: &BpfProgram) -> std::io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as libc::c_ushort,
        // The two types are the same structure of the kernel, which only reads it.
        filter: program.as_ptr().cast_mut().cast(),
    };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    // SAFETY: `program` and the instructions that it points to live until the call returns, and
    // the kernel copies and checks them.
    if unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Makes `file` descriptor 0, 1 or 2 of this process.
pub(crate) fn place(file: &OwnedFd, number: RawFd) -> std::io::Result<()> {
    // SAFETY: stdio of a process that is about to become another program is nobody's.
    if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn transform_capabilities() -> Result<(), CapsError> {
    let kept = capabilities_after_exec()?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// What execve would leave to this process.
fn capabilities_after_exec() -> Result<CapsHashSet, CapsError> {
    if !nix::unistd::geteuid().is_root() {
        return caps::read(None, CapSet::Ambient);
    }
    let bounding = caps::read(None, CapSet::Bounding)?;
    let inheritable = caps::read(None, CapSet::Inheritable)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    Ok(permitted
        .into_iter()
        .filter(|cap| bounding.contains(cap) || inheritable.contains(cap))
        .collect())
}

/// Does something with the capabilities alone that execve would leave to this process. Before
/// that, a user who is not root has those of the spec in force, which pass over the modes of
/// files.
pub(crate) fn as_after_exec<T>(work: impl FnOnce() -> T) -> Result<T, CapsError> {
    let held = caps::read(None, CapSet::Effective)?;
    let kept = capabilities_after_exec()?;
    caps::set(
        None,
        CapSet::Effective,
        &kept.intersection(&held).copied().collect(),
    )?;
    let done = work();
    caps::set(None, CapSet::Effective, &held)?;
    Ok(done)
}

/// Ends the process without running any destructor or exit handler: those of the shim, which
/// init is a copy of, are not init's to run.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(status) }
}
