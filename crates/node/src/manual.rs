//! `lighter completions` and `lighter man`: what is made of the arguments themselves.

use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Arguments;

/// Prints completions.
pub fn completions(shell: Shell) -> Result<(), String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lighter", &mut text);
    match std::io::stdout().write_all(&text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| format!("cannot print the completions: {error}")),
    }
}

/// Writes a page for the program and one for each of its tasks: `lighter-cache-ls.1`.
pub fn pages(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), folder))
        .map_err(|error| format!("{}: {error}", folder.display()))
}
