//! `containerd-shim-wasmtime-v1`: arguments and wiring.
//!
//! containerd runs it as `start` (once for each container), `delete` (after a shim has died,
//! and after each normal delete) and with `-info`. `start` executes the shim itself (`serve`), which
//! serves all containers of a pod from one thread.

mod allocator;
mod arguments;
mod bootstrap;
mod daemon;
mod delete;
mod info;
mod logger;
mod options;
mod runtime;
mod socket;
mod start;
mod trace;
mod workload;

use std::process::ExitCode;

use arguments::{Action, Arguments};

#[global_allocator]
static ALLOCATOR: allocator::WipingAllocator = allocator::WipingAllocator;

fn main() -> ExitCode {
    lighter_core::keep_program_mark();
    lighter_container::pin_name_service();
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error),
    };
    let result = match arguments.action {
        Action::Version => info::version(),
        Action::Info => info::info(),
        Action::Start => start::start(&arguments),
        Action::Delete => delete::delete(&arguments),
        Action::Serve => daemon::serve(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

/// containerd shows what stands on stderr when the exit code is not 0.
fn fail(error: &dyn std::error::Error) -> ExitCode {
    let failure = lighter_core::Failure::from_error(lighter_core::ErrorClass::Internal, error);
    eprintln!("containerd-shim-wasmtime-v1: {failure}");
    ExitCode::FAILURE
}
