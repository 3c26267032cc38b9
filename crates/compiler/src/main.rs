//! The compile worker of Lighter: the one program that contains a compiler.
//!
//! ```text
//! stdin   the bytes of a Wasm module or component
//! stdout  the artifact (an open file; nothing is written when the compilation fails)
//! stderr  one line that says why it failed; then the exit status is 1
//! ```
//!
//! It is given open files and nothing else: no path, no environment, no descriptor beyond those
//! three. Before it reads a byte it gives up what it does not need (see `confine`).

mod confine;

use std::io::{Read, Write};
use std::process::ExitCode;

use lighter_wasm::{Compilation, World, classify, configuration};
use wasmtime::Engine;

fn main() -> ExitCode {
    let compilation = match std::env::args().nth(1).as_deref() {
        Some("--version") => {
            println!("lighter-compiler ({})", lighter_wasm::engine::VERSION);
            return ExitCode::SUCCESS;
        }
        other => other.and_then(Compilation::from_text),
    };
    let Some(compilation) = compilation else {
        eprintln!(
            "usage: lighter-compiler command|http|metered|debug[-preview3] <WASM >ARTIFACT, or lighter-compiler --version"
        );
        return ExitCode::from(2);
    };
    match confine::confine().and_then(|()| compile(compilation)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line: Vec<&str> = error.split_whitespace().collect();
            eprintln!("{}", line.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn compile(compilation: Compilation) -> Result<(), String> {
    let mut wasm = Vec::new();
    std::io::stdin()
        .read_to_end(&mut wasm)
        .map_err(|error| format!("cannot read the Wasm from stdin: {error}"))?;
    let world = classify(&wasm).map_err(|error| format!("it {error}"))?;
    let artifact = Engine::new(&configuration(compilation))
        .and_then(|engine| match world {
            World::Module => engine.precompile_module(&wasm),
            _ => engine.precompile_component(&wasm),
        })
        .map_err(|error| format!("{error:#}"))?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&artifact)
        .and_then(|()| stdout.flush())
        .map_err(|error| format!("cannot write the artifact: {error}"))
}
