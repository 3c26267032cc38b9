//! The guest's output, straight to descriptors 1 and 2.
//!
//! Rust's own `Stdout` would keep the part of a write after its last newline, which is lost
//! when a signal ends the process, and `OutputFile` alone would deny that a terminal is one.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd;

use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, OutputFile, StdoutStream};
use wasmtime_wasi::p2::OutputStream;

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
