//! Decides what a file is before anything else looks at it. Pure: bytes in, verdict out.
//!
//! It reads the frame of a binary (header, section lengths, nested modules) and skips the
//! contents. The compile worker validates those, in a process where a flaw of the
//! validator or compiler does little harm.

mod walk;

use std::fmt;

use self::walk::{Bounds, walk};

/// What a Wasm binary is, by the world that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// A core module; runs as a WASI preview 1 command.
    Module,
    /// A component that exports no world that is known here. One of its functions can be
    /// started by name.
    Component,
    /// A component that exports `wasi:cli/run` 0.2.
    Command,
    /// A component that exports `wasi:http/incoming-handler` 0.2.
    Service,
    /// A component that exports `wasi:cli/run` 0.3, or imports anything of WASI 0.3.
    Command3,
    /// A component that exports `wasi:http/handler` 0.3.
    Service3,
}

impl World {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Module,
        Self::Component,
        Self::Command,
        Self::Service,
        Self::Command3,
        Self::Service3,
    ];

    /// Whether it is served over HTTP instead of run once.
    pub fn is_service(self) -> bool {
        matches!(self, Self::Service | Self::Service3)
    }

    /// Whether it needs WASI 0.3.
    pub fn needs_preview3(self) -> bool {
        matches!(self, Self::Command3 | Self::Service3)
    }

    /// The word for it in the artifact cache and in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Component => "component",
            Self::Command => "command",
            Self::Service => "service",
            Self::Command3 => "command-0.3",
            Self::Service3 => "service-0.3",
        }
    }

    /// The world called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|world| world.name() == name)
    }
}

impl fmt::Display for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why a file cannot run as Wasm. The texts follow the name of the file and "it".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRunnable {
    /// The file does not begin with the four bytes of every Wasm binary.
    #[error("is not a Wasm binary (it does not begin with \\0asm)")]
    NotWasm,
    /// The file is WebAssembly text.
    #[error(
        "is WebAssembly text, not a Wasm binary: translate it with `wat2wasm` or `wasm-tools parse`"
    )]
    Text,
    /// The file is native code that Wasmtime compiled.
    #[error(
        "is a precompiled Wasmtime artifact, which holds native code: Lighter runs only what this \
         node compiled itself, so put the .wasm file that it was made from into the image"
    )]
    Precompiled,
    /// The file ends before its contents do.
    #[error("is truncated: it ends at byte {0}, inside of a section")]
    Truncated(usize),
    /// The file declares more of something than any program that was meant to run.
    #[error(
        "has more than {limit} {what}: no toolchain makes such a program, and this node would need \
         too much memory for it"
    )]
    TooMany {
        /// What there is too much of, in the plural.
        what: &'static str,
        /// The most that is accepted.
        limit: u64,
    },
    /// The frame of the file is damaged or of a version that is not known.
    #[error("is malformed: {0}")]
    Malformed(String),
    /// The file imports functions that no release of WASI has, or that Lighter does not give.
    #[error("imports `{import}`: {reason}")]
    Unsupported {
        /// The import, as `module::name`.
        import: String,
        /// Why it is not there, and what works instead.
        reason: &'static str,
    },
}

const MAGIC: [u8; 4] = *b"\0asm";
const MODULE_HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT_HEADER: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Whether a file that begins with `first_bytes` (four are enough) claims to be Wasm.
pub fn is_wasm(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(&MAGIC)
}

/// Whether a file that begins with `first_bytes` (nine are enough) is an artifact of Wasmtime:
/// an ELF file (64 bit) with an operating system field that only Wasmtime uses.
pub fn is_precompiled(first_bytes: &[u8]) -> bool {
    const ELF64: &[u8] = b"\x7fELF\x02";
    const OS_ABI: usize = 7;
    const ABI_VERSION: usize = 8;
    const WASMTIME: u8 = 200;
    first_bytes.starts_with(ELF64)
        && first_bytes.get(OS_ABI) == Some(&WASMTIME)
        && first_bytes.get(ABI_VERSION) == Some(&0)
}

