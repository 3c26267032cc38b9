//! The guest's input and output: descriptors 0, 1 and 2, and no thread.
//!
//! Rust's own `Stdout` would keep the part of a write after its last newline, which is lost
//! when a signal ends the process, and wasmtime-wasi's `stdin` starts a thread. Descriptors may be
//! shared with whoever made them, so but for a FIFO at stdin they are not made non-blocking: what
//! may block is asked by poll(2) first.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::cli::{AsyncStdinStream, IsTerminal, OutputFile, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Bytes that a pipe takes without blocking once poll(2) has called it writable: PIPE_BUF.
const ATOMIC: usize = 4096;

/// Whether a read or write would not block now.
fn is_ready(descriptor: BorrowedFd<'_>, what: PollFlags) -> bool {
    let mut polled = [PollFd::new(descriptor, what)];
    // An error here is found again, with its cause, by the read or write.
    poll(&mut polled, PollTimeout::ZERO) != Ok(0)
}

/// The descriptor of a pipe, terminal or socket, or of a file, which is always ready.
enum Descriptor {
    Waiting(AsyncFd<File>),
    Ready(File),
}

impl Descriptor {
    /// Inside of the runtime only.
    fn new(file: &File, interest: Interest) -> io::Result<Self> {
        // epoll refuses files and /dev/null.
        match wait_for(file.try_clone()?, interest) {
            Ok(waiting) => Ok(Self::Waiting(waiting)),
            Err(_) => Ok(Self::Ready(file.try_clone()?)),
        }
    }

    fn file(&self) -> &File {
        match self {
            Self::Waiting(waiting) => waiting.get_ref(),
            Self::Ready(file) => file,
        }
    }
}

/// Registers a descriptor with the event loop. Inside of the runtime only.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that do not own their descriptor; these do"
)]
pub(crate) fn wait_for<T: AsRawFd + Into<OwnedFd>>(
    descriptor: T,
    interest: Interest,
) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, interest)
}

/// Standard input, read when the guest asks.
pub(crate) struct Input {
    file: File,
    stream: OnceLock<AsyncStdinStream>,
}

impl Input {
    /// An input from the same file as `descriptor`.
    pub(crate) fn from(descriptor: impl AsFd) -> io::Result<Self> {
        Ok(Self {
            file: File::from(descriptor.as_fd().try_clone_to_owned()?),
            stream: OnceLock::new(),
        })
    }

    fn stream(&self) -> &AsyncStdinStream {
        self.stream.get_or_init(|| {
            let descriptor = Descriptor::new(&self.file, Interest::READABLE).ok();
            AsyncStdinStream::new(InputReader {
                descriptor,
                blocks: make_non_blocking(&self.file).is_err(),
            })
        })
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        self.stream().async_stream()
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        self.stream().p2_stream()
    }
}

/// Has a read from an empty FIFO fail instead of waiting.
///
/// poll(2) does not tell that all writers had gone before this end was opened; read(2) does. A
/// FIFO is opened for one container alone, other files are left as they are.
fn make_non_blocking(file: &File) -> io::Result<()> {
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Reads what is there. Without a descriptor it is at its end.
struct InputReader {
    descriptor: Option<Descriptor>,
    blocks: bool,
}

impl AsyncRead for InputReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let waiting = match &self.descriptor {
            None => return Poll::Ready(Ok(())),
            Some(Descriptor::Ready(file)) => return Poll::Ready(read(file, buffer)),
            Some(Descriptor::Waiting(waiting)) => waiting,
        };
        loop {
            let mut guard = ready!(waiting.poll_read_ready(context))?;
            let file = waiting.get_ref();
            if !self.blocks || is_ready(file.as_fd(), PollFlags::POLLIN) {
                match read(file, buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    done => return Poll::Ready(done),
                }
            }
            guard.clear_ready();
        }
    }
}

fn read(mut file: &File, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
    let count = file.read(buffer.initialize_unfilled())?;
    buffer.advance(count);
    Ok(())
}

/// A stream of output that blocks while the reader is slow, as for any process.
pub(crate) struct Output {
    file: OutputFile,
    terminal: bool,
}

impl Output {
    /// An output to the same file as `descriptor`.
    pub(crate) fn to(descriptor: impl AsFd) -> io::Result<Self> {
        let descriptor = descriptor.as_fd();
        Ok(Self {
            terminal: descriptor.is_terminal(),
            file: OutputFile::new(File::from(descriptor.try_clone_to_owned()?)),
        })
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        self.file.async_stream()
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        self.file.p2_stream()
    }
}

/// A stream of output that keeps only its own request waiting while the reader is slow.
#[derive(Clone)]
pub(crate) struct ServiceOutput {
    descriptor: Arc<Descriptor>,
    terminal: bool,
}

impl ServiceOutput {
    /// An output to the same file as `descriptor`. Inside of the runtime only.
    pub(crate) fn to(descriptor: impl AsFd) -> io::Result<Self> {
        let file = File::from(descriptor.as_fd().try_clone_to_owned()?);
        Ok(Self {
            descriptor: Arc::new(Descriptor::new(&file, Interest::WRITABLE)?),
            terminal: file.is_terminal(),
        })
    }

    fn is_writable(&self) -> bool {
        match &*self.descriptor {
            Descriptor::Waiting(waiting) => is_ready(waiting.get_ref().as_fd(), PollFlags::POLLOUT),
            Descriptor::Ready(_) => true,
        }
    }
}

impl IsTerminal for ServiceOutput {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for ServiceOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for ServiceOutput {
    async fn ready(&mut self) {
        let Descriptor::Waiting(waiting) = &*self.descriptor else {
            return;
        };
        // An error is found again by the write.
        while let Ok(mut guard) = waiting.writable().await {
            if self.is_writable() {
                return;
            }
            guard.clear_ready();
        }
    }
}

impl OutputStream for ServiceOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut file = self.descriptor.file();
        file.write_all(&bytes)
            .map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.is_writable() { ATOMIC } else { 0 })
    }
}

impl AsyncWrite for ServiceOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Descriptor::Waiting(waiting) = &*self.descriptor {
            loop {
                let mut guard = ready!(waiting.poll_write_ready(context))?;
                if self.is_writable() {
                    break;
                }
                guard.clear_ready();
            }
        }
        let mut file = self.descriptor.file();
        Poll::Ready(file.write(&bytes[..bytes.len().min(ATOMIC)]))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
