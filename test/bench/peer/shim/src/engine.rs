//! Wasmtime, and how code gets into it.

use std::hash::Hash;

use anyhow::{Result, anyhow};
use containerd_shim_wasm::sandbox::context::WasmLayer;
use containerd_shim_wasm::shim::Compiler;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// An engine with the pooling allocator where the address space has room for it, as
/// `wasmtime serve` and runwasi have it.
pub(crate) fn engine() -> Result<Engine> {
    let mut pooling = Config::new();
    let pool = PoolingAllocationConfig::default();
    pooling.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&pooling).or_else(|_| Engine::new(&Config::new()))?;
    Ok(engine)
}

/// Compiles images that bring Wasm layers once; containerd's content store keeps the code.
/// Images with ordinary layers never come here.
pub(crate) struct LayerCompiler;

impl Compiler for LayerCompiler {
    fn cache_key(&self) -> impl Hash {
        let mut key = KeyBytes::default();
        let engine = engine().expect("the engine was made before");
        engine.precompile_compatibility_hash().hash(&mut key);
        key.0
    }

    async fn compile(&self, layers: &[WasmLayer]) -> Result<Vec<Option<Vec<u8>>>> {
        let engine = engine()?;
        layers
            .iter()
            .map(|layer| {
                if Engine::detect_precompiled(&layer.layer).is_some() {
                    return Ok(None);
                }
                let code = engine
                    .precompile_component(&layer.layer)
                    .or_else(|_| engine.precompile_module(&layer.layer))
                    .map_err(|error| anyhow!("cannot compile a layer: {error:?}"))?;
                Ok(Some(code))
            })
            .collect()
    }
}

/// Takes what a value has to hash, since the value itself borrows from its engine.
#[derive(Default)]
struct KeyBytes(Vec<u8>);

impl std::hash::Hasher for KeyBytes {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}
