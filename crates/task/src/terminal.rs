//! Terminals: the shim copies between the master and the client's FIFOs.
//!
//! No more than one buffer is under way in each direction: a client that does not read slows
//! the container down. Buffers are wiped after use, for what is typed is nobody else's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::raw;

const BUFFER: usize = 8 * 1024;

/// The terminal of a process.
pub(crate) struct Terminal {
    master: Arc<End>,
    input: Option<JoinHandle<()>>,
    output: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts to copy: from `input` to `master`, from `master` to `output`.
    ///
    /// `writer` is held as long as the terminal: it keeps `input` from ending between one
    /// client and the next, because a terminal's end of file is a key and not a closed FIFO.
    pub(crate) fn start(
        master: OwnedFd,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
        writer: Option<File>,
    ) -> io::Result<Self> {
        let master = Arc::new(End::new(master)?);
        let input = match input {
            Some(input) => {
                let (input, master) = (End::new(input)?, Arc::clone(&master));
                Some(tokio::spawn(async move {
                    let _writer = writer;
                    finish(copy(&input, &master).await);
                }))
            }
            None => None,
        };
        let output = match output {
            Some(output) => output,
            None => File::options().write(true).open("/dev/null")?.into(),
        };
        let (output, copied) = (End::new(output)?, Arc::clone(&master));
        let output = tokio::spawn(async move { finish(copy(&copied, &output).await) });
        Ok(Self {
            master,
            input,
            output: Some(output),
        })
    }

    /// Sets its size, in characters.
    pub(crate) fn resize(&self, height: u32, width: u32) -> Result<(), Errno> {
        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        raw::set_terminal_size(self.master.descriptor(), cells(height), cells(width))
    }

    /// Takes the copy of the output out of the terminal, to wait for what is under way.
    pub(crate) fn take_output(&mut self) -> Option<Output> {
        self.output.take().map(Output)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for copying in [self.input.take(), self.output.take()]
            .into_iter()
            .flatten()
        {
            copying.abort();
        }
    }
}

/// Output under way.
pub(crate) struct Output(JoinHandle<()>);

impl Output {
    /// Waits until all of it has reached the client, `limit` at most: a process in the
    /// background may keep the terminal open for ever.
    pub(crate) async fn drain(mut self, limit: Duration) {
        if tokio::time::timeout(limit, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }
}

/// One end of a copy.
enum End {
    /// A FIFO, a pipe or a terminal.
    Waits(AsyncFd<OwnedFd>),
    /// A regular file or a device, which never waits.
    Ready(OwnedFd),
}

impl End {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_truncate(fcntl(&descriptor, FcntlArg::F_GETFL)?);
        fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let copy = descriptor.try_clone()?;
        match raw::register(descriptor, Interest::READABLE | Interest::WRITABLE) {
            Ok(registered) => Ok(Self::Waits(registered)),
            // What epoll(7) says of a file that is always ready.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self::Ready(copy)),
            Err(error) => Err(error),
        }
    }

    fn descriptor(&self) -> &OwnedFd {
        match self {
            Self::Waits(registered) => registered.get_ref(),
            Self::Ready(descriptor) => descriptor,
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Ready(file) => Ok(nix::unistd::read(file, buffer)?),
            Self::Waits(file) => {
                let read = |file: &OwnedFd| Ok(nix::unistd::read(file, buffer)?);
                file.async_io(Interest::READABLE, read).await
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Ready(file) => Ok(nix::unistd::write(file.as_fd(), bytes)?),
            Self::Waits(file) => {
                let write = |file: &OwnedFd| Ok(nix::unistd::write(file, bytes)?);
                file.async_io(Interest::WRITABLE, write).await
            }
        }
    }
}

/// Copies until one side ends: a terminal by EIO, when nobody has its other end any more.
async fn copy(from: &End, to: &End) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = to.write(rest).await?;
            rest = &rest[written..];
        }
        buffer[..length].fill(0);
    }
}

/// A copy ends with an error when one side has gone, which is no failure.
fn finish(copied: io::Result<()>) {
    if let Err(error) = copied {
        log::debug!("a copy of a terminal ends: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pipe() -> (OwnedFd, OwnedFd) {
        nix::unistd::pipe().unwrap()
    }

    #[tokio::test]
    async fn both_directions_are_copied_and_the_end_is_passed_on() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let (input, keys) = pipe();
        let (screen, output) = pipe();
        let mut terminal = Terminal::start(pair.master, Some(input), Some(output), None).unwrap();
        terminal.resize(7, 90).unwrap();
        let mut slave = File::from(pair.slave);
        File::from(keys).write_all(b"hello\n").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut line = [0; 6];
        slave.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
        slave.write_all(b"world").unwrap();
        drop(slave);
        let output = terminal.take_output().unwrap();
        output.drain(Duration::from_secs(5)).await;
        let mut text = String::new();
        File::from(screen).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\r\nworld", "the echo, then the output");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_nothing() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let (screen, output) = pipe();
        let mut terminal = Terminal::start(pair.master, None, Some(output), None).unwrap();
        let mut slave = File::from(pair.slave);
        let expected = "x".repeat(300_000);
        let sent = expected.clone();
        let writer = std::thread::Builder::new()
            .spawn(move || slave.write_all(sent.as_bytes()).unwrap())
            .unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!writer.is_finished(), "300 kB do not fit pipe and terminal");
        let reader = std::thread::Builder::new()
            .spawn(move || {
                let mut text = String::new();
                File::from(screen).read_to_string(&mut text).unwrap();
                text
            })
            .unwrap();
        let output = terminal.take_output().unwrap();
        output.drain(Duration::from_secs(10)).await;
        writer.join().unwrap();
        assert!(reader.join().unwrap() == expected);
    }
}
