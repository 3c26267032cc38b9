//! The cgroup file systems of this machine: v1, v2, or both (hybrid).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Whether it is the unified one (v2).
    pub unified: bool,
    /// Its controllers, as the mount's options name them; empty for the unified one.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// All hierarchies that are mounted.
    pub fn all() -> Vec<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        mounts
            .lines()
            .filter_map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let [_, mount, kind @ ("cgroup" | "cgroup2"), options, ..] = fields[..] else {
                    return None;
                };
                let unified = kind == "cgroup2";
                let controllers = options
                    .split(',')
                    .filter(|option| !unified && !["rw", "relatime"].contains(option))
                    .map(str::to_owned)
                    .collect();
                Some(Self {
                    mount: PathBuf::from(mount),
                    unified,
                    controllers,
                })
            })
            .collect()
    }
}

/// The cgroups below a top-level cgroup of this name, in all hierarchies; not that one itself.
pub(crate) fn below(name: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for hierarchy in Hierarchy::all() {
        collect(&hierarchy.mount.join(name), &mut found);
    }
    found
}

/// Removes the cgroups of this name with all below it. Those with processes in them stay.
pub(crate) fn remove(name: &str) {
    // A path sorts before what is below it, so the reverse order removes the leaves first.
    for path in below(name).iter().rev() {
        let _ = fs::remove_dir(path);
    }
    for hierarchy in Hierarchy::all() {
        let _ = fs::remove_dir(hierarchy.mount.join(name));
    }
}

fn collect(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
            found.insert(entry.path());
        }
    }
}
