//! Why there is no artifact, and what is wrong with the folder.

use std::io;
use std::path::{Path, PathBuf};

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
    /// What was asked for cannot be done; the text says why.
    #[error("{0}")]
    Refused(String),
}

/// Says which file an error is about.
pub(super) fn at(path: &Path, error: io::Error) -> FolderError {
    FolderError::Io {
        path: path.to_owned(),
        error,
    }
}
