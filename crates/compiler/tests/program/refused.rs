//! What cannot run is refused before anything runs, with its cause.

use lighter_wasm::{Compilation, configuration};
use wasmtime::Engine;

use crate::guests::HELLO;
use crate::process::{NOT_LOADED, Node, Outcome};

crate::tests![
    what_is_not_wasm_is_refused,
    a_truncated_module_is_refused,
    a_malformed_function_is_refused,
    precompiled_code_is_refused_by_name,
    missing_imports_are_named,
    a_folder_is_refused,
];

fn refusal(outcome: Outcome) -> String {
    assert_eq!(outcome.status, NOT_LOADED, "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
    let lines = outcome.stderr.lines().count();
    assert_eq!(lines, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("app.wasm"), "{}", outcome.stderr);
    outcome.stderr
}

fn what_is_not_wasm_is_refused() {
    let node = Node::new();
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01\0\0"] {
        let error = refusal(node.program(bytes).run());
        assert!(error.contains("is not a Wasm binary"), "{error}");
    }
    let error = refusal(node.program(b"(module)").run());
    assert!(error.contains("WebAssembly text"), "{error}");
}

fn a_truncated_module_is_refused() {
    let node = Node::new();
    let whole = wat::parse_str(HELLO).unwrap();
    // Cut where a section ends that the others do not need, it is a complete binary still:
    // here before the data and before the names. Anywhere else it is refused.
    let complete = (4..whole.len())
        .filter(|length| {
            let outcome = node.program(&whole[..*length]).run();
            outcome.status == 0 || refusal(outcome).is_empty()
        })
        .count();
    assert_eq!(complete, 2);
    let error = refusal(node.program(&whole[..whole.len() - 1]).run());
    assert!(error.contains("truncated"), "{error}");
}

fn a_malformed_function_is_refused() {
    let mut bytes = wat::parse_str(r#"(module (func (export "_start") nop nop nop))"#).unwrap();
    let nop = bytes.windows(3).position(|bytes| bytes == [1, 1, 1]);
    bytes[nop.unwrap()] = 0xff;
    let node = Node::new();
    let error = refusal(node.program(&bytes).run());
    assert!(error.contains("cannot be compiled"), "{error}");
    assert!(error.contains("0xff"), "{error}");
    for part in ["code", "sources", "work"] {
        let left = std::fs::read_dir(node.cache().join(part)).unwrap().count();
        assert_eq!(left, 0, "{part}");
    }
}

fn precompiled_code_is_refused_by_name() {
    // Of the very engine that runs guests: Wasmtime itself would accept it.
    let engine = Engine::new(&configuration(Compilation::default())).unwrap();
    let artifact = engine
        .precompile_module(&wat::parse_str(HELLO).unwrap())
        .unwrap();
    let error = refusal(Node::new().program(&artifact).run());
    assert!(
        error.contains("is a precompiled Wasmtime artifact"),
        "{error}"
    );
}

fn missing_imports_are_named() {
    let node = Node::new();
    let text = r#"(module
        (import "env" "one" (func))
        (import "wasi_snapshot_preview1" "no_such" (func))
        (func (export "_start")))"#;
    let error = refusal(node.text(text).run());
    assert!(error.contains("`env::one`"), "{error}");
    assert!(
        error.contains("`wasi_snapshot_preview1::no_such`"),
        "{error}"
    );
    let text = r#"(component (import "acme:thing/store" (instance (export "get" (func)))))"#;
    let error = refusal(node.text(text).run());
    assert!(error.contains("acme:thing/store"), "{error}");
}

fn a_folder_is_refused() {
    let node = Node::new();
    let mut program = node.program(b"");
    program.file = node.folder.path().join("app.wasm.d");
    std::fs::create_dir(&program.file).unwrap();
    let error = refusal(program.run());
    assert!(error.contains("regular file"), "{error}");
}