/// Decides what the whole file `bytes` is.
///
/// # Errors
/// [`NotRunnable`] for everything that is not the complete frame of a module or component, and
/// for those whose imports say that they were made for another runtime.
pub fn classify(bytes: &[u8]) -> Result<World, NotRunnable> {
    inspect(bytes).map(|(world, _)| world)
}

/// The same, with what the binary imports and exports.
///
/// # Errors
/// Those of [`classify`].
pub fn inspect(bytes: &[u8]) -> Result<(World, Interface), NotRunnable> {
    if is_precompiled(bytes) {
        return Err(NotRunnable::Precompiled);
    }
    if is_text(bytes) {
        return Err(NotRunnable::Text);
    }
    if !is_wasm(bytes) {
        return Err(NotRunnable::NotWasm);
    }
    match bytes.get(..MODULE_HEADER.len()) {
        None => return Err(NotRunnable::Truncated(bytes.len())),
        Some(header) if header == MODULE_HEADER || header == COMPONENT_HEADER => {}
        Some(header) => {
            return Err(NotRunnable::Malformed(format!(
                "unknown version {:02x?} after \\0asm",
                &header[MAGIC.len()..]
            )));
        }
    }
    let interface = walk(bytes, &Bounds::default())?;
    for (module, name) in &interface.imports {
        if let Some(reason) = why_unsupported(module, name) {
            return Err(NotRunnable::Unsupported {
                import: format!("{module}::{name}"),
                reason,
            });
        }
    }
    let world = if bytes.starts_with(&MODULE_HEADER) {
        World::Module
    } else {
        interface.world()
    };
    Ok((world, interface))
}

/// What the outermost binary imports and exports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Module and name. A component's imports have no module.
    pub imports: Vec<(String, String)>,
    /// Names. Those of a module are not read.
    pub exports: Vec<String>,
}

impl Interface {
    /// The world of a component. One that serves and can be run is served, as the peers do it;
    /// `FILE#wasi:cli/run@0.2.0` runs it.
    fn world(&self) -> World {
        let exports = |interface: &str, version: &str| {
            self.exports
                .iter()
                .any(|name| is_version_of(name, interface, version))
        };
        if exports("wasi:http/incoming-handler", "0.2.") {
            World::Service
        } else if exports("wasi:http/handler", "0.3.") {
            World::Service3
        } else if exports("wasi:cli/run", "0.3.") || self.imports_preview3() {
            World::Command3
        } else if exports("wasi:cli/run", "0.2.") {
            World::Command
        } else {
            World::Component
        }
    }

    fn imports_preview3(&self) -> bool {
        self.imports
            .iter()
            .any(|(_, name)| name.starts_with("wasi:") && name.contains("@0.3."))
    }
}

/// Whether `name` is `interface@version...`.
fn is_version_of(name: &str, interface: &str, version: &str) -> bool {
    name.strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix('@'))
        .is_some_and(|rest| rest.starts_with(version))
}

