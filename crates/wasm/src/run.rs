//! Runs a program to its end, in the process that is the container's.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use lighter_core::{Count, Counters, ExitReason};
use lighter_trace::{GuestTrace, OpenSpan};
use nix::time::ClockId;
use wasmtime::{AsContext, Engine, Store};
use wasmtime_wasi::I32Exit;

use crate::budget::{Heap, MemoryLimit};
use crate::ending::{of_error, say};
use crate::errno;
use crate::program::{Code, Program};
use crate::serve;
use crate::slots::Slots;
use crate::spans::{AtWork, Made, Spans};
use crate::state::{Shared, State};

/// Threads that wait for what cannot be waited for otherwise: name look-ups, and the files of
/// services.
pub(crate) const WAITING_THREADS: usize = 1;

/// What a guest is started with.
#[derive(Clone, Default)]
pub struct Guest {
    /// Its arguments; the first is the name of the program.
    pub args: Vec<String>,
    /// Its environment, in order.
    pub env: Vec<(String, String)>,
    /// Its current folder, an absolute path in the container. Empty means `/`.
    pub cwd: String,
    /// The memory limit of its container, if it has one.
    pub memory_limit: Option<MemoryLimit>,
    /// What this process allocates itself, which counts below that limit too.
    pub heap: Heap,
    /// Where it counts what it does.
    pub counters: &'static Counters,
    /// What it makes spans with, if they are wanted.
    pub trace: Option<GuestTrace>,
}

impl fmt::Debug for Guest {
    /// Without the environment, which may hold secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Guest")
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// Runs the program to its end; a service until SIGTERM or SIGINT.
    ///
    /// The guest gets descriptors 0, 1 and 2 of this process, every folder below `/` and the
    /// network as this process sees them: call it when the container's root is in place. A
    /// trap or a failure of the host is written to descriptor 2 and to the termination log.
    ///
    /// The caller ends the process with [`ExitReason::status`] afterwards; a thread that looks a
    /// name up for the guest may still be there.
    pub fn run(mut self, mut guest: Guest) -> ExitReason {
        let slots = match self.slots() {
            Ok(slots) => slots,
            Err(error) => {
                say(&format!(
                    "lighter: cannot start {}: this process's pagemap cannot be opened: {error}\n",
                    self.name
                ));
                return ExitReason::HostFailure;
            }
        };
        let name = self.name.clone();
        let counters = guest.counters;
        self.preparation.count(counters);
        counters.set(Count::Metered, self.options.fuel.is_some().into());
        let recorder = self.recorder.clone();
        let spans = guest.trace.take().map(Spans::new);
        let traced = spans.clone();
        let outcome = match self.code {
            Code::Service(pre) => {
                counters.set(Count::Service, 1);
                let shared = Shared::new(guest, self.options, &self.engine, self.recorder, spans);
                recorder.start(&self.engine);
                // tokio panics where it cannot start a thread.
                catch_unwind(AssertUnwindSafe(|| {
                    serve::serve(&name, &self.engine, pre, shared, slots)
                }))
                .unwrap_or_else(|panic| Err(NotEnded::Panic(panic)))
            }
            _ => on_a_thread(move || self.call(guest, spans)),
        };
        count_processor_time(counters);
        if let Some(spans) = traced {
            spans.flush();
        }
        recorder.finish();
        let error = match outcome {
            Ok(reason) => return reason,
            Err(NotEnded::Error(error)) => error,
            Err(NotEnded::Panic(panic)) => return panicked(&panic),
        };
        let (reason, text) = of_error(&name, &error, counters);
        if !text.is_empty() {
            say(&text);
        }
        reason
    }

    /// The pool's slots, of which Wasmtime sees those of this process from now on.
    fn slots(&mut self) -> io::Result<Option<Slots>> {
        let Some((page_map, kept)) = self.page_map.take() else {
            return Ok(None);
        };
        let (page_map, maps) = page_map.follow()?;
        let artifact = self.artifact.metadata()?.ino();
        Ok(Some(Slots::new(maps, page_map, artifact, kept)))
    }

    fn call(self, guest: Guest, spans: Option<Spans>) -> wasmtime::Result<ExitReason> {
        // A runtime of one thread, in which files are read and written too.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WAITING_THREADS)
            .build()?;
        let _errors = errno::listen();
        self.recorder.start(&self.engine);
        let shared = Shared::new(guest, self.options, &self.engine, self.recorder, spans);
        let run = run_command(&self.name, self.code, &self.engine, &shared);
        let outcome = runtime.block_on(run);
        // A look-up that hangs must not keep the container.
        runtime.shutdown_background();
        outcome
    }
}

/// Why a program has no exit status of its own.
pub(crate) enum NotEnded {
    /// A trap, or something that the host could not do.
    Error(wasmtime::Error),
    /// A fault of this program.
    Panic(Box<dyn Any + Send>),
}

impl From<wasmtime::Error> for NotEnded {
    fn from(error: wasmtime::Error) -> Self {
        Self::Error(error)
    }
}

impl From<std::io::Error> for NotEnded {
    fn from(error: std::io::Error) -> Self {
        Self::Error(error.into())
    }
}

/// A fork of the shim inherits the shim's tokio context in the calling thread's local storage,
/// and a runtime inside of a runtime panics: so that the guest gets a thread of its own.
fn on_a_thread(
    work: impl FnOnce() -> wasmtime::Result<ExitReason> + Send + 'static,
) -> Result<ExitReason, NotEnded> {
    let thread = std::thread::Builder::new()
        .name("guest".to_owned())
        .spawn(work)?;
    Ok(thread.join().map_err(NotEnded::Panic)??)
}

