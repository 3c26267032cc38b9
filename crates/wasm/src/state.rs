//! What a store holds: a guest's view of its container.

use std::sync::{Arc, OnceLock};

use wasmtime::Engine;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::budget::{MemoryBudget, StoreBudget};
use crate::clock::CoarseClock;
use crate::debugging::Recorder;
use crate::key_value::KeyValue;
use crate::network;
use crate::options::{Clocks, Options};
use crate::outgoing::Outgoing;
use crate::preopen::{is_root, other_folders, plain, preopens};
use crate::run::Guest;
use crate::spans::{Current, Spans};
use crate::stdio::{Input, Output, ServiceOutput};

/// Bytes that a host call may copy out of a guest at a time, without a memory limit:
/// Wasmtime's default.
const HOST_CALL_BYTES: u64 = 128 << 20;
/// Bytes of random data in one call, without a memory limit: wasmtime-wasi's default.
const RANDOM_BYTES: u64 = 64 << 20;
/// Bytes that the host keeps for a resource (a stream, a header), about.
const RESOURCE_BYTES: u64 = 512;
const MOST_RESOURCES: u64 = 1 << 20;

/// The data of a store. The context of preview 1 contains one of 0.2 and 0.3, so it serves all.
pub(crate) struct State {
    wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(crate) configuration: Arc<WasiConfigVariables>,
    key_value: KeyValue,
    pub(crate) budget: StoreBudget,
    #[cfg(feature = "wasi-nn")]
    pub(crate) neural_network: crate::neural_network::NeuralNetwork,
}

impl State {
    /// What the instance is at work on.
    pub(crate) fn current(&self) -> &Current {
        self.outgoing.current()
    }

    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }

    pub(crate) fn key_value_and_table(&mut self) -> (&KeyValue, &mut ResourceTable) {
        (&self.key_value, self.wasi.ctx().table)
    }

    #[cfg(feature = "wasi-nn")]
    pub(crate) fn neural_network_and_table(
        &mut self,
    ) -> (
        &mut crate::neural_network::NeuralNetwork,
        &mut ResourceTable,
    ) {
        (&mut self.neural_network, self.wasi.ctx().table)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: self.wasi.ctx().table,
            hooks: &mut self.outgoing,
        }
    }
}

/// Shares of the memory limit, as it is at the start, for what the host keeps for a guest: so
/// that several calls fit beside each other in a small container.
#[derive(Clone, Copy)]
struct Shares {
    host_call_bytes: usize,
    random_bytes: u64,
    resources: usize,
}

impl Shares {
    fn of(usable: Option<u64>) -> Self {
        let share =
            |part: u64, default: u64| usable.map_or(default, |usable| default.min(usable / part));
        Self {
            host_call_bytes: share(8, HOST_CALL_BYTES) as usize,
            random_bytes: share(16, RANDOM_BYTES),
            resources: share(4 * RESOURCE_BYTES, MOST_RESOURCES) as usize,
        }
    }
}

/// What all stores of a process have in common.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) guest: Arc<Guest>,
    pub(crate) options: Arc<Options>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) recorder: Recorder,
    /// What spans are made with, if they are.
    pub(crate) spans: Option<Spans>,
    outgoing: Outgoing,
    key_value: KeyValue,
    configuration: Arc<WasiConfigVariables>,
    shares: Shares,
    /// Stdout and stderr of a service, which all of its instances share.
    outputs: Arc<OnceLock<[Option<ServiceOutput>; 2]>>,
    /// The guest's folders, which are opened once for all instances: nothing of them has a
    /// position or another state that one could leave to the next.
    folders: Arc<OnceLock<WasiFilesystemCtx>>,
}

impl Shared {
    pub(crate) fn new(
        mut guest: Guest,
        options: Options,
        engine: &Engine,
        recorder: Recorder,
        spans: Option<Spans>,
    ) -> Self {
        let trusted = guest
            .env
            .iter()
            .rev()
            .find(|(name, _)| name == "SSL_CERT_FILE")
            .map(|(_, path)| path.into());
        guest.env = options.visible(std::mem::take(&mut guest.env));
        let budget = MemoryBudget::new(
            guest.memory_limit.clone(),
            guest.heap,
            engine.pooling_allocator_metrics(),
            guest.counters,
        );
        Self {
            shares: Shares::of(budget.usable()),
            key_value: KeyValue::new(Arc::clone(&budget)),
            budget,
            recorder,
            outgoing: Outgoing::new(options.network.clone(), trusted, spans.clone()),
            spans,
            configuration: Arc::new(guest.env.iter().cloned().collect()),
            outputs: Arc::default(),
            folders: Arc::default(),
            guest: Arc::new(guest),
            options: Arc::new(options),
        }
    }

