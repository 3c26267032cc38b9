//! What execve does to a process, done by hand for a guest that runs without an execve, and
//! the part of it that a Rust program has to do before a real one.
// Signal dispositions and _exit are raw system interfaces.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use caps::CapSet;
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
    let mut keep = vec![0, 1, 2];
    keep.extend(descriptors.iter().filter(|fd| **fd > 2));
    keep.sort_unstable();
    keep.dedup();
    crate::fork::close_all_but(&keep);
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

/// Has exec close every descriptor but stdio.
pub(crate) fn close_descriptors_on_exec() {
    // SAFETY: the arguments are integers, and the flag closes nothing now.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Makes `file` descriptor 0, 1 or 2 of this process.
pub(crate) fn place(file: &OwnedFd, number: RawFd) -> std::io::Result<()> {
    // SAFETY: stdio of a process that is about to become another program is nobody's.
    if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn transform_capabilities() -> Result<(), caps::errors::CapsError> {
    let kept = if nix::unistd::geteuid().is_root() {
        let bounding = caps::read(None, CapSet::Bounding)?;
        let inheritable = caps::read(None, CapSet::Inheritable)?;
        let permitted = caps::read(None, CapSet::Permitted)?;
        permitted
            .into_iter()
            .filter(|cap| bounding.contains(cap) || inheritable.contains(cap))
            .collect()
    } else {
        caps::read(None, CapSet::Ambient)?
    };
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Ends the process without running any destructor or exit handler: those of the shim, which
/// init is a copy of, are not init's to run.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no precondition.
    unsafe { libc::_exit(status) }
}
