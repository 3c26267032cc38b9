//! A Wasm file made ready to run: compiled, mapped, its imports and its entry point checked.
#![allow(unsafe_code)] // Mapping an artifact: Wasmtime trusts its contents completely.

use std::fs::File;
use std::io;

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, Type};
use wasmtime::{ExternType, FuncType, Module};

use crate::cache::{Artifact, ArtifactCache, CacheError};
use crate::classify::Kind;
use crate::compile::one_line;
use crate::engine::{EngineError, engine};
use crate::link::{State, component_linker, link_component, link_module, module_linker};
use crate::source::Source;

/// Why a file cannot be run. Each text names the file as the user wrote it.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The file could not be read.
    #[error("{name} cannot be read: {error}")]
    Source {
        /// The file.
        name: String,
        /// What the kernel said, or what is wrong with the file.
        error: io::Error,
    },
    /// The file is no Wasm, or it cannot be compiled.
    #[error("{name} {error}")]
    Code {
        /// The file.
        name: String,
        /// Why there is no native code for it.
        error: CacheError,
    },
    /// The code that this node compiled cannot be mapped, not even when compiled anew.
    #[error(
        "{name} was compiled, but the result cannot be loaded: {cause} (the shim and \
         lighter-compiler have to be of the same release)"
    )]
    Map {
        /// The file.
        name: String,
        /// What Wasmtime said.
        cause: String,
    },
    /// The host does not have what the program imports.
    #[error(
        "{name} cannot be linked: this host does not provide {imports}; it provides \
         wasi_snapshot_preview1 to modules and WASI 0.2 (wasi:cli) to components"
    )]
    Imports {
        /// The file.
        name: String,
        /// The imports that are missing.
        imports: String,
    },
    /// The entry point is missing or no function that can be called without arguments.
    #[error("{name} cannot be started: {fault}; {candidates}")]
    Entry {
        /// The file.
        name: String,
        /// What is wrong.
        fault: String,
        /// What could be started instead.
        candidates: String,
    },
    /// Wasmtime cannot be set up.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A program that is ready to run. Its code is mapped from the artifact, whose descriptor
/// stays open; no file of the container is open any more.
pub struct Program {
    pub(crate) name: String,
    pub(crate) code: Code,
}

/// The two kinds of programs, with the function that starts each.
pub(crate) enum Code {
    Module {
        instance: wasmtime::InstancePre<State>,
        entry: String,
        /// `_initialize` has to be called first: the module is a library, not a command.
        initialize: bool,
    },
    Component {
        instance: wasmtime::component::InstancePre<State>,
        entry: ComponentExportIndex,
        /// The function returns a `result`, not nothing.
        fallible: bool,
    },
}

enum Mapped {
    Module(Module),
    Component(Component),
}

impl Program {
    /// Makes the Wasm file `source` ready to run.
    ///
    /// `name` is the path as the user wrote it, for messages. `export` is the function to start:
    /// `None` for `_start` of a module and `wasi:cli/run` of a component; otherwise the name of
    /// an exported function, or of an exported interface with a function `run`.
    ///
    /// If this node has not compiled the file yet, that happens now and takes its time.
    ///
    /// # Errors
    /// [`ProgramError`]; nothing has run then.
    pub fn load(
        source: File,
        name: &str,
        export: Option<&str>,
        cache: &ArtifactCache,
    ) -> Result<Self, ProgramError> {
        let source = Source::new(source).map_err(|error| ProgramError::Source {
            name: name.to_owned(),
            error,
        })?;
        let code = match find_and_map(&source, name, cache)? {
            Mapped::Module(module) => prepare_module(&module, name, export)?,
            Mapped::Component(component) => prepare_component(&component, name, export)?,
        };
        Ok(Self {
            name: name.to_owned(),
            code,
        })
    }

    /// What kind of program this is.
    pub fn kind(&self) -> Kind {
        match self.code {
            Code::Module { .. } => Kind::Module,
            Code::Component { .. } => Kind::Component,
        }
    }
}

/// Maps the artifact; one that is damaged is thrown away and compiled again, once.
fn find_and_map(
    source: &Source,
    name: &str,
    cache: &ArtifactCache,
) -> Result<Mapped, ProgramError> {
    let code_error = |error| ProgramError::Code {
        name: name.to_owned(),
        error,
    };
    let artifact = cache.artifact(source).map_err(code_error)?;
    let first_error = match map(&artifact) {
        Ok(mapped) => return Ok(mapped),
        Err(error) => error,
    };
    cache.discard(&artifact).map_err(code_error)?;
    let artifact = cache.artifact(source).map_err(code_error)?;
    map(&artifact).map_err(|error| ProgramError::Map {
        name: name.to_owned(),
        cause: one_line(&format!("{error:#} (and before that: {first_error:#})")),
    })
}

