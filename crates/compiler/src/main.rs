//! The compile worker of Lighter: the one program that contains a compiler.
//!
//! ```text
//! stdin   the bytes of a Wasm module or component
//! stdout  the artifact (an open file; nothing is written when the compilation fails)
//! stderr  one line: a report (see lighter_wasm::report) with the exit status 0, or why it
//!         failed: with the exit status 1 if the input is to blame, with 73 if there is no room
//!         for the artifact, else with 71
//! ```
//!
//! Asked to `compose`, it reads several components (see lighter_wasm::composition) and writes the
//! one that they become, to be compiled by another worker.
//!
//! It is given open files and limits, and nothing else: no path but those of its cgroup, no
//! descriptor beyond those three. Before it reads a byte it gives up what it does not need (see
//! `confine`).

mod compose;
mod confine;

use std::hash::{Hash, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use lighter_wasm::composition::{self, Composed};
use lighter_wasm::report::{HOST_FAULT, NO_ROOM, Report};
use lighter_wasm::{Compilation, World, classify, configuration};
use nix::sys::prctl;
use sha2::{Digest, Sha256};
use wasmtime::Engine;

use crate::confine::Limits;

const USAGE: &str = "usage: lighter-compiler command|http|metered|debug[-preview3] \
    MEMORY-BYTES CPU-SECONDS OUTPUT-BYTES [CGROUP-FOLDER]... <WASM >ARTIFACT, \
    or lighter-compiler compose (the same) <COMPONENTS >WASM, \
    or lighter-compiler --version";

/// What the worker does.
enum Task {
    Compile(Compilation),
    Compose,
}

impl Task {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "compose" => Some(Self::Compose),
            _ => Compilation::from_text(text).map(Self::Compile),
        }
    }

    /// Says what it has done.
    fn run(&self) -> Result<String, Fault> {
        match self {
            Self::Compile(compilation) => compile(*compilation).map(|report| report.to_string()),
            Self::Compose => compose_input().map(|composed| composed.to_string()),
        }
    }
}

/// Why the worker has failed, in one line.
enum Fault {
    /// Any worker would, with this input.
    Input(String),
    /// It could not do its work here.
    Host(String),
    /// There is no room for what it has made.
    NoRoom(String),
}

fn main() -> ExitCode {
    lighter_core::keep_program_mark();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--version") {
        println!("lighter-compiler ({})", lighter_wasm::engine::VERSION);
        return ExitCode::SUCCESS;
    }
    let Some((task, limits)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // It is executed by a descriptor's path, of which the kernel makes a number.
    let _ = prctl::set_name(c"lighter-compiler");
    let confined = confine::confine(&limits).map_err(Fault::Host);
    let (line, status) = match confined.and_then(|()| task.run()) {
        Ok(report) => (report, ExitCode::SUCCESS),
        Err(Fault::Input(error)) => (error, ExitCode::FAILURE),
        Err(Fault::Host(error)) => (error, ExitCode::from(HOST_FAULT)),
        Err(Fault::NoRoom(error)) => (error, ExitCode::from(NO_ROOM)),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    eprintln!("{}", words.join(" "));
    status
}

fn parse(arguments: &[String]) -> Option<(Task, Limits)> {
    let [task, memory, seconds, output, cgroups @ ..] = arguments else {
        return None;
    };
    let limits = Limits {
        memory: memory.parse().ok()?,
        seconds: seconds.parse().ok()?,
        output: output.parse().ok()?,
        cgroups: cgroups.iter().map(PathBuf::from).collect(),
    };
    Some((Task::from_text(task)?, limits))
}

fn compile(compilation: Compilation) -> Result<Report, Fault> {
    let wasm = read_input()?;
    let world = classify(&wasm).map_err(|error| Fault::Input(format!("it {error}")))?;
    let engine = Engine::new(&configuration(compilation))
        .map_err(|error| Fault::Host(format!("{error:#}")))?;
    let artifact = match world {
        World::Module => engine.precompile_module(&wasm),
        _ => engine.precompile_component(&wasm),
    }
    .map_err(|error| Fault::Input(format!("{error:#}")))?;
    write_output(&artifact)?;
    Ok(Report::new(
        digits(&Sha256::digest(&wasm)),
        hash_of(&engine),
    ))
}

fn compose_input() -> Result<Composed, Fault> {
    let input = read_input()?;
    let components = composition::read(&input).map_err(Fault::Input)?;
    // What panics is caught, and said in a sentence.
    std::panic::set_hook(Box::new(|_| {}));
    write_output(&compose::compose(&components).map_err(Fault::Input)?)?;
    let digests: Vec<String> = components
        .iter()
        .map(|component| digits(&Sha256::digest(component.bytes)))
        .collect();
    let identity = composition::identity(digests.iter().map(String::as_str));
    Ok(Composed::new(digits(&Sha256::digest(identity))))
}

fn read_input() -> Result<Vec<u8>, Fault> {
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|error| Fault::Host(format!("cannot read the Wasm from stdin: {error}")))?;
    Ok(input)
}

fn write_output(output: &[u8]) -> Result<(), Fault> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(output)
        .and_then(|()| stdout.flush())
        .map_err(|error| {
            let text = format!("cannot write the result: {error}");
            match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Fault::NoRoom(text),
                _ => Fault::Host(text),
            }
        })
}

/// What Wasmtime says has to be the same for code to fit an engine, as 16 digits.
fn hash_of(engine: &Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    digits(&hasher.0.finalize()[..8])
}

/// Unlike the hasher of the standard library, the same in every release of Rust.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("the whole digest is taken instead")
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
