//! Wrong images and requests: `ctr run` prints the cause, and the next container runs.

use std::fs;
use std::process::Command;

use lighter_testkit::{Containerd, Image, WASMTIME, guest, shim_folder};

use crate::containerd_with;

/// Runs it, demands that the error has all of `texts`, and that a good container runs after it
/// with nothing left of the bad one.
fn refused(containerd: &Containerd, image: &Image, arguments: &[&str], texts: &[&str]) {
    let leaks = containerd.leaks();
    containerd
        .run(image)
        .arguments(arguments)
        .output()
        .fails_with(texts);
    leaks.assert_none_since();
    let stdout = containerd
        .run(image)
        .arguments(["/hello.wasm"])
        .output()
        .ok();
    assert_eq!(stdout, "Hello from Wasm\n");
}

#[test]
fn entrypoints_that_cannot_run_are_named_with_their_cause() {
    let component = fs::read(guest("hello-component")).unwrap();
    let image = Image::wasm("hello")
        .guest("/text.wasm", "not-wasm")
        .guest("/truncated.wasm", "truncated")
        .guest("/imports.wasm", "imports-unknown")
        .guest("/multi.wasm", "multi-export")
        .file(
            "/half-component.wasm",
            &component[..component.len() / 2],
            0o755,
        )
        .file(
            "/garbage.wasm",
            [b"\0asm\x01\0\0\0".as_slice(), &[0xff; 64]].concat(),
            0o755,
        )
        .file("/empty", "", 0o755)
        .folder("/folder", 0o755, (0, 0))
        .symlink("/outside", "../../../../../../etc/shadow")
        .symlink("/loop", "/loop");
    let containerd = containerd_with(&image);
    let refused =
        |arguments: &[&str], texts: &[&str]| refused(&containerd, &image, arguments, texts);
    refused(
        &["/missing.wasm"],
        &["/missing.wasm", "no such file or directory"],
    );
    refused(
        &["missing"],
        &["missing", "executable file not found in $PATH"],
    );
    refused(&["/text.wasm"], &["/text.wasm", "neither Wasm nor an ELF"]);
    refused(&["/empty"], &["/empty", "neither Wasm nor an ELF"]);
    refused(&["/folder"], &["/folder", "not a regular file"]);
    refused(&["/truncated.wasm"], &["/truncated.wasm"]);
    refused(&["/half-component.wasm"], &["/half-component.wasm"]);
    refused(&["/garbage.wasm"], &["/garbage.wasm"]);
    refused(&["/imports.wasm"], &["/imports.wasm", "env", "frobnicate"]);
    refused(&["/multi.wasm#nothing"], &["nothing", "/multi.wasm"]);
    refused(&["/multi.wasm#number"], &["number", "/multi.wasm"]);
    refused(&["/loop"], &["/loop"]);
    // Inside of the container the link leads to its own /etc/shadow, which is not there.
    refused(&["/outside"], &["/outside", "no such file or directory"]);
    refused(
        &["/../../../../../../../bin/true"],
        &["no such file or directory"],
    );
}

/// Invariant 1: code that this node did not compile is never run.
#[test]
fn a_precompiled_artifact_is_refused_by_name() {
    let folder = std::env::temp_dir().join(format!("lighter-artifact-{}", std::process::id()));
    let artifact = fs::File::create(&folder).unwrap();
    let status = Command::new(shim_folder().join("lighter-compiler"))
        .stdin(fs::File::open(guest("hello")).unwrap())
        .stdout(artifact)
        .status()
        .unwrap();
    assert!(status.success());
    let image = Image::wasm("hello").file("/app.cwasm", fs::read(&folder).unwrap(), 0o755);
    fs::remove_file(&folder).unwrap();
    let containerd = containerd_with(&image);
    refused(
        &containerd,
        &image,
        &["/app.cwasm"],
        &["/app.cwasm", "compiled ahead of time", ".wasm"],
    );
}

#[test]
fn a_user_who_may_not_read_the_module_may_not_run_it() {
    let module = fs::read(guest("hello")).unwrap();
    let image = Image::wasm("hello").file_of("/private.wasm", module, 0o700, (0, 0));
    let containerd = containerd_with(&image);
    containerd
        .run(&image)
        .flags(["--user", "1000:1000"])
        .arguments(["/private.wasm"])
        .output()
        .fails_with(&["/private.wasm", "permission denied"]);
}

#[test]
fn a_malformed_or_incomplete_spec_is_refused() {
    let image = Image::wasm("hello");
    let containerd = containerd_with(&image);
    let config = containerd.folder().join("config.json");
    for (text, expected) in [
        (
            "{ \"ociVersion\": \"1.0.2\", \"process\": 7 }",
            "config.json",
        ),
        (
            "{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"rootfs\"},\"linux\":{}}",
            "process",
        ),
    ] {
        fs::write(&config, text).unwrap();
        let id = containerd.next_id();
        let output = containerd
            .ctr([
                "run",
                "--rm",
                "--runtime",
                WASMTIME,
                "--config",
                config.to_str().unwrap(),
                &id,
            ])
            .output();
        assert_ne!(output.code(), 0, "{text}");
        assert!(
            output.stderr.contains(expected),
            "{expected} in {}",
            output.stderr
        );
    }
    assert_eq!(containerd.run(&image).output().ok(), "Hello from Wasm\n");
}

#[test]
fn unknown_annotations_change_nothing() {
    let image = Image::wasm("hello");
    let containerd = containerd_with(&image);
    let stdout = containerd
        .run(&image)
        .flags(["--annotation", "run.oci.handler=never-heard-of"])
        .flags(["--annotation", "io.containerd.wasmtime.v1.nonsense=1"])
        .output()
        .ok();
    assert_eq!(stdout, "Hello from Wasm\n");
}
