//! The one place that configures Wasmtime.
//!
//! The shim (which maps code) and the compile worker (which makes it) both use
//! [`configuration`]: a setting written in two places would make every artifact unusable.

use std::fmt;
#[cfg(feature = "run")]
use std::num::NonZeroUsize;

#[cfg(feature = "run")]
use wasmtime::Engine;
use wasmtime::{Config, ModuleVersionStrategy, WasmBacktraceDetails};

#[cfg(feature = "run")]
use crate::debugging::{DEEPEST_STACK, Tool};

/// Which Wasmtime and which Lighter made an artifact. It is stored in each artifact, and
/// Wasmtime refuses to map one that carries another version.
///
/// Wasmtime by itself would compare its major version only, and go on using code that an
/// earlier patch release compiled, also when the patch was for a flaw in the compiler.
pub const VERSION: &str = concat!(
    "wasmtime ",
    env!("LIGHTER_WASMTIME_VERSION"),
    ", lighter ",
    env!("CARGO_PKG_VERSION")
);

/// Wasmtime could not be set up; the text says why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot set up the Wasm engine on this machine: {0}")]
pub struct EngineError(String);

#[cfg(feature = "run")]
impl EngineError {
    pub(crate) fn from_wasmtime(error: &wasmtime::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// What code is compiled for. It decides what is compiled into every loop and function, so
/// that each is an artifact of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// A command: no checks in loops. A busy loop is ended by the signal handlers of `signals`
    /// or by SIGKILL.
    #[default]
    Command,
    /// A service: loops look at a counter (an epoch), so that one request cannot keep the
    /// thread from the others, and a time limit holds for a busy loop too.
    Http,
    /// Every instruction is counted (fuel), beside epochs: a guest ends after a number of them.
    Metered,
    /// Not optimised, with DWARF for a debugger, beside epochs.
    Debug,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Command, Self::Http, Self::Metered, Self::Debug];

    /// The word for it in options and in the artifact cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Http => "http",
            Self::Metered => "metered",
            Self::Debug => "debug",
        }
    }

    /// The variant called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }

    /// Whether its code gives way when the engine's epoch moves on.
    pub fn has_epochs(self) -> bool {
        self != Self::Command
    }
}

/// Everything that can differ between two artifacts of one source on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Compilation {
    /// What the code is for.
    pub variant: Variant,
    /// Whether the asynchronous parts of the component model are there, which WASI 0.3 needs
    /// and Wasmtime counts as experimental.
    pub preview3: bool,
}

impl Compilation {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Variant::ALL
            .into_iter()
            .flat_map(|variant| [false, true].map(|preview3| Self { variant, preview3 }))
    }

    /// The compilation whose text (as `Display` writes it) is `text`.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::all().find(|compilation| compilation.to_string() == text)
    }
}

impl fmt::Display for Compilation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.variant.name())?;
        formatter.write_str(if self.preview3 { "-preview3" } else { "" })
    }
}

/// How Wasm is compiled and run on this node, for one kind of compilation.
///
/// The shim adds where instances get their memory from ([`engine`]); that is no part of what
/// is compiled.
pub fn configuration(compilation: Compilation) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(compilation.preview3)
        .epoch_interruption(compilation.variant.has_epochs())
        .consume_fuel(compilation.variant == Variant::Metered)
        // A trap on the container's stderr names functions, and lines where the Wasm has DWARF.
        // Set here because the default depends on an environment variable.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .generate_address_map(true)
        // Data segments are mapped from the artifact, page by page as the guest touches them.
        .memory_init_cow(true)
        // Backtraces walk frame pointers. Unwind tables would only be registered with the C
        // library at each start and take up space in each artifact.
        .native_unwind_info(false);
    if compilation.variant == Variant::Debug {
        config.debug_info(true);
        #[cfg(feature = "compile")]
        config.cranelift_opt_level(wasmtime::OptLevel::None);
    }
    config
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))
        .expect("the version is shorter than the 255 bytes that Wasmtime allows");
    config
}

