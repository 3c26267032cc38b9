//! What tokio and nix offer in unsafe form only.
// This file is the crate's only one with unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for `fd` to become readable, on tokio's event loop.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open and keeps its number for as long as the AsyncFd has it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Sends the signal with this number: nix has no name for those above 31.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill takes integers; a wrong one is an error.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
