//! What the integration tests and the benchmark stand on: private daemons, images made in
//! memory, the built guests, and assertions that nothing is left behind.
//!
//! ```no_run
//! use lighter_testkit::{Containerd, Image, Version};
//!
//! let containerd = Containerd::start(Version::V2);
//! let image = Image::wasm("hello");
//! containerd.import(&image);
//! let leaks = containerd.leaks();
//! let output = containerd.run(&image).output();
//! assert_eq!(output.ok(), "Hello from Wasm\n");
//! leaks.assert_none_since();
//! ```
//!
//! Everything is private to its value: folder, sockets, containerd namespace, cgroups, and for
//! Docker the network namespace. Tests can therefore run at the same time, in threads or in
//! processes. Dropping a daemon stops it and removes all that it made; what a killed test run
//! left is removed when the next daemon starts.
//!
//! # Panics
//! A test can do nothing with an error but fail, so every function here panics, with a text
//! that says what to do. Without root they panic too: a test that skips itself tests nothing.

#![allow(
    clippy::disallowed_methods,
    reason = "banned for the shim's sake; a test process may have threads and children"
)]

mod call;
mod cgroup;
mod collector;
mod configuration;
mod containerd;
mod cri;
mod daemon;
mod docker;
mod guests;
mod image;
mod leaks;
mod network;
mod output;
mod paths;
mod processes;
mod registry;
mod run;
mod running;
mod sandbox;
pub mod shim;

pub use call::Call;
pub use cgroup::{Driver, Hierarchy};
pub use collector::{Collector, ReceivedSpan};
pub use containerd::{Containerd, Version};
pub use cri::{Cri, Ended, Pod};
pub use docker::{Docker, REMAPPED};
pub use guests::guest;
pub use image::{Image, digest};
pub use leaks::Leaks;
pub use network::Network;
pub use output::Output;
pub use paths::{cache, node_tool, shim_binary, shim_folder};
pub use processes::Process;
pub use registry::Registry;
pub use run::{RUNC, Run, WASMTIME};
pub use running::Running;
pub use sandbox::Scope;
