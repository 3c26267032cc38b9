//! Runs real guests: compiled by the real compile worker, each in a process of its own.
//!
//! This program has three roles. Started as a test it runs the tests; started with
//! [`process::ROLE`] as its first argument it is the process of one guest, as a
//! container's init is; with [`confined::ROLE`] it is confined as the compile worker is. Hence
//! the main function of its own.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs; the ban is for the shim"
)]

mod cache;
mod cache_bounds;
mod cache_failures;
mod components;
mod composition;
#[path = "../../src/confine/mod.rs"]
mod confine;
mod confined;
mod endings;
mod errors;
#[path = "../../src/compose/examples.rs"]
mod examples;
mod folders;
mod guests;
mod modules;
#[cfg(feature = "wasi-nn")]
mod neural_network;
mod process;
mod refused;

use std::panic::catch_unwind;
use std::process::ExitCode;

/// A test and its name.
pub type Test = (&'static str, fn());

/// Lists functions as tests, each under its name.
macro_rules! tests {
    ($($function:ident),* $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[crate::Test] = &[$((concat!(module_path!(), "::", stringify!($function)), $function)),*];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| first == process::ROLE)
    {
        process::be_guest(&arguments[1..]);
    }
    if arguments
        .first()
        .is_some_and(|first| first == confined::ROLE)
    {
        confined::be_confined(&arguments[1]);
    }
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let all = [
        modules::TESTS,
        components::TESTS,
        composition::TESTS,
        folders::TESTS,
        endings::TESTS,
        errors::TESTS,
        refused::TESTS,
        cache::TESTS,
        cache_bounds::TESTS,
        cache_failures::TESTS,
        confined::TESTS,
        #[cfg(feature = "wasi-nn")]
        neural_network::TESTS,
    ];
    let chosen: Vec<&Test> = all
        .into_iter()
        .flatten()
        .filter(|(name, _)| {
            filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
        })
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in &chosen {
        let passed = catch_unwind(*test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}
