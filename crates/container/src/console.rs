//! Terminals: a pair of pseudo-terminals whose master goes to the shim.
//!
//! A program of a Linux image gets one of the container's own devpts, so that `ttyname` works
//! in it; libcontainer makes it and sends the master over a socket. A guest's container has no
//! devpts, and its terminal is one of the host's that it knows by its descriptors alone.
// ioctls of terminals have no safe form.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use oci_spec::runtime::Process;

const SOCKET: &str = "console.sock";

/// Both ends of a terminal.
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

/// A terminal of the host's devpts, of the size that `process` asks for.
pub(crate) fn open(process: Option<&Process>) -> io::Result<Terminal> {
    let pair = openpty(size_of(process).as_ref(), None)?;
    for end in [&pair.master, &pair.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(Terminal {
        master: pair.master,
        slave: pair.slave,
    })
}

/// Completes a terminal that libcontainer has made: its size, and its owner as the host sees it,
/// so that a program that is not root can open `/dev/stdout`.
pub(crate) fn adopt(
    master: &OwnedFd,
    process: Option<&Process>,
    (uid, gid): (u32, u32),
) -> io::Result<()> {
    if let Some(size) = size_of(process) {
        // SAFETY: the kernel reads a winsize from the pointer, which is one.
        check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is an integer; the kernel opens the other end of this very terminal.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    nix::unistd::fchown(&slave, Some(uid.into()), Some(gid.into()))?;
    Ok(())
}

fn size_of(process: Option<&Process>) -> Option<Winsize> {
    let size = process?.console_size()?;
    let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
    Some(Winsize {
        ws_row: cells(size.height()),
        ws_col: cells(size.width()),
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

/// Makes the terminal at descriptor 0 the one that controls this process's session, which must
/// be new: its hang-up and its Ctrl-C come to the process.
pub(crate) fn take_control() -> io::Result<()> {
    // SAFETY: the arguments are integers.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The socket at which libcontainer hands over the master of init's terminal.
pub(crate) struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Binds it in `dir`, which is this process's working directory meanwhile: the path of a bundle is
    /// longer than the address of a socket may be. No descriptor of the directory is opened: init
    /// would inherit it.
    pub(crate) fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        let before = std::env::current_dir()?;
        std::env::set_current_dir(dir)?;
        let listener = UnixListener::bind(SOCKET);
        std::env::set_current_dir(before)?;
        Ok(Self {
            listener: listener?,
            path,
        })
    }

    /// Its path, which libcontainer makes a link to.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The master, after libcontainer has returned.
    pub(crate) fn receive(self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        let _ = std::fs::remove_file(self.path());
        receive(&stream)
    }
}

/// A descriptor that was sent over `stream`.
pub(crate) fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut text = [0; 64];
    let mut space = nix::cmsg_space!(RawFd);
    let mut data = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut data,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&fd) = descriptors.first()
        {
            // SAFETY: the kernel has just made this descriptor, and nobody else has it.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::other("no terminal was sent"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{BoxBuilder, ProcessBuilder};
    use std::fs::File;
    use std::io::{IsTerminal, Read, Write};

    #[test]
    fn a_terminal_has_the_size_that_was_asked_for() {
        let size = BoxBuilder::default().height(40u64).width(70000u64).build();
        let process = ProcessBuilder::default()
            .console_size(size.unwrap())
            .build()
            .unwrap();
        let terminal = open(Some(&process)).unwrap();
        assert!(terminal.slave.is_terminal());
        let mut size = Winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let fd = terminal.slave.as_raw_fd();
        // SAFETY: the kernel writes a winsize to the pointer, which is one.
        unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
        assert_eq!((size.ws_row, size.ws_col), (40, u16::MAX));
        adopt(&terminal.master, Some(&process), (0, 0)).unwrap();
    }

    #[test]
    fn a_descriptor_is_received() {
        let short = tempfile::tempdir().unwrap();
        let folder = short.path().join("x".repeat(150));
        std::fs::create_dir(&folder).unwrap();
        let socket = ConsoleSocket::bind(&folder).unwrap();
        // As libcontainer does: the address is short, and where it leads may be far.
        let link = short.path().join("link");
        std::os::unix::fs::symlink(socket.path(), &link).unwrap();
        let client = UnixStream::connect(link).unwrap();
        let mut sent = File::from(
            nix::sys::memfd::memfd_create(c"sent", nix::sys::memfd::MFdFlags::empty()).unwrap(),
        );
        sent.write_all(b"hello").unwrap();
        let rights = [sent.as_raw_fd()];
        nix::sys::socket::sendmsg::<()>(
            client.as_raw_fd(),
            &[std::io::IoSlice::new(b"x")],
            &[nix::sys::socket::ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        let mut received = File::from(socket.receive().unwrap());
        std::io::Seek::rewind(&mut received).unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(!folder.join(SOCKET).exists());
    }
}
