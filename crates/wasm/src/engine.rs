//! The one place that configures Wasmtime.
//!
//! The shim (which maps code) and the compile worker (which makes it) both use
//! [`configuration`]: a setting written in two places would make every artifact unusable.

use std::sync::OnceLock;

use wasmtime::{Config, Engine, ModuleVersionStrategy, WasmBacktraceDetails};

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

impl EngineError {
    pub(crate) fn from_wasmtime(error: &wasmtime::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

/// How Wasm is compiled and run on this node.
///
/// Neither epochs nor fuel are used: they would slow every loop down, and a busy loop is ended
/// by the signal handlers of `signals` or by SIGKILL. The pooling allocator stays off, since a
/// process runs one guest only, and with it `pagemap_scan`, which relies on fork handlers
/// that a raw `clone3` does not run.
pub fn configuration() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // A trap on the container's stderr names functions, and lines where the Wasm has DWARF.
        // Set here because the default depends on an environment variable.
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .generate_address_map(true)
        // Data segments are mapped from the artifact, page by page as the guest touches them.
        .memory_init_cow(true)
        // Backtraces walk frame pointers. Unwind tables would only be registered with the C
        // library at each start and take up space in each artifact.
        .native_unwind_info(false);
    config
        .module_version(ModuleVersionStrategy::Custom(VERSION.to_owned()))
        .expect("the version is shorter than the 255 bytes that Wasmtime allows");
    config
}

/// The engine of this process, made at the first call.
///
/// There is one for each process, because Wasmtime's signal handlers belong to the process,
/// and because children that are forked afterwards share its memory.
///
/// # Errors
/// When Wasmtime refuses the configuration on this machine.
pub fn engine() -> Result<&'static Engine, EngineError> {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    if let Some(engine) = ENGINE.get() {
        return Ok(engine);
    }
    let engine =
        Engine::new(&configuration()).map_err(|error| EngineError::from_wasmtime(&error))?;
    Ok(ENGINE.get_or_init(|| engine))
}

/// What, beside the source bytes, decides whether an artifact fits this process: versions and
/// configuration, as text. The artifact cache hashes it into its keys, once for each process.
///
/// `Engine::precompile_compatibility_hash` exists only where a compiler is linked in, hence
/// not in the shim. Features of the processor are left out: Wasmtime compares them itself when
/// it maps an artifact, and one that does not fit is then compiled again.
#[cfg(feature = "run")]
pub(crate) fn compatibility() -> String {
    format!(
        "{VERSION}\n{}\n{:?}",
        std::env::consts::ARCH,
        configuration()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_names_a_patch_release_of_wasmtime() {
        let version = env!("LIGHTER_WASMTIME_VERSION");
        assert_eq!(version.split('.').count(), 3, "{version}");
        assert!(VERSION.len() < 255);
    }

    #[test]
    fn an_artifact_of_another_version_is_refused() {
        let wasm = wat::parse_str("(module)").unwrap();
        let mut other = configuration();
        other
            .module_version(ModuleVersionStrategy::Custom("wasmtime 48.0.0".to_owned()))
            .unwrap();
        let foreign = Engine::new(&other)
            .unwrap()
            .precompile_module(&wasm)
            .unwrap();
        let own = engine().unwrap().precompile_module(&wasm).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: both artifacts were compiled by this test from a module of its own.
        let (foreign, own) = unsafe {
            (
                wasmtime::Module::deserialize(engine().unwrap(), &foreign),
                wasmtime::Module::deserialize(engine().unwrap(), &own),
            )
        };
        assert!(foreign.err().unwrap().to_string().contains("version"));
        own.unwrap();
    }

    #[test]
    fn the_compatibility_text_follows_the_configuration() {
        let text = compatibility();
        assert!(text.contains(VERSION));
        assert!(text.contains("wasm_component_model: true"), "{text}");
        assert_eq!(text, compatibility());
    }
}