/// A store for one instance.
pub(crate) fn store(
    engine: &Engine,
    shared: &Shared,
    service: bool,
) -> wasmtime::Result<Store<State>> {
    let mut store = Store::new(engine, shared.state(service)?);
    store.limiter(|state| &mut state.budget);
    store.set_hostcall_fuel(shared.host_call_bytes());
    if let Some(fuel) = shared.options.fuel {
        store.set_fuel(fuel)?;
    }
    if service {
        // Code gives way to the other requests whenever the epoch moves on, but not in its first
        // milliseconds: most requests end in them, and begun ones take up memory and cache.
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(serve::FIRST_TICKS);
    } else {
        store.set_epoch_deadline(u64::MAX / 2);
    }
    shared.recorder.sample(&mut store, service);
    Ok(store)
}

async fn run_command(
    name: &str,
    code: Code,
    engine: &Engine,
    shared: &Shared,
) -> wasmtime::Result<ExitReason> {
    let mut store = store(engine, shared, false)?;
    shared.guest.counters.add(Count::Instances, 1);
    let run = CommandRun::begin(name, shared, &store);
    let outcome = run_in(&mut store, code, &run).await;
    run.end(&outcome);
    count_fuel(&store, shared);
    if let Err(error) = &outcome {
        shared.recorder.failed(name, &mut store, error);
    }
    outcome
}

/// Counts the fuel that a store has used since it was given some.
pub(crate) fn count_fuel(store: impl AsContext, shared: &Shared) {
    if let Some(given) = shared.options.fuel {
        let left = store.as_context().get_fuel().unwrap_or(given);
        let used = given.saturating_sub(left);
        shared.guest.counters.add(Count::Fuel, used);
    }
}

/// The processor time of this process, for when it has gone.
fn count_processor_time(counters: &Counters) {
    let clock = ClockId::CLOCK_PROCESS_CPUTIME_ID;
    if let Ok(time) = nix::time::clock_gettime(clock) {
        let nanoseconds = std::time::Duration::from(time).as_nanos();
        counters.set(Count::CpuAtEnd, nanoseconds as u64);
    }
}

/// The span of a command's run.
struct CommandRun(Option<(Spans, OpenSpan, AtWork)>);

impl CommandRun {
    fn begin(name: &str, shared: &Shared, store: &Store<State>) -> Self {
        Self(shared.spans.as_ref().map(|spans| {
            let span = spans.run(name);
            let at_work = store.data().current().begin(span.context());
            (spans.clone(), span, at_work)
        }))
    }

    /// Waits for an instance, which is a part of the run.
    async fn instance<T>(
        &self,
        making: impl Future<Output = wasmtime::Result<T>>,
    ) -> wasmtime::Result<T> {
        let begin = Instant::now();
        let made = making.await;
        if let Some((spans, span, _)) = &self.0 {
            spans.add("instantiate", span.context(), Made::since(begin));
        }
        made
    }

    fn end(self, outcome: &wasmtime::Result<ExitReason>) {
        let Some((_, mut span, _)) = self.0 else {
            return;
        };
        let status = match outcome {
            Ok(reason) => Some(reason.status()),
            Err(error) => error.downcast_ref::<I32Exit>().map(|exit| exit.0 as u8),
        };
        match (status, outcome) {
            (Some(status), _) => span.set("process.exit.code", i64::from(status)),
            (None, Err(error)) => span.fail(&error.root_cause().to_string()),
            (None, Ok(_)) => {}
        }
    }
}

async fn run_in(
    mut store: &mut Store<State>,
    code: Code,
    run: &CommandRun,
) -> wasmtime::Result<ExitReason> {
    match code {
        Code::Module {
            instance,
            entry,
            initialize,
        } => {
            let instance = run.instance(instance.instantiate_async(&mut store)).await?;
            let first = initialize.then_some("_initialize");
            for function in first.into_iter().chain([entry.as_str()]) {
                instance
                    .get_typed_func::<(), ()>(&mut store, function)?
                    .call_async(&mut store, ())
                    .await?;
            }
            Ok(ExitReason::Exited(0))
        }
        Code::Component {
            instance,
            entry,
            fallible,
        } => {
            let instance = run.instance(instance.instantiate_async(&mut store)).await?;
            if !fallible {
                instance
                    .get_typed_func::<(), ()>(&mut store, entry)?
                    .call_async(&mut store, ())
                    .await?;
                return Ok(ExitReason::Exited(0));
            }
            let (result,) = instance
                .get_typed_func::<(), (Result<(), ()>,)>(&mut store, entry)?
                .call_async(&mut store, ())
                .await?;
            Ok(ExitReason::Exited(u8::from(result.is_err())))
        }
        Code::Command3(pre) => {
            let command = run.instance(pre.instantiate_async(&mut store)).await?;
            let result = store
                .run_concurrent(async |accessor| command.wasi_cli_run().call_run(accessor).await)
                .await??;
            Ok(ExitReason::Exited(u8::from(result.is_err())))
        }
        Code::Service(_) => unreachable!("services are served"),
    }
}

fn panicked(panic: &Box<dyn Any + Send>) -> ExitReason {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    say(&format!("lighter: the host failed: {text}\n"));
    ExitReason::HostFailure
}
