//! The binary as containerd calls it, without a containerd.

use std::fs;
use std::process::{Command, Output, Stdio};

use lighter_testkit::{Containerd, Image, Version, shim_binary};

use crate::shims;

fn shim(arguments: &[&str]) -> Output {
    Command::new(shim_binary())
        .args(arguments)
        .stdin(Stdio::null())
        .env_clear()
        .output()
        .unwrap()
}

#[test]
fn the_version_needs_nothing() {
    let output = shim(&["-v"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("containerd-shim-wasmtime-v1") && text.contains("Version:"),
        "{text}"
    );
}

/// containerd 2 asks each runtime for its features.
#[test]
fn the_info_needs_no_namespace_and_no_daemon() {
    let output = shim(&["-info"]);
    assert!(output.status.success());
    let bytes = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(bytes.contains("io.containerd.wasmtime.v1"), "{bytes}");
    assert!(bytes.contains("ociVersionMax"), "{bytes}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn wrong_calls_say_what_is_right() {
    for (arguments, text) in [
        (&["-frobnicate"][..], "usage"),
        (&[], "no action"),
        (
            &["-namespace", "default", "-id", "../../etc", "delete"],
            "invalid container id",
        ),
        (
            &["-namespace", "a/b", "-id", "x", "start"],
            "invalid container id",
        ),
    ] {
        let output = shim(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
}

/// containerd calls delete after each normal delete too: there is nothing left to do then.
#[test]
fn deleting_what_is_not_there_is_no_error() {
    let folder = std::env::temp_dir().join(format!("lighter-bundle-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let bundle = folder.to_str().unwrap();
    let output = shim(&[
        "-namespace",
        "lighter-none",
        "-id",
        "gone",
        "-bundle",
        bundle,
        "delete",
    ]);
    fs::remove_dir_all(&folder).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!output.stdout.is_empty(), "a DeleteResponse");
    assert_eq!(output.stderr, b"");
}

/// Architecture: Cranelift is in the compile worker and nowhere else, and the shim is static.
#[test]
fn the_shim_is_static_and_smaller_than_its_peer() {
    let binary = fs::read(shim_binary()).unwrap();
    assert!(binary.len() < 32 << 20, "{} bytes", binary.len());
    // Program headers (elf(5)): a dynamic program names its loader in one of type 3.
    let number = |at: usize, length: usize| {
        binary[at..at + length]
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<usize> = (0..count)
        .map(|entry| number(table + entry * size, 4))
        .collect();
    assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
    let text = String::from_utf8_lossy(&binary);
    assert!(
        !text.contains("cranelift-codegen"),
        "the shim contains Cranelift"
    );
}

/// A second container of a pod is served by the first one's shim.
#[test]
fn containers_of_one_pod_share_a_shim() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::busybox();
    containerd.import(&image);
    let group = ["--annotation", "io.kubernetes.cri.sandbox-id=pod-1"];
    let start = || {
        containerd
            .run(&image)
            .flags(group)
            .arguments(["sleep", "100"])
            .detach()
    };
    let leaks = containerd.leaks();
    let (first, second) = (start(), start());
    let together = shims(&containerd).len();
    let alone = containerd.run(&image).arguments(["sleep", "100"]).detach();
    let apart = shims(&containerd).len();
    for id in [first, second, alone] {
        containerd.remove(&id);
    }
    assert_eq!((together, apart), (1, 2));
    leaks.assert_none_since();
}
