//! The kernel's map of this process's pages, by which the pool finds what a guest wrote to.
//!
//! Wasmtime opens `/proc/self/pagemap` once for a process. A container's init is a copy of the
//! process that prepared it, made by a clone3(2) that runs no fork handlers, so that its
//! descriptor shows the pages of the other: by that map nothing was ever written to, and an
//! instance would find what the last one left. [`PageMap::follow`] puts the right file in its
//! place.
#![allow(unsafe_code)] // The descriptor is Wasmtime's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::{OFlag, openat};
use nix::sys::prctl;
use nix::sys::stat::Mode;
use wasmtime::PoolingAllocationConfig;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PageMap {
    /// The host's `/proc`: the container may have none.
    proc: File,
    /// Wasmtime's descriptor.
    descriptor: RawFd,
}

impl PageMap {
    /// The map that Wasmtime has open in this process. There is none before Linux 6.7, which
    /// cannot tell what was written to.
    pub(crate) fn find() -> Option<Self> {
        // Wasmtime opens it now, if it has not yet.
        if !PoolingAllocationConfig::is_pagemap_scan_available() {
            return None;
        }
        let own = PathBuf::from(format!("/proc/{}/pagemap", std::process::id()));
        let descriptor = fs::read_dir("/proc/self/fd")
            .ok()?
            .flatten()
            .find_map(|entry| {
                let is_own = fs::read_link(entry.path()).ok()? == own;
                entry.file_name().to_str()?.parse().ok().filter(|_| is_own)
            })?;
        let proc = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open("/proc")
            .ok()?;
        Some(Self { proc, descriptor })
    }

    /// The descriptors that a copy of this process needs for [`PageMap::follow`].
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.proc.as_raw_fd(), self.descriptor]
    }

    /// From now on Wasmtime sees the pages of the calling process. No guest has run yet.
    /// Returned are the map, and the table of this process's mappings.
    ///
    /// # Errors
    /// Nothing may run then: what one instance wrote could be seen by the next.
    pub(crate) fn follow(self) -> io::Result<(OwnedFd, File)> {
        // The files of a process that has changed its user are root's until its next execve.
        let before = prctl::get_dumpable()?;
        prctl::set_dumpable(true)?;
        let open = |path: &str| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            openat(&self.proc, path, flags, Mode::empty())
        };
        let opened = (open("self/pagemap"), open("self/maps"));
        prctl::set_dumpable(before)?;
        let (own, maps) = (opened.0?, opened.1?);
        // SAFETY: both are open. Wasmtime's `File` goes on owning the number, and nobody uses it
        // meanwhile.
        if unsafe { libc::dup2(own.as_raw_fd(), self.descriptor) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((own, maps.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_stays_and_shows_this_process() {
        // The kernel may be older than 6.7.
        let Some(map) = PageMap::find() else { return };
        let link = PathBuf::from(format!("/proc/self/fd/{}", map.descriptor));
        map.follow().unwrap();
        let own = format!("/proc/{}/pagemap", std::process::id());
        assert_eq!(fs::read_link(link).unwrap(), PathBuf::from(own));
        assert!(PageMap::find().is_some());
    }
}
