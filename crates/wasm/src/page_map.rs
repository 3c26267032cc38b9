//! The kernel's map of this process's pages, by which the pool finds what a guest wrote to.
//!
//! Wasmtime opens `/proc/self/pagemap` once for a process. A container's init is a copy of the
//! process that prepared it, so that its descriptor would show the pages of the other: by that map
//! nothing was ever written to, and an instance would find what the last one left. The container has
//! no procfs, and no descriptor of the host's may reach it. So the number of Wasmtime's descriptor
//! stands for a socket until the guest's process runs: over it come its own `pagemap` and `maps`,
//! opened by who made the process ([`PageMap::take_sender`], [`PageMap::follow`]).
#![allow(unsafe_code)] // The descriptor is Wasmtime's.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use wasmtime::PoolingAllocationConfig;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PageMap {
    /// The other end of the socket, until it is taken.
    sender: Option<OwnedFd>,
    /// Wasmtime's descriptor, which is the socket's end now.
    descriptor: RawFd,
}

impl PageMap {
    /// The descriptor of the map that Wasmtime has open in this process. There is none before
    /// Linux 6.7, which cannot tell what was written to.
    pub(crate) fn find() -> Option<RawFd> {
        // Wasmtime opens it now, if it has not yet.
        if !PoolingAllocationConfig::is_pagemap_scan_available() {
            return None;
        }
        let own = PathBuf::from(format!("/proc/{}/pagemap", std::process::id()));
        fs::read_dir("/proc/self/fd")
            .ok()?
            .flatten()
            .find_map(|entry| {
                let is_own = fs::read_link(entry.path()).ok()? == own;
                entry.file_name().to_str()?.parse().ok().filter(|_| is_own)
            })
    }

    /// Puts the socket in the place of `descriptor`, which [`PageMap::find`] has found. Once
    /// engines have been made: Wasmtime tries the map then.
    pub(crate) fn replace(descriptor: RawFd) -> io::Result<Self> {
        let (sender, receiver) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        replace(descriptor, &receiver)?;
        Ok(Self {
            sender: Some(sender),
            descriptor,
        })
    }

    /// Where the guest's process expects one message with two descriptors: its `/proc/PID/pagemap`
    /// and its `/proc/PID/maps`, both open for reading. Without it the process opens them itself.
    pub(crate) fn take_sender(&mut self) -> Option<OwnedFd> {
        self.sender.take()
    }

    /// Wasmtime's descriptor.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// From now on Wasmtime sees the pages of the calling process. No guest has run yet.
    /// Returned are the map, and the table of this process's mappings.
    ///
    /// # Errors
    /// Nothing may run then: what one instance wrote could be seen by the next.
    pub(crate) fn follow(self) -> io::Result<(OwnedFd, File)> {
        let (page_map, maps) = match self.sender {
            Some(_) => (
                File::open("/proc/self/pagemap")?.into(),
                File::open("/proc/self/maps")?,
            ),
            None => receive(self.descriptor)?,
        };
        replace(self.descriptor, &page_map)?;
        Ok((page_map, maps))
    }
}

/// Has Wasmtime's `descriptor` stand for what `file` is.
fn replace(descriptor: RawFd, file: &OwnedFd) -> io::Result<()> {
    // SAFETY: both are open. Wasmtime's `File` goes on owning the number, and nobody uses it
    // meanwhile.
    let result = unsafe { libc::dup3(file.as_raw_fd(), descriptor, libc::O_CLOEXEC) };
    Ok(Errno::result(result).map(drop)?)
}

/// The two files that are sent over the socket.
fn receive(socket: RawFd) -> io::Result<(OwnedFd, File)> {
    let mut text = [0; 1];
    let mut space = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = control {
            // SAFETY: the kernel has just made these descriptors, and nobody else has them.
            files.extend(rights.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
        }
    }
    match <[OwnedFd; 2]>::try_from(files) {
        Ok([page_map, maps]) => Ok((page_map, maps.into())),
        Err(_) => Err(io::Error::other("nobody has sent it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, sendmsg};
    use std::io::IoSlice;

    /// One after the other: Wasmtime has one descriptor in a process.
    #[test]
    fn the_descriptor_stays_and_shows_this_process() {
        // The kernel may be older than 6.7.
        let Some(descriptor) = PageMap::find() else {
            return;
        };
        let map = PageMap::replace(descriptor).unwrap();
        let link = PathBuf::from(format!("/proc/self/fd/{descriptor}"));
        let target = || fs::read_link(&link).unwrap().display().to_string();
        assert!(target().starts_with("socket:"), "{}", target());
        map.follow().unwrap();
        let own = format!("/proc/{}/pagemap", std::process::id());
        assert_eq!(target(), own);

        let mut map = PageMap::replace(PageMap::find().unwrap()).unwrap();
        let sender = map.take_sender().unwrap();
        let files = [
            File::open(&own).unwrap(),
            File::open("/proc/self/maps").unwrap(),
        ];
        let rights = files.each_ref().map(AsRawFd::as_raw_fd);
        let rights = [ControlMessage::ScmRights(&rights)];
        let part = [IoSlice::new(b"m")];
        let fd = sender.as_raw_fd();
        sendmsg::<()>(fd, &part, &rights, MsgFlags::empty(), None).unwrap();
        map.follow().unwrap();
        assert_eq!(target(), own);

        let mut map = PageMap::replace(PageMap::find().unwrap()).unwrap();
        drop(map.take_sender());
        assert!(map.follow().is_err(), "what nobody sends is an error");
        // As it was, for other tests of this process.
        replace(descriptor, &files[0].try_clone().unwrap().into()).unwrap();
    }
}
