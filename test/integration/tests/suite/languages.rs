//! One test behind each cell of the table in docs/guides/languages.md.

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

/// Runs a program in /work/in, and in none, with a relative and an absolute path of files.
fn working_directory(name: &str, prefix: impl Fn(&str) -> String) {
    let image = Image::wasm(name)
        .file("/work/in/relative.txt", "in the directory\n", 0o644)
        .file("/work/inner/absolute.txt", "beside it\n", 0o644);
    let containerd = containerd_with(&image);
    let program = format!("/{name}.wasm");
    let run = |cwd: &str, paths: &[&str]| {
        containerd
            .run(&image)
            .flags(["--cwd", cwd])
            .arguments([&[program.as_str()], paths].concat())
            .output()
            .ok()
    };
    assert_eq!(
        run("/work/in", &["relative.txt", "inner.txt"]),
        prefix("/work/in") + "in the directory\nnone\n"
    );
    assert_eq!(
        run("/", &["work/in/relative.txt"]),
        prefix("/") + "in the directory\n"
    );
}

#[test]
fn go_has_the_working_directory() {
    let cwd = |cwd: &str| format!("cwd: {cwd}\n");
    working_directory("where-go", cwd);
    // Paths that begin as the directory does, but are not in it.
    let image = Image::wasm("where-go")
        .file("/work/in/relative.txt", "", 0o644)
        .file("/work/inner/absolute.txt", "beside it\n", 0o644)
        .file("/etc/name", "elsewhere\n", 0o644);
    let paths = [
        "/work/inner/absolute.txt",
        "../inner/absolute.txt",
        "/etc/name",
    ];
    let output = containerd_with(&image)
        .run(&image)
        .flags(["--cwd", "/work/in"])
        .arguments([&["/where-go.wasm"], paths.as_slice()].concat())
        .output();
    assert_eq!(
        output.ok(),
        cwd("/work/in") + "beside it\nbeside it\nelsewhere\n"
    );
}

#[test]
fn zig_has_the_working_directory() {
    working_directory("where-zig", |_| String::new());
}

/// The others print the file that their first argument names, among other things.
#[test]
fn all_languages_have_the_working_directory() {
    for (name, arguments) in [
        ("files", ["read", "here.txt"].as_slice()),
        ("files-component", &["read", "here.txt"]),
        ("hello-go", &["here.txt"]),
        ("python-cli", &["here.txt"]),
        ("js-cli", &["here.txt"]),
    ] {
        let image = Image::wasm(name).file("/work/in/here.txt", "found it\n", 0o644);
        let program = format!("/{name}.wasm");
        let output = containerd_with(&image)
            .run(&image)
            .flags(["--cwd", "/work/in"])
            .arguments([&[program.as_str()], arguments].concat())
            .output();
        let printed = output.ok();
        assert!(printed.contains("found it"), "{name}: {printed}");
    }
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
