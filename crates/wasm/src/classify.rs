//! Decides what a file is before anything else looks at it. Pure: bytes in, verdict out.
//!
//! It reads the frame of a binary (header, section lengths, nested modules) and skips the
//! contents. The compile worker validates those, in a process where a flaw of the
//! validator or compiler does little harm.

use std::fmt;

use wasmparser::{Chunk, Parser, Payload};

/// What a Wasm binary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A core module; runs as a WASI preview 1 command.
    Module,
    /// A component; runs when it exports `wasi:cli/run`.
    Component,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Module => "module",
            Self::Component => "component",
        })
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
    /// The frame of the file is damaged or of a version that is not known.
    #[error("is malformed: {0}")]
    Malformed(String),
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

/// What a well-formed binary with this header is, without a look at the rest.
#[cfg(feature = "run")]
pub(crate) fn kind_of_header(first_bytes: &[u8]) -> Option<Kind> {
    if first_bytes.starts_with(&MODULE_HEADER) {
        Some(Kind::Module)
    } else if first_bytes.starts_with(&COMPONENT_HEADER) {
        Some(Kind::Component)
    } else {
        None
    }
}

/// Decides what the whole file `bytes` is.
///
/// # Errors
/// [`NotRunnable`] for everything that is not the complete frame of a module or component.
pub fn classify(bytes: &[u8]) -> Result<Kind, NotRunnable> {
    if is_precompiled(bytes) {
        return Err(NotRunnable::Precompiled);
    }
    if is_text(bytes) {
        return Err(NotRunnable::Text);
    }
    if !is_wasm(bytes) {
        return Err(NotRunnable::NotWasm);
    }
    let kind = match bytes.get(..MODULE_HEADER.len()) {
        None => return Err(NotRunnable::Truncated(bytes.len())),
        Some(header) if header == MODULE_HEADER => Kind::Module,
        Some(header) if header == COMPONENT_HEADER => Kind::Component,
        Some(header) => {
            return Err(NotRunnable::Malformed(format!(
                "unknown version {:02x?} after \\0asm",
                &header[MAGIC.len()..]
            )));
        }
    };
    walk(bytes)?;
    Ok(kind)
}

fn is_text(bytes: &[u8]) -> bool {
    let start = bytes.trim_ascii_start();
    start.starts_with(b"(module") || start.starts_with(b"(component")
}

/// One binary of the nest that is being read: a component holds modules and components.
struct Open {
    parser: Parser,
    declared_functions: u32,
    function_bodies: u32,
}

impl Open {
    fn new(parser: Parser) -> Self {
        Self {
            parser,
            declared_functions: 0,
            function_bodies: 0,
        }
    }
}

/// Goes through all sections, so that a file that ends too early is found here.
fn walk(bytes: &[u8]) -> Result<(), NotRunnable> {
    let truncated = || NotRunnable::Truncated(bytes.len());
    let mut rest = bytes;
    let mut outer: Vec<Open> = Vec::new();
    let mut current = Open::new(Parser::new(0));
    loop {
        let at_end = rest.is_empty();
        let (payload, consumed) = match current.parser.parse(rest, at_end) {
            Ok(Chunk::Parsed { payload, consumed }) => (payload, consumed),
            Ok(Chunk::NeedMoreData(_)) => return Err(truncated()),
            Err(_) if at_end => return Err(truncated()),
            Err(error) => return Err(NotRunnable::Malformed(error.to_string())),
        };
        rest = &rest[consumed..];
        match payload {
            Payload::FunctionSection(section) => current.declared_functions = section.count(),
            Payload::CodeSectionStart { count, .. } => current.function_bodies = count,
            Payload::ModuleSection { parser, .. } | Payload::ComponentSection { parser, .. } => {
                outer.push(std::mem::replace(&mut current, Open::new(parser)));
            }
            Payload::End(_) => {
                if current.declared_functions > 0 && current.function_bodies == 0 {
                    return Err(truncated());
                }
                match outer.pop() {
                    Some(parent) => current = parent,
                    None => return Ok(()),
                }
            }
            _ => {}
        }
    }
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
        assert_eq!(classify(&module()), Ok(Kind::Module));
        assert_eq!(classify(&component()), Ok(Kind::Component));
        assert_eq!(classify(b"\0asm\x01\0\0\0"), Ok(Kind::Module));
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
        let engine = wasmtime::Engine::new(&crate::configuration()).unwrap();
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
