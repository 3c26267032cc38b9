//! `lighter`: what an administrator of a node does by hand.
//!
//! ```text
//! main -> arguments -> precompile   compile images' programs before they are started
//!                   -> cache        what is compiled: list, check, remove
//!                   -> pack         a Wasm file becomes an image
//!                   -> metrics      what containers use and do
//!                   -> traces       spans of containers go to a collector
//!                   -> debug        what was recorded of guests: list, show, remove
//!                   -> doctor       what this node lacks
//!                   -> install      the handler in this node's containerd: install, uninstall, status
//!                   -> programs     the programs alone, as `make install` puts them
//!                   -> agent        the same as a container of a DaemonSet
//!                   -> manual       completions and pages of the manual
//! ```

mod agent;
mod arguments;
mod cache;
mod debug;
mod doctor;
mod install;
mod manual;
mod metrics;
mod node;
mod pack;
mod precompile;
mod text;
mod traces;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Task};

fn main() -> ExitCode {
    lighter_core::keep_program_mark();
    let Arguments {
        cache,
        compiler,
        options,
        task,
    } = Arguments::parse();
    let done = node::Node::new(cache, compiler, options.as_deref()).and_then(|node| match task {
        Task::Precompile { files, variant } => precompile::run(&node, &files, variant),
        Task::Pack(arguments) => pack::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Cache(task) => cache::run(&node, task).map(|()| ExitCode::SUCCESS),
        Task::Metrics(arguments) => metrics::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Traces => traces::run(node.traces).map(|()| ExitCode::SUCCESS),
        Task::Debug(arguments) => debug::run(arguments).map(|()| ExitCode::SUCCESS),
        Task::Doctor { config } => Ok(doctor::run(&node, config.as_deref())),
        Task::Install(arguments) => install::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Uninstall(arguments) => install::uninstall(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Programs(task) => install::programs(&task).map(|()| ExitCode::SUCCESS),
        Task::Status(arguments) => install::status(&arguments),
        Task::Agent(arguments) => agent::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Completions { shell } => manual::completions(shell).map(|()| ExitCode::SUCCESS),
        Task::Man { folder } => manual::pages(&folder).map(|()| ExitCode::SUCCESS),
    });
    done.unwrap_or_else(|error| {
        eprintln!("lighter: {error}");
        ExitCode::FAILURE
    })
}
