//! A Wasm file made ready to run: compiled, mapped, its imports and its entry point checked.
#![allow(unsafe_code)] // Mapping an artifact: Wasmtime trusts its contents completely.

mod entry;

use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use lighter_core::{Count, Counters, ErrorClass};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre};
use wasmtime::{Engine, Module};
use wasmtime_wasi_http::handler::ProxyPre;

use self::entry::{prepare_command3, prepare_component, prepare_module, prepare_service};
use crate::cache::{Artifact, ArtifactCache, CacheError};
use crate::classify::World;
use crate::compile::one_line;
use crate::debugging::{Record, Recorder, Tool};
use crate::engine::{EngineError, engine};
use crate::options::Options;
use crate::page_map::PageMap;
use crate::pool::Pool;
use crate::source::{Composition, Fetch, Source};
use crate::state::State;

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
         wasi_snapshot_preview1 to modules, and WASI 0.2, wasi:http, wasi:config and wasi:keyvalue \
         to components"
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

impl ProgramError {
    /// What containerd acts on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Source { error, .. } => ErrorClass::of_io(error),
            Self::Code { error, .. } => error.class(),
            // Of another release, as its text says.
            Self::Map { .. } => ErrorClass::FailedPrecondition,
            Self::Imports { .. } | Self::Entry { .. } => ErrorClass::InvalidArgument,
            Self::Engine(_) => ErrorClass::Internal,
        }
    }
}

/// A program that is ready to run. Its code is mapped from the artifact, whose descriptor
/// stays open; no file of the container is open any more.
pub struct Program {
    pub(crate) name: String,
    pub(crate) code: Code,
    pub(crate) options: Options,
    pub(crate) engine: Engine,
    /// With the bytes that an idle slot may keep.
    pub(crate) page_map: Option<(PageMap, usize)>,
    /// Locks the artifact, so that it is not evicted while this process maps it.
    pub(crate) artifact: File,
    pub(crate) recorder: Recorder,
    pub(crate) preparation: Preparation,
}

/// What it took to make a program ready.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preparation {
    /// Nothing: its code was in the cache.
    Found,
    /// It was compiled in this time, which includes waiting for a turn.
    Compiled(Duration),
}

impl Preparation {
    pub(crate) fn count(self, counters: &Counters) {
        match self {
            Self::Found => counters.add(Count::CacheHits, 1),
            Self::Compiled(time) => {
                counters.add(Count::CacheMisses, 1);
                counters.add(Count::CompileTime, time.as_nanos() as u64);
            }
        }
    }
}

/// The kinds of programs, with the function that starts each.
pub(crate) enum Code {
    Module {
        instance: wasmtime::InstancePre<State>,
        entry: String,
        /// `_initialize` has to be called first: the module is a library, not a command.
        initialize: bool,
    },
    Component {
        instance: InstancePre<State>,
        entry: ComponentExportIndex,
        /// The function returns a `result`, not nothing.
        fallible: bool,
    },
    /// A command of WASI 0.3.
    Command3(wasmtime_wasi::p3::bindings::CommandPre<State>),
    Service(ProxyPre<State>),
}

/// Code that is in place, and what it was compiled as.
struct Mapped {
    code: MappedCode,
    world: World,
    engine: Engine,
    page_map: Option<(PageMap, usize)>,
    artifact: File,
    preparation: Preparation,
}

impl Mapped {
    fn new(
        name: &str,
        loaded: Loaded,
        pool: Option<Pool>,
        world: World,
        preparation: Preparation,
    ) -> Result<Self, ProgramError> {
        let Loaded { code, engine, file } = loaded;
        let page_map = pool.map(Pool::into_page_map).transpose();
        let page_map = page_map.map_err(|error| ProgramError::Map {
            name: name.to_owned(),
            cause: format!("the socket for its page map cannot be made: {error}"),
        })?;
        Ok(Self {
            code,
            world,
            engine,
            page_map: page_map.flatten(),
            artifact: file,
            preparation,
        })
    }
}

/// Code, its engine, and the file that it is mapped from.
struct Loaded {
    code: MappedCode,
    engine: Engine,
    file: File,
}

