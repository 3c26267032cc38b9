//! Runs a program to its end, in the process that is the container's.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lighter_core::ExitReason;
use wasmtime::Store;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::ending::{of_error, write_to_stderr};
use crate::link::State;
use crate::preopen::{is_root, preopens, top_level_folders};
use crate::program::{Code, Program};
use crate::stdio::Output;

/// What a guest is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Its arguments; the first is the name of the program.
    pub args: Vec<String>,
    /// Its environment, in order.
    pub env: Vec<(String, String)>,
    /// Its current folder, an absolute path in the container. Empty means `/`.
    pub cwd: String,
}

impl Program {
    /// Runs the program to its end.
    ///
    /// The guest gets descriptors 0, 1 and 2 of this process and every folder below `/` as this
    /// process sees it: call it when the container's root is in place. A trap or a failure of
    /// the host is written to descriptor 2. There is no network yet.
    ///
    /// The caller ends the process with [`ExitReason::status`] afterwards; a thread that reads
    /// descriptor 0 for the guest may still be there.
    pub fn run(self, guest: Guest) -> ExitReason {
        // On a thread of its own: a fork of the shim inherits the shim's tokio context in the
        // calling thread's local storage, and a runtime inside of a runtime panics.
        let thread = std::thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || self.run_here(&guest));
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| panicked(&panic)),
            Err(error) => {
                write_to_stderr(&format!("lighter: cannot start the guest: {error}\n"));
                ExitReason::HostFailure
            }
        }
    }

    fn run_here(self, guest: &Guest) -> ExitReason {
        let name = self.name.clone();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.call(guest)));
        let error = match outcome {
            Err(panic) => return panicked(&panic),
            Ok(Ok(reason)) => return reason,
            Ok(Err(error)) => error,
        };
        let (reason, text) = of_error(&name, &error);
        write_to_stderr(&text);
        reason
    }

    fn call(self, guest: &Guest) -> wasmtime::Result<ExitReason> {
        // A runtime of one thread. Files are read and written in it too (see `state`).
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let state = state(guest)?;
        runtime.block_on(async {
            match self.code {
                Code::Module {
                    instance,
                    entry,
                    initialize,
                } => {
                    let mut store = Store::new(instance.module().engine(), state);
                    let instance = instance.instantiate_async(&mut store).await?;
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
                    let mut store = Store::new(instance.engine(), state);
                    let instance = instance.instantiate_async(&mut store).await?;
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
            }
        })
    }
}

fn panicked(panic: &Box<dyn Any + Send>) -> ExitReason {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    write_to_stderr(&format!("lighter: the host failed: {text}\n"));
    ExitReason::HostFailure
}

/// The guest's view of the container.
fn state(guest: &Guest) -> wasmtime::Result<State> {
    let mut builder = WasiCtxBuilder::new();
    builder
        .args(&guest.args)
        .envs(&guest.env)
        .inherit_stdin()
        // A guest waits for its files anyway; otherwise each call would go to a worker thread.
        .allow_blocking_current_thread(true);
    // A closed descriptor swallows everything, as wasmtime-wasi's default does.
    if let Ok(stdout) = Output::to(std::io::stdout()) {
        builder.stdout(stdout);
    }
    if let Ok(stderr) = Output::to(std::io::stderr()) {
        builder.stderr(stderr);
    }
    let at_root = is_root(&guest.cwd);
    builder.initial_cwd(if at_root { "/" } else { &guest.cwd });
    let top_level = if at_root {
        Vec::new()
    } else {
        top_level_folders()
    };
    for folder in preopens(&guest.cwd, &top_level) {
        // What may be written to is the kernel's decision, by mount flags and permissions.
        let added = builder.preopened_dir(&folder.path, &folder.name, FsPerms::ReadWrite);
        if let Err(error) = added
            && !folder.optional
        {
            return Err(error.context(format!("cannot open the folder {}", folder.path)));
        }
    }
    Ok(builder.build_p1())
}
