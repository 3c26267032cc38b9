//! The class of each failure to compile, which containerd acts on.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use lighter_core::ErrorClass;
use lighter_wasm::{ArtifactCache, CacheError, CacheLimits};
use nix::sched::{CloneFlags, unshare};

use crate::cache_bounds::{as_command, cache, long, usual};
use crate::guests::HELLO;
use crate::process::Node;

crate::tests![
    each_failure_has_its_class,
    a_full_disk_is_no_fault_of_the_program,
];

fn precompiled(node: &Node, cache: &ArtifactCache, wasm: &[u8]) -> Result<(), CacheError> {
    let path = node.folder.path().join("app.wasm");
    fs::write(&path, wasm).unwrap();
    let file = File::open(&path).unwrap();
    cache.precompile(file, &as_command).map(drop)
}

fn each_failure_has_its_class() {
    let node = Node::new();
    let hello = wat::parse_str(HELLO).unwrap();
    let little = CacheLimits {
        memory: 48 << 20,
        ..CacheLimits::default()
    };
    let other = node.folder.path().join("other");
    fs::write(&other, "#!/bin/sh\necho a release >&2\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    let by = |compiler| ArtifactCache::new(node.cache(), compiler);
    let large = wat::parse_str(long(64 << 20)).unwrap();
    for (cache, wasm, class) in [
        (
            usual(&node),
            b"no Wasm".as_slice(),
            ErrorClass::InvalidArgument,
        ),
        (usual(&node), &hello[..20], ErrorClass::InvalidArgument),
        (cache(&node, little), &large, ErrorClass::ResourceExhausted),
        (
            by("/no/compiler".into()),
            &hello,
            ErrorClass::FailedPrecondition,
        ),
        (by(other), &hello, ErrorClass::FailedPrecondition),
        (by("/etc/passwd".into()), &hello, ErrorClass::Internal),
    ] {
        // The second time some of them are remembered.
        for _ in 0..2 {
            let error = precompiled(&node, &cache, wasm).unwrap_err();
            assert_eq!(error.class(), class, "{error}");
        }
    }
}

fn a_full_disk_is_no_fault_of_the_program() {
    let node = Node::new();
    let full = usual(&node);
    let module = wat::parse_str(long(2 << 20)).unwrap();
    fs::create_dir(node.cache()).unwrap();
    fs::set_permissions(node.cache(), fs::Permissions::from_mode(0o700)).unwrap();
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).status();
        assert!(status.unwrap().success());
    };
    let error = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            // The thread has mounts of its own, and so have its children.
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(&["--make-rprivate", "/"]);
            let folder = node.cache();
            let options = "size=512k,mode=0700";
            mount(&[
                "-t",
                "tmpfs",
                "-o",
                options,
                "none",
                folder.to_str().unwrap(),
            ]);
            precompiled(&node, &full, &module).unwrap_err()
        });
        alone.join().unwrap()
    });
    assert_eq!(error.class(), ErrorClass::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("No space left"), "{error}");
    // Nothing was remembered: there is room again.
    precompiled(&node, &full, &module).unwrap();
}
