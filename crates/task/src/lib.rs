//! containerd's task API: one service for its versions 2 and 3, events in order, and the one
//! reaper of the shim.
//!
//! All of it runs on one thread. What would block is an [`Operation`], a process of its own
//! that the [`Runtime`] starts and this crate waits for.

mod calls;
mod events;
mod making;
mod memory;
mod metrics;
mod operation;
mod publisher;
mod raw;
mod reaper;
mod requests;
mod runtime;
mod runtime_options;
mod server;
mod service;
mod spans;
mod status;
mod stdio;
mod tasks;
mod terminal;
mod traced;

pub use operation::Operation;
pub use publisher::Publisher;
pub use reaper::{Reaper, block_signals};
pub use runtime::{CreateTask, ExecTask, Runtime, Target};
pub use runtime_options::{are_options as are_runtime_options, of as runtime_options};
pub use server::serve;
pub use spans::SpanSender;
pub use traced::container as request_container;
