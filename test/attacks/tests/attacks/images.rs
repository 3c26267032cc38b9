//! Hostile images and pod specs: forged code, entrypoints and working directories that lead out of the
//! container, annotations and ids.

mod annotations;
mod entrypoints;
mod precompiled;
mod unreadable;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lighter_testkit::guest;
use lighter_testkit::shim::{Shim, eventually};

/// A directory of the host that no container may read, run or change. Its program exits with the
/// status that its argument names, and its secret can be told from all else.
struct Canary {
    dir: tempfile::TempDir,
    before: BTreeMap<PathBuf, (Vec<u8>, u32, i64, u64)>,
}

const SECRET: &str = "secret-of-the-host";

impl Canary {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(guest("exit"), dir.path().join("host.wasm")).unwrap();
        fs::copy("/bin/busybox", dir.path().join("tool")).unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        let before = contents(dir.path());
        Self { dir, before }
    }

    /// Its path on the host.
    fn path(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// Its path by way of `..` from anywhere.
    fn climbing(&self) -> String {
        format!("{}{}", "../".repeat(30), &self.path()[1..])
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        assert!(contents(self.dir.path()) == self.before, "the host changed");
    }
}

/// All below a directory: bytes, mode, modification time and size.
fn contents(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, i64, u64)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(contents(&path));
        }
        let bytes = fs::read(&path).unwrap_or_default();
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        found.insert(path, (bytes, metadata.mode(), metadata.mtime_nsec(), size));
    }
    found
}

/// Demands that a refusal blames the image or the spec, and not the node, for which containerd
/// would try again.
#[track_caller]
fn assert_blames_the_caller(what: &str, error: &str) {
    // A name of nothing may be that of a Wasm layer, of which containerd knows: here is none to ask.
    let is_undecided = error.contains("containerd, asked at /nowhere, cannot be reached");
    assert!(
        is_undecided || error.contains("INVALID_ARGUMENT"),
        "{what}: {error}"
    );
}

/// Demands that nothing is there of containers that were refused or deleted.
#[track_caller]
fn assert_nothing_left(shim: &Shim) {
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
    // An operation has answered a moment before it has ended.
    eventually("the shim has no child", || shim.children().is_empty());
    assert!(shim.is_running());
}
