//! What tokio and nix offer in unsafe form only.
// This file is the crate's only one with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use lighter_core::ExitReason;
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for `fd` to become readable, on tokio's event loop.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE)
}

/// Puts `fd` on tokio's event loop. Fails with EPERM for what never makes anybody wait.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open and keeps its number for as long as the AsyncFd has it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}

/// Sets the size of a terminal, in characters.
pub(crate) fn set_terminal_size(terminal: &OwnedFd, height: u16, width: u16) -> Result<(), Errno> {
    let size = libc::winsize {
        ws_row: height,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads a winsize from the pointer, which is one.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).map(drop)
}

/// The descriptors in a control message, owned.
pub(crate) fn own(descriptors: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: recvmsg has just made these descriptors for its caller, and nobody else has them.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    descriptors.into_iter().map(own).collect()
}

/// Sends the signal with this number: nix has no name for those above 31.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill takes integers; a wrong one is an error.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Ends a process with SIGKILL. One that has ended already is no error.
pub(crate) fn kill_pidfd(pidfd: &OwnedFd) {
    let (fd, signal) = (pidfd.as_raw_fd(), libc::SIGKILL);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and without information the kernel reads none.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
}

/// Collects a child that has ended, if there is one, and says how it ended. Fails with ECHILD if there
/// is no child at all.
///
/// nix's waitid collects one that a real-time signal has killed, and then fails: it has no name for
/// the signal.
pub(crate) fn reap() -> Result<Option<(i32, ExitReason)>, Errno> {
    let info = waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG)?;
    // SAFETY: waitid has filled these fields, or left them zero if no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    // Statuses and numbers of signals fit a byte.
    let reason = match info.si_code {
        libc::CLD_EXITED => ExitReason::Exited(status as u8),
        _ => ExitReason::Signaled(status as u8),
    };
    Ok((pid != 0).then_some((pid, reason)))
}

/// Whether the process is a child of this one that has not been collected.
pub(crate) fn is_unreaped(pidfd: &OwnedFd) -> bool {
    let id = pidfd.as_raw_fd().cast_unsigned();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    waitid(libc::P_PIDFD, id, flags).is_ok()
}

fn waitid(
    kind: libc::idtype_t,
    id: libc::id_t,
    flags: libc::c_int,
) -> Result<libc::siginfo_t, Errno> {
    // SAFETY: zero is a valid value of each of its fields.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a siginfo_t where the pointer points to, which is one.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, flags) };
    Errno::result(result).map(|_| info)
}
