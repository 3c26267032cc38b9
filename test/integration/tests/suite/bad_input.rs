//! Wrong images and requests: `ctr run` prints the cause, and the next container runs.

use std::fs;
use std::process::Command;

use lighter_testkit::{Containerd, Image, guest, shim_folder};

use crate::containerd_with;
use lighter_testkit::shim::Shim;

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
        // Bytes of memory, seconds, bytes of the artifact.
        .args(["command", "1073741824", "60", "1073741824"])
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
        // With these it may, as for execve.
        .flags([
            "--cap-drop",
            "CAP_DAC_OVERRIDE",
            "--cap-drop",
            "CAP_DAC_READ_SEARCH",
        ])
        .flags(["--user", "1000:1000"])
        .arguments(["/private.wasm"])
        .output()
        .fails_with(&["/private.wasm", "permission denied"]);
}

/// `ctr` refuses to send such a spec, so the shim is asked directly.
#[test]
fn a_malformed_or_incomplete_spec_is_refused() {
    let shim = Shim::start();
    let good = shim.spec("spec", &["/hello.wasm"]);
    let without = |member: &str| {
        let mut spec = good.clone();
        spec.as_object_mut().unwrap().remove(member);
        spec.to_string()
    };
    let mut shared = good.clone();
    shared["linux"]["namespaces"] = serde_json::json!([{ "type": "pid" }]);
    let mut systemd = good.clone();
    systemd["linux"]["cgroupsPath"] = "system.slice:prefix:name".into();
    for (text, expected) in [
        ("{ \"process\": 7 }".to_owned(), "config.json"),
        ("not json".to_owned(), "config.json"),
        (String::new(), "config.json"),
        (without("process"), "process.args"),
        (without("root"), "root"),
        (shared.to_string(), "mount namespace of its own"),
        (systemd.to_string(), "systemd cgroup driver"),
    ] {
        let error = shim.create_from("spec", &text).unwrap_err();
        assert!(error.contains(expected), "{expected} in {error}");
        assert_eq!(shim.leftovers(), Vec::<std::path::PathBuf>::new());
    }
    shim.create("spec", &good).unwrap();
    shim.start_task("spec").unwrap();
    assert_eq!(shim.wait("spec"), 0);
    shim.delete("spec").unwrap();
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
