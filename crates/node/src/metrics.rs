//! `lighter metrics`: what only a Wasm runtime can know of its containers, for Prometheus.
//!
//! ```text
//! /run/lighter: state and counters -> containers -> exposition -> stdout, or
//! listen: who connects gets one of a few places, and who has a token gets the metrics
//! ```

pub mod containers;
mod exposition;
mod listen;
mod places;
mod token;

use std::io::{ErrorKind, Write};
use std::path::Path;

use lighter_core::STATE_ROOT;

use crate::arguments::MetricsArguments;

pub use self::listen::Address;

/// Prints the metrics, or serves them until this process is ended.
pub fn run(arguments: &MetricsArguments) -> Result<(), String> {
    match &arguments.listen {
        None => match std::io::stdout().write_all(scrape()?.as_bytes()) {
            // Whoever reads it has seen enough, as `head` does.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| format!("cannot print the metrics: {error}")),
        },
        Some(address) => listen::serve(address, arguments.token_file.as_deref()),
    }
}

/// All metrics as they are now.
fn scrape() -> Result<String, String> {
    let root = Path::new(STATE_ROOT);
    let containers = containers::all(root)
        .map_err(|error| format!("cannot read {}: {error}", root.display()))?;
    exposition::text(containers).map_err(|error| format!("cannot write the metrics: {error}"))
}
