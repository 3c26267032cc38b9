//! Attacks on a node, each from a real container, image or client, and each held.
//!
//! A module for each thing that an attacker goes for. A test does what the attacker would do and
//! asserts that nothing came of it; where that could also mean that the attack itself is broken, the
//! test shows first that it works against a target that is not protected. The table in
//! docs/explanation/security.md names the test of each attack.

mod calls;
mod descriptors;
mod executables;
mod guest_process;
mod images;
mod mounts;
mod network;
mod resources;
mod state;
