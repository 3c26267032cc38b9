//! Guests: text modules, programs in C, and components made of modules.

use std::path::Path;
use std::process::Command;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::ComponentEncoder;

/// Writes "hello\n" to its stdout and returns.
pub const HELLO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\06\00\00\00")
    (data (i32.const 16) "hello\n")
    (func (export "_start")
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Writes "x" to its stdout and then loops for ever.
pub const BUSY: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write"
        (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00")
    (data (i32.const 16) "x")
    (func (export "_start")
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (loop $again (br $again))))"#;

/// A module whose `_start` is `body`, which may call `$proc_exit`.
pub fn start(body: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
            (memory (export "memory") 1)
            (func $inner {body})
            (func $outer (export "_start") call $inner))"#
    )
}

/// Compiles C for WASI preview 1 with the machine's clang and wasi-libc.
pub fn c(source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("guest.c");
    std::fs::write(&input, source).unwrap();
    let mut command = Command::new("/usr/bin/clang");
    command.args(["--target=wasm32-wasi", "--sysroot=/usr", "-O1"]);
    build(command.arg(&input), folder.path())
}

/// Compiles Rust for WASI preview 1 with the machine's own rustc, which has that target.
pub fn rust(source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("guest.rs");
    std::fs::write(&input, source).unwrap();
    let mut command = Command::new("/usr/bin/rustc");
    command.args(["--target=wasm32-wasi", "--edition=2021", "-Copt-level=s"]);
    build(command.arg(&input), folder.path())
}

fn build(command: &mut Command, folder: &Path) -> Vec<u8> {
    let output = folder.join("guest.wasm");
    let status = command.arg("-o").arg(&output).status().unwrap();
    assert!(status.success(), "{command:?} failed");
    std::fs::read(output).unwrap()
}

/// Makes a component that runs as a command of a module for WASI preview 1.
pub fn component_of(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .unwrap()
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        )
        .unwrap()
        .encode()
        .unwrap()
}
