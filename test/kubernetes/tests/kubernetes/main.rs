//! Wasm pods on a real cluster of one node: kubelet, control plane, containerd and the shim.
//!
//! `make test-k8s` runs them, on the cluster that `test/kubernetes/run.sh` makes.

#![allow(
    clippy::disallowed_methods,
    reason = "banned for the shim's sake; a test process may have threads and children"
)]

mod access;
mod endings;
mod installation;
mod jobs;
mod network;
mod probes;
mod refusals;
mod resources;
mod restarts;
mod rollout;
mod security;
mod sidecars;
mod user_namespaces;
mod volumes;
