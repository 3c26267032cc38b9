//! The map of a guest's own memory, opened for it from outside: its container has no procfs, and the
//! host's must not be open in it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use lighter_core::Failure;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;

use crate::executor::Workload;

/// Sends a guest's process its own map.
pub(crate) struct MemoryMapSender {
    socket: OwnedFd,
}

impl MemoryMapSender {
    /// For a workload that asks for it.
    pub(crate) fn new(workload: &mut Workload) -> Option<Self> {
        workload
            .take_memory_map_sender()
            .map(|socket| Self { socket })
    }

    /// Sends that of the process `pid`, as the host's procfs `proc` has it.
    pub(crate) fn send(&self, proc: impl AsFd, pid: i32) -> Result<(), Failure> {
        self.try_send(proc, pid).map_err(|error| {
            Failure::internal(format!(
                "cannot give process {pid} the map of its memory: {error}"
            ))
        })
    }

    fn try_send(&self, proc: impl AsFd, pid: i32) -> io::Result<()> {
        let open = |name: &str| {
            let path = format!("{pid}/{name}");
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            openat(&proc, path.as_str(), flags, Mode::empty())
        };
        let files = [open("pagemap")?, open("maps")?];
        let rights = files.each_ref().map(AsRawFd::as_raw_fd);
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(b"m")],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }
}

/// The host's procfs. Nothing of it can be read by this descriptor, but it leads to all of it: no
/// process of a container may have it.
pub(crate) fn host_proc() -> Result<File, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(Path::new("/proc"), flags, Mode::empty())
        .map(File::from)
        .map_err(|error| Failure::internal(format!("cannot open /proc: {error}")))
}
