//! What the tests of a cluster stand on: a namespace for each, pods, the node, and requests.
//!
//! The cluster is the one that `test/kubernetes/run.sh` makes. Tests run at the same time, but
//! for those that stop what all of them need.
//!
//! # Panics
//! As in `lighter-testkit`, every function here does when what it is for cannot be done.

#![allow(
    clippy::disallowed_methods,
    reason = "banned for the shim's sake; a test process may have threads and children"
)]

mod image;
mod node;
mod pod;
mod request;
mod space;
mod wait;

pub use image::{BUSYBOX, GUESTS, import, import_archive};
pub use node::{Guest, Holding, daemon, restart};
pub use pod::{deployment, linux, pod, runc, service, wasm};
pub use request::{Answer, Load, get, get_with};
pub use space::Space;
pub use wait::{LIMIT, until};
