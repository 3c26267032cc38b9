//! One test behind each cell of the table in docs/LANGUAGES.md.

use lighter_testkit::{Image, Network};

use crate::containerd_with;
use lighter_testkit::shim::eventually;

/// Runs a command that prints a greeting, its arguments, a variable and a file.
fn command(name: &str, greeting: &str) {
    let image = Image::wasm(name).file("/data.txt", "contents of a file\n", 0o644);
    let containerd = containerd_with(&image);
    let program = format!("/{name}.wasm");
    let output = containerd
        .run(&image)
        .flags(["--env", "GREETING=value"])
        .arguments([program.as_str(), "/data.txt"])
        .output();
    let printed = output.ok();
    assert!(printed.contains(greeting), "{printed}");
    for part in ["GREETING: value", "contents of a file"] {
        assert!(printed.contains(part), "{printed}");
    }
}

/// Serves a component, and once more, when nothing is left to compile.
fn service(name: &str, greeting: &str) {
    let image = Image::wasm(name);
    let containerd = containerd_with(&image);
    for _ in 0..2 {
        let network = Network::new();
        let id = containerd.run(&image).flags(network.flags()).detach();
        eventually("the service answers", || {
            network.curl(["http://127.0.0.1:8080/"]).output().stdout == greeting
        });
        containerd.remove(&id);
    }
}

#[test]
fn rust_command() {
    for name in ["hello", "hello-component"] {
        let image = Image::wasm(name);
        let output = containerd_with(&image).run(&image).output();
        assert_eq!(output.ok(), "Hello from Wasm\n");
    }
}

#[test]
fn c_command() {
    let image = Image::wasm("hello-c");
    let output = containerd_with(&image).run(&image).output();
    assert_eq!(output.ok(), "Hello from Wasm\n");
}

#[test]
fn c_service() {
    service("http-hello", "Hello from Wasm\n");
}

#[test]
fn go_command() {
    command("hello-go", "Hello from Go");
}

#[test]
fn python_command() {
    command("python-cli", "Hello from Python");
}

#[test]
fn python_service() {
    service("http-python", "Hello from Python\n");
}

#[test]
fn javascript_command() {
    command("js-cli", "Hello from JavaScript");
}

#[test]
fn javascript_service() {
    service("http-js", "Hello from JavaScript\n");
}

#[test]
fn rust_service() {
    service("http-rust", "Hello from Rust\n");
}
