//! `lighter metrics`: what only a Wasm runtime can know of its containers, for Prometheus.
//!
//! ```text
//! /run/lighter: state and counters -> containers -> exposition -> stdout, or listen
//! ```

pub mod containers;
mod exposition;
mod listen;

use std::io::{ErrorKind, Write};
use std::path::Path;

use lighter_core::STATE_ROOT;

pub use self::listen::Address;

/// Prints the metrics, or serves them until this process is ended.
pub fn run(address: Option<Address>) -> Result<(), String> {
    match address {
        None => match std::io::stdout().write_all(scrape()?.as_bytes()) {
            // Whoever reads it has seen enough, as `head` does.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| format!("cannot print the metrics: {error}")),
        },
        Some(address) => listen::serve(&address),
    }
}

/// All metrics as they are now.
fn scrape() -> Result<String, String> {
    let root = Path::new(STATE_ROOT);
    let containers = containers::all(root)
        .map_err(|error| format!("cannot read {}: {error}", root.display()))?;
    exposition::text(containers).map_err(|error| format!("cannot write the metrics: {error}"))
}