/// Why a core module that imports this cannot run, and what works instead.
///
/// `sock_accept` and its like of preview 1 are not in this list: Go's programs import them
/// whether or not they use them, so they are refused when they are called.
fn why_unsupported(module: &str, name: &str) -> Option<&'static str> {
    const WASMEDGE: &[&str] = &[
        "sock_bind",
        "sock_connect",
        "sock_getaddrinfo",
        "sock_getlocaladdr",
        "sock_getpeeraddr",
        "sock_getsockopt",
        "sock_listen",
        "sock_open",
        "sock_recv_from",
        "sock_send_to",
        "sock_setsockopt",
    ];
    match (module, name) {
        ("wasi", "thread-spawn") => Some(
            "wasi-threads was withdrawn and is in no engine's plans; build for one thread (without -pthread), and run more containers",
        ),
        ("wasi_snapshot_preview1", name) if WASMEDGE.contains(&name) => Some(
            "these sockets exist in WasmEdge only; build a component of WASI 0.2, which has wasi:sockets and wasi:http",
        ),
        (module, _) if module.starts_with("wasmedge") || module.starts_with("wasi_crypto") => Some(
            "this extension exists in WasmEdge only; WASI 0.2 has what stands in for most of it",
        ),
        ("wasi_unstable", _) => Some(
            "this is WASI preview 0 of 2019; build it again with a compiler that targets preview 1 (wasm32-wasip1) or later",
        ),
        ("wasi_nn" | "wasi_ephemeral_nn", _) if !cfg!(feature = "wasi-nn") => {
            Some("this build of Lighter has no wasi-nn; build it with the cargo feature `wasi-nn`")
        }
        ("env", name) if name.starts_with("emscripten_") || name.starts_with("invoke_") => Some(
            "this was made by Emscripten for a JavaScript host; build it with wasi-sdk, or with -sSTANDALONE_WASM",
        ),
        ("__wbindgen_placeholder__" | "wbg", _) => Some(
            "this was made by wasm-bindgen for a JavaScript host; build it for the target wasm32-wasip1 or wasm32-wasip2",
        ),
        _ => None,
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    start.starts_with(b"(module") || start.starts_with(b"(component")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn module() -> Vec<u8> {
        wat::parse_str(
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                (memory (export "memory") 1)
                (data (i32.const 0) "some bytes")
                (func (export "_start") i32.const 3 call 0))"#,
        )
        .unwrap()
    }

    fn component() -> Vec<u8> {
        wat::parse_str(
            r#"(component
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func (export "f") (canon lift (core func $i "f"))))"#,
        )
        .unwrap()
    }

    #[test]
    fn modules_and_components_are_told_apart() {
        assert_eq!(classify(&module()), Ok(World::Module));
        assert_eq!(classify(&component()), Ok(World::Component));
        assert_eq!(classify(b"\0asm\x01\0\0\0"), Ok(World::Module));
    }

    fn component_with(interfaces: &str) -> Vec<u8> {
        wat::parse_str(format!(
            r#"(component
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $run (export "run" (func $f)))
                {interfaces})"#
        ))
        .unwrap()
    }

    #[test]
    fn the_world_is_what_a_component_exports() {
        let cases = [
            ("wasi:cli/run@0.2.0", World::Command),
            ("wasi:cli/run@0.2.8", World::Command),
            ("wasi:cli/run@0.3.0", World::Command3),
            ("wasi:cli/run@0.3.0-rc-2025-09-16", World::Command3),
            ("wasi:http/incoming-handler@0.2.3", World::Service),
            ("wasi:http/handler@0.3.0", World::Service3),
            ("wasi:cli/run@0.1.0", World::Component),
            ("wasi:cli/runner@0.2.0", World::Component),
            ("acme:cli/run@0.2.0", World::Component),
        ];
        for (name, world) in cases {
            let bytes = component_with(&format!(r#"(export "{name}" (instance $run))"#));
            assert_eq!(classify(&bytes), Ok(world), "{name}");
        }
        let both = component_with(
            r#"(export "wasi:cli/run@0.2.0" (instance $run))
               (export "wasi:http/incoming-handler@0.2.0" (instance $run))"#,
        );
        assert_eq!(classify(&both), Ok(World::Service));
        let imports = wat::parse_str(
            r#"(component (import "wasi:clocks/monotonic-clock@0.3.0" (instance)))"#,
        )
        .unwrap();
        assert_eq!(classify(&imports), Ok(World::Command3));
    }

    #[test]
    fn the_names_of_worlds_are_read_back() {
        for world in World::ALL {
            assert_eq!(World::from_name(world.name()), Some(world));
        }
        assert_eq!(World::from_name("spin"), None);
    }

    #[test]
    fn modules_for_other_runtimes_are_refused_by_name() {
        let cases = [
            ("wasi", "thread-spawn", "one thread"),
            ("wasi_snapshot_preview1", "sock_open", "WasmEdge"),
            ("wasi_snapshot_preview1", "sock_getaddrinfo", "wasi:sockets"),
            ("wasmedge_process", "run", "WasmEdge"),
            ("wasi_unstable", "fd_write", "preview 0"),
            ("env", "emscripten_resize_heap", "Emscripten"),
            ("wbg", "__wbg_log", "wasm-bindgen"),
        ];
        for (module, name, hint) in cases {
            let text = format!(r#"(module (import "{module}" "{name}" (func)))"#);
            let error = classify(&wat::parse_str(text).unwrap()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("`{module}::{name}`")), "{text}");
            assert!(text.contains(hint), "{text}");
        }
        let go = r#"(module (import "wasi_snapshot_preview1" "sock_accept"
            (func (param i32 i32 i32) (result i32))))"#;
        assert_eq!(classify(&wat::parse_str(go).unwrap()), Ok(World::Module));
    }

    #[test]
    fn what_is_not_wasm_is_named() {
        assert_eq!(classify(b""), Err(NotRunnable::NotWasm));
        assert_eq!(classify(b"#!/bin/sh\n"), Err(NotRunnable::NotWasm));
        assert_eq!(
            classify(b"\x7fELF\x02\x01\x01\0\0"),
            Err(NotRunnable::NotWasm)
        );
        assert_eq!(classify(b"  (module)"), Err(NotRunnable::Text));
        assert_eq!(classify(b"\0asm\x01"), Err(NotRunnable::Truncated(5)));
        assert!(matches!(
            classify(b"\0asm\x02\0\0\0"),
            Err(NotRunnable::Malformed(_))
        ));
        assert!(matches!(
            classify(b"\0asm\x01\0\0\0\xff\x01\0"),
            Err(NotRunnable::Malformed(_))
        ));
    }

    #[test]
    fn precompiled_code_is_refused_by_name() {
        let engine =
            wasmtime::Engine::new(&crate::configuration(crate::Compilation::default())).unwrap();
        for artifact in [
            engine.precompile_module(&module()).unwrap(),
            engine.precompile_component(&component()).unwrap(),
        ] {
            assert_eq!(classify(&artifact), Err(NotRunnable::Precompiled));
            assert!(is_precompiled(&artifact[..9]));
            assert!(wasmtime::Engine::detect_precompiled(&artifact).is_some());
        }
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_precompiled(&own));
    }

    #[test]
    fn a_function_without_its_body_is_truncated() {
        let whole = module();
        let code_section = whole
            .windows(2)
            .rposition(|window| window[0] == 10)
            .unwrap();
        assert_eq!(
            classify(&whole[..code_section]),
            Err(NotRunnable::Truncated(code_section))
        );
    }

    /// A cut at the end of a section leaves a frame that is complete, but no longer the same
    /// program: it has lost its functions or its exports, which `Program::load` notices.
    fn cut_is_noticed(whole: &[u8], length: usize) -> Result<(), TestCaseError> {
        let cut = &whole[..length];
        match classify(cut) {
            Err(_) => {}
            Ok(_) => prop_assert!(
                wasmparser::Validator::new().validate_all(cut).is_ok(),
                "a cut at {length} passed, and is no valid binary"
            ),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = classify(&bytes);
            let _ = is_wasm(&bytes);
            let _ = is_precompiled(&bytes);
        }

        #[test]
        fn arbitrary_sections_never_panic(
            component in any::<bool>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..512),
        ) {
            let header = if component { COMPONENT_HEADER } else { MODULE_HEADER };
            let _ = classify(&[&header[..], &bytes].concat());
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0..1000usize, value in any::<u8>()) {
            for mut bytes in [module(), component()] {
                let at = at % bytes.len();
                bytes[at] = value;
                let _ = classify(&bytes);
            }
        }

        #[test]
        fn a_cut_is_noticed(at in 0..10_000usize) {
            let whole = module();
            cut_is_noticed(&whole, at % whole.len())?;
            let whole = component();
            cut_is_noticed(&whole, at % whole.len())?;
        }
    }
}
