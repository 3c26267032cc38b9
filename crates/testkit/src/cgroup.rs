//! The cgroup file systems of this machine: v1, v2, or both (hybrid).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Who makes the cgroups of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The runtime: the container `ID` has the cgroup `/NAMESPACE/ID`.
    Cgroupfs,
    /// systemd: it is a scope in a slice of the namespace's own.
    Systemd,
}

impl Driver {
    /// The one that tests ask for: `$LIGHTER_CGROUP_DRIVER`, else cgroupfs.
    ///
    /// # Panics
    /// When it names another one.
    pub fn of_tests() -> Self {
        match env::var("LIGHTER_CGROUP_DRIVER").as_deref() {
            Ok("systemd") => Self::Systemd,
            Ok("cgroupfs" | "") | Err(_) => Self::Cgroupfs,
            Ok(other) => panic!("LIGHTER_CGROUP_DRIVER is cgroupfs or systemd, not {other}"),
        }
    }

    /// What the spec of a container has as `cgroupsPath`.
    pub fn path(self, namespace: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs => format!("/{namespace}/{id}"),
            // The name of a unit is systemd's only one, whatever slice it is in.
            Self::Systemd => format!("{}:{namespace}:{id}", self.top(namespace)),
        }
    }

    /// The cgroup of a container, below a hierarchy's root.
    pub fn folder(self, namespace: &str, id: &str) -> PathBuf {
        let name = match self {
            Self::Cgroupfs => id.to_owned(),
            Self::Systemd => format!("{namespace}-{id}.scope"),
        };
        Path::new(&self.top(namespace)).join(name)
    }

    /// The cgroup of all containers of a namespace, below a hierarchy's root.
    pub fn top(self, namespace: &str) -> String {
        match self {
            Self::Cgroupfs => namespace.to_owned(),
            // A dash would make it a slice in a slice.
            Self::Systemd => format!("{}.slice", namespace.replace('-', "_")),
        }
    }

    /// Removes the cgroup of all containers of a namespace. What has processes in it stays.
    pub fn remove_top(self, namespace: &str) {
        let top = self.top(namespace);
        match self {
            Self::Cgroupfs => remove(&top),
            // As a kubelet does with the slices of pods.
            Self::Systemd => drop(Command::new("systemctl").args(["stop", &top]).output()),
        }
    }
}

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
fn remove(name: &str) {
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