/// The engine that runs a guest. A service gets its instances from a pool; a command gets its
/// memory from the system. `tools` are those that look for faults in it.
///
/// # Errors
/// When Wasmtime refuses the configuration on this machine.
#[cfg(feature = "run")]
pub(crate) fn engine(
    compilation: Compilation,
    pool: Option<&crate::pool::Pool>,
    tools: &[Tool],
) -> Result<Engine, EngineError> {
    let mut config = configuration(compilation);
    // Neither changes what is compiled.
    config.coredump_on_trap(tools.contains(&Tool::CoreDump));
    if tools.contains(&Tool::Profile) {
        config.wasm_backtrace_max_frames(NonZeroUsize::new(DEEPEST_STACK));
    }
    if let Some(pool) = pool {
        config.allocation_strategy(pool.strategy());
    }
    Engine::new(&config).map_err(|error| EngineError::from_wasmtime(&error))
}

/// What, beside the source bytes, decides whether an artifact fits this process: versions and
/// configuration, as text. The artifact cache hashes it into its keys.
///
/// `Engine::precompile_compatibility_hash` exists only where a compiler is linked in, hence
/// not in the shim. Features of the processor are left out: Wasmtime compares them itself when
/// it maps an artifact, and one that does not fit is then compiled again.
#[cfg(feature = "run")]
pub(crate) fn compatibility(compilation: Compilation) -> String {
    format!(
        "{VERSION}\n{}\n{:?}",
        std::env::consts::ARCH,
        configuration(compilation)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_engine() -> Engine {
        engine(Compilation::default(), None, &[]).unwrap()
    }

    #[test]
    fn the_version_names_a_patch_release_of_wasmtime() {
        let version = env!("LIGHTER_WASMTIME_VERSION");
        assert_eq!(version.split('.').count(), 3, "{version}");
        assert!(VERSION.len() < 255);
    }

    #[test]
    fn compilations_are_read_back_and_differ() {
        let mut texts = std::collections::BTreeSet::new();
        for compilation in Compilation::all() {
            assert_eq!(
                Compilation::from_text(&compilation.to_string()),
                Some(compilation)
            );
            assert!(texts.insert(compatibility(compilation)), "{compilation}");
        }
        assert_eq!(texts.len(), 8);
        assert_eq!(Compilation::from_text("fast"), None);
    }

    #[test]
    fn an_artifact_of_another_version_is_refused() {
        let wasm = wat::parse_str("(module)").unwrap();
        let mut other = configuration(Compilation::default());
        other
            .module_version(ModuleVersionStrategy::Custom("wasmtime 48.0.0".to_owned()))
            .unwrap();
        let foreign = Engine::new(&other)
            .unwrap()
            .precompile_module(&wasm)
            .unwrap();
        let own = own_engine().precompile_module(&wasm).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: both artifacts were compiled by this test from a module of its own.
        let (foreign, own) = unsafe {
            (
                wasmtime::Module::deserialize(&own_engine(), &foreign),
                wasmtime::Module::deserialize(&own_engine(), &own),
            )
        };
        assert!(foreign.err().unwrap().to_string().contains("version"));
        own.unwrap();
    }

    #[test]
    fn an_artifact_of_another_variant_is_refused_and_a_pool_changes_nothing() {
        let wasm = wat::parse_str("(module (memory 1))").unwrap();
        let service = Compilation {
            variant: Variant::Http,
            preview3: false,
        };
        let code = Engine::new(&configuration(service))
            .unwrap()
            .precompile_module(&wasm)
            .unwrap();
        let load = |engine: Engine| {
            #[allow(unsafe_code)]
            // SAFETY: the artifact was compiled by this test from a module of its own.
            unsafe {
                wasmtime::Module::deserialize(&engine, &code)
            }
        };
        let pool = crate::pool::Pool::new(10, None);
        load(engine(service, Some(&pool), &[]).unwrap()).unwrap();
        // The tools of debugging neither.
        load(engine(service, Some(&pool), &Tool::ALL).unwrap()).unwrap();
        assert!(load(own_engine()).is_err());
    }

    #[test]
    fn the_compatibility_text_follows_the_configuration() {
        let text = compatibility(Compilation::default());
        assert!(text.contains(VERSION));
        assert!(text.contains("wasm_component_model: true"), "{text}");
    }
}