    /// Bytes that a host call may copy out of a guest at a time.
    pub(crate) fn host_call_bytes(&self) -> usize {
        self.shares.host_call_bytes
    }

    /// A fresh state. `service` says that others run on the same thread.
    ///
    /// # Errors
    /// When a folder of the container cannot be opened.
    pub(crate) fn state(&self, service: bool) -> wasmtime::Result<State> {
        let guest = &self.guest;
        let options = &self.options;
        let mut builder = WasiCtxBuilder::new();
        builder
            .args(&guest.args)
            .envs(&guest.env)
            .initial_cwd(if is_root(&guest.cwd) { "/" } else { &guest.cwd })
            .max_random_size(self.shares.random_bytes);
        if service {
            self.service_streams(&mut builder);
        } else {
            streams(&mut builder);
        }
        let policy = Arc::clone(options);
        builder
            .allow_tcp(options.network.tcp)
            .allow_udp(options.network.udp)
            .allow_ip_name_lookup(options.network.names)
            .socket_addr_check(move |address, what| {
                let allowed = network::may_use(&policy.network, address, what);
                Box::pin(std::future::ready(allowed))
            });
        if options.clocks == Clocks::Coarse {
            builder
                .wall_clock(CoarseClock::new())
                .monotonic_clock(CoarseClock::new());
        }
        let mut wasi = builder.build_p1();
        let WasiCtxView { ctx, table } = wasi.ctx();
        *ctx.filesystem() = self.folders(service)?.clone();
        table.set_max_capacity(self.shares.resources);
        Ok(State {
            wasi,
            http: WasiHttpCtx::new(),
            outgoing: self.outgoing.for_instance(),
            configuration: Arc::clone(&self.configuration),
            key_value: self.key_value.clone(),
            budget: StoreBudget::of(&self.budget),
            #[cfg(feature = "wasi-nn")]
            neural_network: Default::default(),
        })
    }

    fn folders(&self, service: bool) -> wasmtime::Result<&WasiFilesystemCtx> {
        if let Some(folders) = self.folders.get() {
            return Ok(folders);
        }
        let mut builder = WasiCtxBuilder::new();
        // A command waits for its files anyway; otherwise each call would go to a worker
        // thread. A service must not wait: a file may be a pipe.
        builder.allow_blocking_current_thread(!service);
        open_folders(&mut builder, &self.guest.cwd)?;
        let folders = builder.build().filesystem().clone();
        Ok(self.folders.get_or_init(|| folders))
    }

    /// Nobody has input for a service, and its instances share one output.
    fn service_streams(&self, builder: &mut WasiCtxBuilder) {
        let [stdout, stderr] = self.outputs.get_or_init(|| {
            [
                ServiceOutput::to(std::io::stdout()).ok(),
                ServiceOutput::to(std::io::stderr()).ok(),
            ]
        });
        if let Some(stdout) = stdout {
            builder.stdout(stdout.clone());
        }
        if let Some(stderr) = stderr {
            builder.stderr(stderr.clone());
        }
    }
}

/// A closed descriptor gives nothing and swallows everything, as wasmtime-wasi's default does.
fn streams(builder: &mut WasiCtxBuilder) {
    if let Ok(stdin) = Input::from(std::io::stdin()) {
        builder.stdin(stdin);
    }
    if let Ok(stdout) = Output::to(std::io::stdout()) {
        builder.stdout(stdout);
    }
    if let Ok(stderr) = Output::to(std::io::stderr()) {
        builder.stderr(stderr);
    }
}

fn open_folders(builder: &mut WasiCtxBuilder, cwd: &str) -> wasmtime::Result<()> {
    let cwd = plain(cwd);
    let others = if is_root(&cwd) {
        Vec::new()
    } else {
        other_folders(&cwd)
    };
    for folder in preopens(&cwd, &others) {
        // What may be written to is the kernel's decision, by mount flags and permissions.
        let added = builder.preopened_dir(&folder.path, &folder.name, FsPerms::ReadWrite);
        if let Err(error) = added
            && !folder.optional
        {
            return Err(error.context(format!("cannot open the folder {}", folder.path)));
        }
    }
    Ok(())
}
