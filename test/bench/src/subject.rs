//! The two that are compared.

use lighter_testkit::{Image, RUNC, WASMTIME};

/// A runtime with an image that prints a line and one that sleeps.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) runtime: &'static str,
    /// Image and arguments of a container that prints a line and ends.
    pub(crate) short: Image,
    pub(crate) short_arguments: Vec<&'static str>,
    pub(crate) line: &'static str,
    /// Image and arguments of a container that does nothing for long.
    pub(crate) idle: Image,
    pub(crate) idle_arguments: Vec<&'static str>,
}

impl Subject {
    /// Wasm guests through Lighter's shim.
    pub(crate) fn lighter() -> Self {
        Self {
            name: "lighter",
            runtime: WASMTIME,
            short: Image::wasm("hello"),
            short_arguments: vec!["/hello.wasm"],
            line: "Hello from Wasm\n",
            idle: Image::wasm("sleep"),
            idle_arguments: vec!["/sleep.wasm", "100000"],
        }
    }

    /// Busybox through runc's shim.
    pub(crate) fn runc(name: &'static str) -> Self {
        Self {
            name,
            runtime: RUNC,
            short: Image::busybox(),
            short_arguments: vec!["echo", "Hello from Linux"],
            line: "Hello from Linux\n",
            idle: Image::busybox(),
            idle_arguments: vec!["sleep", "100000"],
        }
    }
}
