//! What is run: a module, a command component, or a component that serves HTTP.

use anyhow::{Result, anyhow, bail};
use containerd_shim_wasm::sandbox::context::{RuntimeContext, WasmBinaryType};
use wasmtime::component::{Component, ResourceTable};
use wasmtime::{Engine, Module, Precompiled, Store, component};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p2};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::engine::engine;
use crate::serve::serve;

/// What a container's specification says about the guest.
pub(crate) struct Guest {
    bytes: Vec<u8>,
    arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// The state of one component instance.
pub(crate) struct State {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
}

impl State {
    pub(crate) fn new(wasi: WasiCtx) -> Self {
        Self {
            table: ResourceTable::new(),
            wasi,
            http: WasiHttpCtx::new(),
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: Default::default(),
        }
    }
}

impl Guest {
    pub(crate) fn of(context: &impl RuntimeContext) -> Result<Self> {
        let split = |pair: &String| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        Ok(Self {
            bytes: context.entrypoint().source.as_bytes()?.into_owned(),
            arguments: context.args().to_vec(),
            environment: context.envs().iter().map(split).collect(),
        })
    }

    /// Runs to the end; the answer is the exit code.
    pub(crate) async fn run(self) -> Result<i32> {
        let engine = engine()?;
        match WasmBinaryType::from_bytes(&self.bytes) {
            Some(WasmBinaryType::Module) => {
                let module = Module::from_binary(&engine, &self.bytes)?;
                self.run_module(&engine, &module).await
            }
            Some(WasmBinaryType::Component) => {
                let component = Component::from_binary(&engine, &self.bytes)?;
                self.run_component(&engine, &component).await
            }
            None => match Engine::detect_precompiled(&self.bytes) {
                Some(Precompiled::Module) => {
                    // SAFETY: not upheld: who pushes the image decides what these bytes are. It
                    // is how this peer works, and why it must run nothing but the benchmark.
                    let module = unsafe { Module::deserialize(&engine, &self.bytes) }?;
                    self.run_module(&engine, &module).await
                }
                Some(Precompiled::Component) => {
                    // SAFETY: as above.
                    let component = unsafe { Component::deserialize(&engine, &self.bytes) }?;
                    self.run_component(&engine, &component).await
                }
                None => bail!("neither Wasm nor compiled Wasm"),
            },
        }
    }

    async fn run_component(self, engine: &Engine, component: &Component) -> Result<i32> {
        let mut linker = component::Linker::<State>::new(engine);
        p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        let serves = component
            .component_type()
            .exports(engine)
            .any(|(name, _)| name.starts_with("wasi:http/incoming-handler"));
        if serves {
            return serve(self, linker.instantiate_pre(component)?).await;
        }
        let mut store = Store::new(engine, State::new(self.wasi()?.build()));
        let command = Command::instantiate_async(&mut store, component, &linker).await?;
        match command.wasi_cli_run().call_run(&mut store).await {
            Ok(Ok(())) => Ok(0),
            Ok(Err(())) => Ok(1),
            Err(error) => exit_code(error),
        }
    }

    async fn run_module(self, engine: &Engine, module: &Module) -> Result<i32> {
        let mut linker = wasmtime::Linker::<WasiP1Ctx>::new(engine);
        p1::add_to_linker_async(&mut linker, |state| state)?;
        let mut store = Store::new(engine, self.wasi()?.build_p1());
        let instance = linker.instantiate_async(&mut store, module).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        match start.call_async(&mut store, ()).await {
            Ok(()) => Ok(0),
            Err(error) => exit_code(error),
        }
    }

    fn wasi(&self) -> Result<WasiCtxBuilder> {
        let mut builder = WasiCtxBuilder::new();
        builder
            .args(&self.arguments)
            .envs(&self.environment)
            .inherit_stdio()
            .inherit_network()
            .preopened_dir("/", "/", FsPerms::ReadWrite)?;
        Ok(builder)
    }
}

fn exit_code(error: wasmtime::Error) -> Result<i32> {
    match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ok(exit.0),
        None => Err(anyhow!("{error:?}")),
    }
}
