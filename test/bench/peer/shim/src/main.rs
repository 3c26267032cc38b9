//! The peer: the least shim that runs `wasi:http` components, command components and modules on
//! the published crate `containerd-shim-wasm`, as runwasi's own Wasmtime shim does. That one is
//! not published as a crate, so its choices are made again here: the pooling allocator, one
//! instance a request, code that is compiled at each start unless the image has Wasm layers.
//!
//! It has the same Wasmtime as Lighter, so that a difference is not the engine's.

mod engine;
mod guest;
mod serve;

use anyhow::{Result, anyhow};
use containerd_shim_wasm::sandbox::Sandbox;
use containerd_shim_wasm::sandbox::context::RuntimeContext;
use containerd_shim_wasm::shim::{Cli, Compiler, Shim};

use crate::engine::LayerCompiler;
use crate::guest::Guest;

struct PeerShim;

impl Shim for PeerShim {
    type Sandbox = PeerSandbox;

    fn name() -> &'static str {
        "peerwasmtime"
    }

    async fn compiler() -> Option<impl Compiler> {
        Some(LayerCompiler)
    }
}

#[derive(Default)]
struct PeerSandbox;

impl Sandbox for PeerSandbox {
    async fn run_wasi(&self, context: &impl RuntimeContext) -> Result<i32> {
        let guest = Guest::of(context)?;
        // A runtime of its own: the threads of the shim's stayed behind at the fork.
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?
                .block_on(guest.run())
        });
        thread
            .join()
            .map_err(|_| anyhow!("the guest's thread panicked"))?
    }
}

fn main() {
    PeerShim::run(None);
}
