//! The compiler is linked into this crate's program and nowhere else.

use std::process::Command;

/// Whether `package`, built by itself, contains Cranelift.
fn contains_cranelift(package: &str) -> bool {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", package])
        .args(["-e", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("wasmtime v"), "{package} has no Wasmtime");
    tree.lines()
        .any(|line| line.starts_with("cranelift-codegen "))
}

#[test]
fn the_shim_contains_no_compiler() {
    assert!(!contains_cranelift("lighter-shim"));
}

#[test]
fn the_compile_worker_contains_one() {
    assert!(contains_cranelift("lighter-compiler"));
}
