//! What has to hold of [`lighter_wasm::classify`], whatever the bytes are.

use lighter_wasm::{NotRunnable, World, inspect, is_wasm};
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use crate::allocation::bounded;

/// Each import is two strings, for which four bytes are enough.
const FACTOR: usize = 64;

/// Bytes of names that imports may have in all. One name of a module may stand for many imports,
/// so that they are more than the binary has.
const MAX_NAMES: usize = 16 << 20;

/// Classifies `bytes`, and compares with Wasmtime's validator.
pub fn check(bytes: &[u8]) {
    let shared_names = (bytes.len() * bytes.len() / 4).min(MAX_NAMES);
    let most = bytes.len() + shared_names / FACTOR;
    let verdict = bounded(most, FACTOR, || inspect(bytes));
    match &verdict {
        Ok((world, interface)) => {
            assert!(is_wasm(bytes));
            assert_eq!(*world == World::Module, is_module(bytes));
            assert!(*world != World::Module || interface.exports.is_empty());
            let imports = interface.imports.iter();
            let names: usize = imports
                .map(|(module, name)| module.len() + name.len())
                .sum();
            assert!(interface.imports.len() <= 100_000 && names <= MAX_NAMES);
        }
        Err(error) => {
            let refused_for_its_frame = matches!(
                error,
                NotRunnable::NotWasm | NotRunnable::Truncated(_) | NotRunnable::Malformed(_)
            );
            assert!(
                !refused_for_its_frame || !is_valid(bytes),
                "valid, and {error}"
            );
        }
    }
}

/// Whether it is a valid module or component, with every proposal that there is.
pub fn is_valid(bytes: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all())
        .validate_all(bytes)
        .is_ok()
}

fn is_module(bytes: &[u8]) -> bool {
    let first = Parser::new(0).parse_all(bytes).next();
    matches!(
        first,
        Some(Ok(Payload::Version {
            encoding: Encoding::Module,
            ..
        }))
    )
}
