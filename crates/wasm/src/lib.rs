//! Runs WebAssembly: what a file is, how it becomes native code once, and how a guest runs.
//!
//! ```text
//!  file of the image --classify--> module | component | refused
//!        |  SHA-256
//!        v
//!  ArtifactCache --(miss)--> compile worker, a process of its own (crate lighter-compiler)
//!        |  a file that this node compiled
//!        v
//!  Program: mapped code, imports checked --run--> ExitReason
//! ```
//!
//! Several components of an image become one before that, in the worker too
//! (`Program::load_composition`).
//!
//! This crate contains no compiler: Cranelift is linked into `lighter-compiler` only, which uses
//! this crate without its feature `run`.

pub mod classify;
pub mod composition;
pub mod engine;
pub mod report;

#[cfg(feature = "run")]
pub mod cache;
#[cfg(feature = "run")]
pub mod debugging;
#[cfg(feature = "run")]
pub mod options;
#[cfg(feature = "run")]
pub mod program;
#[cfg(feature = "run")]
pub mod signals;

#[cfg(feature = "run")]
mod budget;
#[cfg(feature = "run")]
mod clock;
#[cfg(feature = "run")]
mod clusters;
#[cfg(feature = "run")]
mod compile;
#[cfg(feature = "run")]
mod ending;
#[cfg(feature = "run")]
mod errno;
#[cfg(feature = "run")]
mod key_value;
#[cfg(feature = "run")]
mod link;
#[cfg(feature = "run")]
mod network;
#[cfg(feature = "wasi-nn")]
mod neural_network;
#[cfg(feature = "run")]
mod outgoing;
#[cfg(feature = "run")]
mod page_map;
#[cfg(feature = "run")]
mod pool;
#[cfg(feature = "run")]
mod preopen;
#[cfg(feature = "run")]
mod run;
#[cfg(feature = "run")]
mod serve;
#[cfg(feature = "run")]
mod slots;
#[cfg(feature = "run")]
mod source;
#[cfg(feature = "run")]
mod spans;
#[cfg(feature = "run")]
mod state;
#[cfg(feature = "run")]
mod stdio;

pub use classify::{Interface, NotRunnable, World, classify, inspect, is_precompiled, is_wasm};
pub use engine::{Compilation, EngineError, Variant, configuration};

#[cfg(feature = "run")]
pub use budget::{Heap, MemoryLimit};
#[cfg(feature = "run")]
pub use cache::{ArtifactCache, CacheError, CacheLimits, Detach, FolderError, Job, Owner};
#[cfg(feature = "run")]
pub use compile::CompileError;
#[cfg(feature = "run")]
pub use options::{NodeOptions, OptionError, Options, Resources};
#[cfg(feature = "run")]
pub use program::{Program, ProgramError};
#[cfg(feature = "run")]
pub use run::Guest;
#[cfg(feature = "run")]
pub use signals::exit_on_fatal_signals;
#[cfg(feature = "run")]
pub use source::{Composition, Part};
