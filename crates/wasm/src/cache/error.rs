//! Why there is no artifact, and what is wrong with the folder.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lighter_core::{ErrorClass, Failure};

use super::progress::Progress;
use crate::classify::NotRunnable;
use crate::compile::CompileError;
use crate::engine::EngineError;

/// Why there is no artifact for a Wasm file. The texts follow the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The Wasm file could not be read.
    #[error("cannot be read: {0}")]
    Source(#[source] io::Error),
    /// The file is no Wasm binary.
    #[error(transparent)]
    NotRunnable(#[from] NotRunnable),
    /// This node does not run programs of this kind; the text says why.
    #[error("{0}")]
    NotAllowed(String),
    /// The code that was compiled cannot be mapped, as a trial has shown.
    #[error("was compiled, but the result cannot be loaded: {0}")]
    Unmappable(#[from] EngineError),
    /// The Wasm binary was not compiled.
    #[error("cannot be compiled: {0}")]
    Compile(#[from] CompileError),
    /// The components were not composed.
    #[error("cannot be composed with the other Wasm layers of its image: {0}")]
    Compose(#[source] CompileError),
    /// It could not be compiled some time ago, and that has not been tried again.
    #[error(
        "{message} (this was found {seconds} s ago; it is tried again {} s after that, or with other \
         options of the cache)",
        super::failures::FAILURE_TTL.as_secs()
    )]
    Failed {
        /// What was said then.
        message: String,
        /// How long ago that is.
        seconds: u64,
        /// Its class.
        class: ErrorClass,
    },
    /// Others were compiling all the time.
    #[error(
        "waits to be compiled: no place was free for {seconds} s (option `at-a-time` of the cache); \
         try again, or compile it before its first start (`lighter precompile`)"
    )]
    NoTurn {
        /// How long it has waited.
        seconds: u64,
    },
    /// It is being compiled, which goes on.
    #[error(
        "is being compiled, for the first time on this node{0}; that goes on, so start it again \
         later, or compile it before its first start (`lighter precompile`)"
    )]
    AtWork(Progress),
    /// It was compiled, and evicted before it could be used.
    #[error(
        "was compiled, but the cache has no room for it beside what is in use (option `bytes` of \
         the cache)"
    )]
    Evicted,
    /// The process that had it compiled has failed; the text is its own.
    #[error("{0}")]
    Job(Failure),
    /// Compiled code cannot be kept.
    #[error("cannot be compiled: {0}")]
    Folder(#[from] FolderError),
}

/// What is wrong with the folder of artifacts, or with what is in it.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Code in the folder could be anybody's, or cannot be run from there.
    #[error("the folder {path} of compiled Wasm {fault}")]
    Unfit {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        fault: String,
    },
    /// A file of the cache could not be made, read, locked or renamed.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Another process holds a lock for longer than it should.
    #[error(
        "cannot lock {path}: another process has held it for {seconds} s; try again, and see who \
         has it open (`fuser -v {path}`)"
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// What was asked for cannot be done; the text says why.
    #[error("{0}")]
    Refused(String),
}

impl CacheError {
    /// What containerd acts on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Source(error) => ErrorClass::of_io(error),
            Self::NotRunnable(_) | Self::NotAllowed(_) => ErrorClass::InvalidArgument,
            Self::Unmappable(_) => ErrorClass::Internal,
            Self::Compile(error) | Self::Compose(error) => error.class(),
            Self::Failed { class, .. } => *class,
            Self::NoTurn { .. } | Self::AtWork(_) => ErrorClass::DeadlineExceeded,
            Self::Evicted => ErrorClass::ResourceExhausted,
            Self::Job(failure) => failure.class,
            Self::Folder(error) => error.class(),
        }
    }

    /// Whether the same bytes will fail in the same way, whatever the state of this node.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            Self::NotRunnable(_) => true,
            Self::Compile(error) | Self::Compose(error) => error.is_lasting(),
            _ => false,
        }
    }
}

impl FolderError {
    /// What containerd acts on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unfit { .. } => ErrorClass::FailedPrecondition,
            Self::Io { error, .. } => ErrorClass::of_io(error),
            Self::Busy { .. } => ErrorClass::DeadlineExceeded,
            Self::Refused(_) => ErrorClass::InvalidArgument,
        }
    }

    pub(super) fn busy(path: &Path, waited: Duration) -> Self {
        Self::Busy {
            path: path.to_owned(),
            seconds: waited.as_secs(),
        }
    }
}

/// Says which file an error is about.
pub(super) fn at(path: &Path, error: io::Error) -> FolderError {
    FolderError::Io {
        path: path.to_owned(),
        error,
    }
}