fn map(artifact: &Artifact) -> wasmtime::Result<Mapped> {
    let engine = engine()?;
    // SAFETY: `Artifact`s come from `ArtifactCache` only: files that the compile worker of this
    // node wrote, in a folder that nobody but this user can enter, and that are replaced by
    // rename and never written to. Wasmtime itself compares version and settings.
    unsafe {
        Ok(match artifact.kind {
            Kind::Module => Mapped::Module(Module::deserialize_file(engine, &artifact.path)?),
            Kind::Component => {
                Mapped::Component(Component::deserialize_file(engine, &artifact.path)?)
            }
        })
    }
}

fn imports_error(name: &str, imports: String) -> ProgramError {
    ProgramError::Imports {
        name: name.to_owned(),
        imports,
    }
}

/// Name of the function that starts a WASI preview 1 command.
const START: &str = "_start";
/// Name of the function that has to be called before any other one of a library.
const INITIALIZE: &str = "_initialize";

fn prepare_module(module: &Module, name: &str, export: Option<&str>) -> Result<Code, ProgramError> {
    let instance =
        link_module(module_linker()?, module).map_err(|missing| imports_error(name, missing))?;
    let entry = export.unwrap_or(START);
    let fault = match module.get_export(entry) {
        None => format!("it exports no function `{entry}`"),
        Some(ExternType::Func(function)) if takes_and_returns_nothing(&function) => {
            return Ok(Code::Module {
                instance,
                entry: entry.to_owned(),
                initialize: entry != START && entry != INITIALIZE && is_command(module, INITIALIZE),
            });
        }
        Some(ExternType::Func(_)) => {
            format!("its function `{entry}` has parameters or results")
        }
        Some(_) => format!("its export `{entry}` is no function"),
    };
    let candidates = module
        .exports()
        .map(|candidate| candidate.name())
        .filter(|candidate| is_command(module, candidate));
    Err(entry_error(name, fault, candidates))
}

fn is_command(module: &Module, export: &str) -> bool {
    matches!(module.get_export(export), Some(ExternType::Func(function))
        if takes_and_returns_nothing(&function))
}

fn takes_and_returns_nothing(function: &FuncType) -> bool {
    function.params().len() == 0 && function.results().len() == 0
}

/// Wasmtime finds every later 0.2 by this name too.
const RUN_INTERFACE: &str = "wasi:cli/run@0.2.0";

fn prepare_component(
    component: &Component,
    name: &str,
    export: Option<&str>,
) -> Result<Code, ProgramError> {
    let instance = link_component(component_linker()?, component)
        .map_err(|missing| imports_error(name, missing))?;
    let entry = export.unwrap_or(RUN_INTERFACE);
    let fault = match find_function(component, entry) {
        None => format!("it exports neither a function nor an interface `{entry}`"),
        Some((function, index)) => match returns_result(&function) {
            Some(fallible) => {
                return Ok(Code::Component {
                    instance,
                    entry: index,
                    fallible,
                });
            }
            None => {
                format!("its function `{entry}` has parameters, or results other than `result`")
            }
        },
    };
    let ty = component.component_type();
    let candidates = ty
        .exports(component.engine())
        .map(|(candidate, _)| candidate)
        .filter(|candidate| {
            find_function(component, candidate)
                .is_some_and(|(function, _)| returns_result(&function).is_some())
        });
    Err(entry_error(name, fault, candidates))
}

/// The function called `export`, or the function `run` of the interface called so.
fn find_function(
    component: &Component,
    export: &str,
) -> Option<(ComponentFunc, ComponentExportIndex)> {
    let (item, index) = match component.get_export(None, export)? {
        (ComponentItem::ComponentInstance(_), interface) => {
            component.get_export(Some(&interface), "run")?
        }
        other => other,
    };
    match item {
        ComponentItem::ComponentFunc(function) => Some((function, index)),
        _ => None,
    }
}

/// Whether a function without parameters returns `result` (true) or nothing (false).
fn returns_result(function: &ComponentFunc) -> Option<bool> {
    let results: Vec<Type> = function.results().collect();
    if function.params().len() != 0 {
        return None;
    }
    match results.as_slice() {
        [] => Some(false),
        [Type::Result(result)] if result.ok().is_none() && result.err().is_none() => Some(true),
        _ => None,
    }
}

fn entry_error<'a>(
    name: &str,
    fault: String,
    candidates: impl Iterator<Item = &'a str>,
) -> ProgramError {
    let names: Vec<String> = candidates
        .take(20)
        .map(|candidate| format!("{name}#{candidate}"))
        .collect();
    ProgramError::Entry {
        name: name.to_owned(),
        fault,
        candidates: if names.is_empty() {
            "it exports nothing that could be started".to_owned()
        } else {
            format!("what can be started is {}", names.join(", "))
        },
    }
}