enum MappedCode {
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
        options: Options,
    ) -> Result<Self, ProgramError> {
        let source = Source::new(source).map_err(|error| ProgramError::Source {
            name: name.to_owned(),
            error,
        })?;
        Self::prepare(&source, name, export, cache, options)
    }

    /// Makes bytes ready to run that have the SHA-256 `digest` (64 hexadecimal digits), as
    /// [`Program::load`] does with those of a file. `fetch` gets them if this node has not
    /// compiled them yet.
    ///
    /// # Errors
    /// [`ProgramError`]; nothing has run then.
    pub fn load_content(
        digest: &str,
        fetch: &Fetch<'_>,
        name: &str,
        export: Option<&str>,
        cache: &ArtifactCache,
        options: Options,
    ) -> Result<Self, ProgramError> {
        Self::prepare(
            &Source::content(digest, fetch),
            name,
            export,
            cache,
            options,
        )
    }

    /// Makes components ready to run that become one, as [`Program::load`] does with a file. They
    /// are neither fetched nor composed if this node has compiled the same ones before.
    ///
    /// # Errors
    /// [`ProgramError`]; nothing has run then.
    pub fn load_composition(
        composition: Composition<'_>,
        name: &str,
        export: Option<&str>,
        cache: &ArtifactCache,
        options: Options,
    ) -> Result<Self, ProgramError> {
        let source = Source::composition(composition);
        Self::prepare(&source, name, export, cache, options)
    }

    fn prepare(
        source: &Source<'_>,
        name: &str,
        export: Option<&str>,
        cache: &ArtifactCache,
        options: Options,
    ) -> Result<Self, ProgramError> {
        let mapped = find_and_map(source, name, export, cache, &options)?;
        let code = match (&mapped.code, export, mapped.world) {
            (MappedCode::Module(module), ..) => prepare_module(module, name, export)?,
            (MappedCode::Component(component), None, world) if world.is_service() => {
                prepare_service(component, name, world)?
            }
            (MappedCode::Component(component), None, World::Command3) => {
                prepare_command3(component, name)?
            }
            (MappedCode::Component(component), ..) => {
                prepare_component(component, name, export, mapped.world.needs_preview3())?
            }
        };
        Ok(Self {
            name: name.to_owned(),
            code,
            options,
            engine: mapped.engine,
            page_map: mapped.page_map,
            artifact: mapped.artifact,
            preparation: mapped.preparation,
            recorder: Recorder::default(),
        })
    }

    /// How long compiling it took, if that was not done before.
    pub fn compile_time(&self) -> Option<Duration> {
        match self.preparation {
            Preparation::Compiled(took) => Some(took),
            Preparation::Found => None,
        }
    }

    /// Has the tools of debugging write to the files of `record`.
    pub fn record(&mut self, record: Record) {
        self.recorder = Recorder::new(record);
    }

    /// Descriptors that have to be open when [`Program::run`] is called in a copy of this process:
    /// its code's, those of what is recorded, and Wasmtime's of the page map.
    ///
    /// # Errors
    /// When the descriptors of this process cannot be listed.
    pub fn descriptors(&self) -> io::Result<Vec<RawFd>> {
        let mut descriptors = descriptors_of(&self.artifact)?;
        descriptors.extend(self.recorder.descriptors());
        descriptors.extend(self.page_map.iter().map(|(map, _)| map.descriptor()));
        Ok(descriptors)
    }

    /// The socket at which [`Program::run`], in a copy of this process, expects one message with
    /// that process's `/proc/PID/pagemap` and `/proc/PID/maps`, open for reading. None if it
    /// needs neither. If nobody takes it, the process opens them itself.
    pub fn take_memory_map_sender(&mut self) -> Option<OwnedFd> {
        self.page_map.as_mut()?.0.take_sender()
    }
}

/// All descriptors of this process that are of the same file as `file`: Wasmtime has one of its
/// own, from which it maps initial memories.
fn descriptors_of(file: &File) -> io::Result<Vec<RawFd>> {
    let wanted = file.metadata()?;
    let is_same = |fd: &RawFd| {
        std::fs::metadata(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    let names = std::fs::read_dir("/proc/self/fd")?.flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter(is_same).collect())
}

/// Maps the artifact; one that is damaged is thrown away and compiled again, once.
fn find_and_map(
    source: &Source<'_>,
    name: &str,
    export: Option<&str>,
    cache: &ArtifactCache,
    options: &Options,
) -> Result<Mapped, ProgramError> {
    let code_error = |error| ProgramError::Code {
        name: name.to_owned(),
        error,
    };
    // A function that is started by its name is a command, also one of a service.
    let role = |world: World| match export {
        Some(_) if world.is_service() => World::Component,
        _ => world,
    };
    let choose = |world| options.compilation(role(world));
    let find = || {
        let begin = Instant::now();
        let artifact = cache.artifact(source, &choose).map_err(code_error)?;
        let preparation = match artifact.is_new {
            true => Preparation::Compiled(begin.elapsed()),
            false => Preparation::Found,
        };
        Ok::<_, ProgramError>((artifact, preparation))
    };
    let (artifact, preparation) = find()?;
    let pool = role(artifact.world)
        .is_service()
        .then(|| Pool::new(options.http.concurrency, options.resources.memory_bytes));
    let first_error = match map(&artifact, pool.as_ref(), &options.debug) {
        Ok(loaded) => return Mapped::new(name, loaded, pool, artifact.world, preparation),
        Err(error) => error,
    };
    cache.discard(&artifact).map_err(code_error)?;
    let (artifact, preparation) = find()?;
    match map(&artifact, pool.as_ref(), &options.debug) {
        Ok(loaded) => Mapped::new(name, loaded, pool, artifact.world, preparation),
        Err(error) => Err(ProgramError::Map {
            name: name.to_owned(),
            cause: one_line(&format!("{error:#} (and before that: {first_error:#})")),
        }),
    }
}

fn map(artifact: &Artifact, pool: Option<&Pool>, tools: &[Tool]) -> wasmtime::Result<Loaded> {
    let engine = engine(artifact.compilation, pool, tools)?;
    let (path, file) = artifact
        .read_only()
        .map_err(|error| wasmtime::format_err!("no read-only mount of it can be made: {error}"))?;
    // SAFETY: `Artifact`s come from `ArtifactCache` only: files that the compile worker of this
    // node wrote, in a folder that nobody but this user can enter, and that are replaced by
    // rename and never written to. Wasmtime itself compares version and settings.
    let code = unsafe {
        match artifact.world {
            World::Module => MappedCode::Module(Module::deserialize_file(&engine, &path)?),
            _ => MappedCode::Component(Component::deserialize_file(&engine, &path)?),
        }
    };
    Ok(Loaded { code, engine, file })
}
