//! Where things are: the cache, the built binaries, the unpacked daemons.

use std::env;
use std::path::{Path, PathBuf};

/// The repository's root folder.
pub(crate) fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .expect("crates/testkit is two folders deep")
        .to_path_buf()
}

/// The folder that the set-up scripts fill: `$LIGHTER_CACHE`, else `lighter` below
/// `$XDG_CACHE_HOME`, else below `$HOME/.cache`.
pub fn cache() -> PathBuf {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("LIGHTER_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("lighter")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/lighter")))
        .expect("set LIGHTER_CACHE, XDG_CACHE_HOME or HOME: the daemons and guests are there")
}

/// The folder with `containerd-shim-wasmtime-v1` and the compile worker: `$LIGHTER_BIN`, else
/// `target/dist` of the repository. It is first in the PATH of each daemon.
pub fn shim_folder() -> PathBuf {
    match env::var_os("LIGHTER_BIN").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => repository().join("target/dist"),
    }
}

/// The shim's binary.
///
/// # Panics
/// When it has not been built.
pub fn shim_binary() -> PathBuf {
    built("containerd-shim-wasmtime-v1")
}

/// The program `lighter`.
///
/// # Panics
/// When it has not been built.
pub fn node_tool() -> PathBuf {
    built("lighter")
}

fn built(name: &str) -> PathBuf {
    let binary = shim_folder().join(name);
    assert!(
        binary.is_file(),
        "{} does not exist: run `make build`, or set LIGHTER_BIN to the folder that has it",
        binary.display()
    );
    binary
}

/// The newest unpacked daemon whose folder's name starts with one of `prefixes`.
pub(crate) fn daemon(prefixes: &[&str]) -> PathBuf {
    let folder = cache().join("daemons");
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let matches = prefixes.iter().any(|prefix| name.starts_with(prefix));
            (matches && entry.path().join(".complete").exists())
                .then(|| (numbers(&name), entry.path()))
        })
        .collect();
    found.sort();
    let Some((_, newest)) = found.pop() else {
        panic!(
            "no {} in {}: run test/setup/daemons.sh",
            prefixes.join(" or "),
            folder.display()
        );
    };
    newest
}

/// The numbers in a version, so that 2.10 sorts after 2.9.
fn numbers(name: &str) -> Vec<u32> {
    name.split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}
