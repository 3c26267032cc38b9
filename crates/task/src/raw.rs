//! What tokio and nix offer in unsafe form only.
// This file is the crate's only one with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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
