//! The assertion that nothing is left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::processes::Process;
use crate::sandbox::Scope;

/// How long things may take to vanish: a shim ends after it has answered.
const LIMIT: Duration = Duration::from_secs(5);

/// Folder of shims' sockets, shared by all daemons of a machine.
const SOCKET_FOLDER: &str = "/run/containerd/s";

/// Daemons themselves; they are replaced when a test restarts them.
const DAEMONS: [&str; 2] = ["containerd", "dockerd"];

/// What there was of a daemon's containers at one moment: processes (shims, containers,
/// zombies of both), mounts, cgroups, bundles, state folders, and sockets of dead shims.
pub struct Leaks {
    scope: Scope,
    before: BTreeSet<String>,
}

impl Leaks {
    /// Counts what there is now.
    pub fn snapshot(scope: &Scope) -> Self {
        Self {
            scope: scope.clone(),
            before: everything(scope),
        }
    }

    /// What has been added since the snapshot and is still there after five seconds, each with
    /// its kind and name.
    pub fn since(&self) -> Vec<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let added: Vec<String> = everything(&self.scope)
                .difference(&self.before)
                .cloned()
                .collect();
            if added.is_empty() || Instant::now() > end {
                return added;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Demands that nothing was added since the snapshot; waits five seconds for it.
    #[track_caller]
    pub fn assert_none_since(&self) {
        let added = self.since();
        assert!(added.is_empty(), "left behind:\n  {}", added.join("\n  "));
    }
}

fn everything(scope: &Scope) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = processes(scope).collect();
    let mut add = |kind: &str, paths: Vec<PathBuf>| {
        found.extend(
            paths
                .iter()
                .map(|path| format!("{kind} {}", path.display())),
        );
    };
    add("mount", scope.mounts());
    add("cgroup", scope.cgroups());
    for folder in scope.state_folders() {
        add("state", entries(&folder));
    }
    for part in ["root", "state"] {
        let bundles = scope
            .folder
            .join(part)
            .join("io.containerd.runtime.v2.task");
        add("bundle", entries(&bundles.join(&scope.namespace)));
    }
    add("socket without a process", dead_sockets(scope));
    found
}

/// The scope's processes without the daemons, and zombies whose parent is one of the scope's:
/// those that the system's init has adopted are its to reap.
fn processes(scope: &Scope) -> impl Iterator<Item = String> {
    let all = Process::all();
    let own: BTreeSet<i32> = all
        .iter()
        .filter(|process| scope.owns(process))
        .map(|process| process.pid)
        .collect();
    all.into_iter()
        .filter(move |process| {
            let daemon = DAEMONS.contains(&process.comm.as_str());
            match process.state {
                'Z' => own.contains(&process.parent),
                _ => own.contains(&process.pid) && !daemon,
            }
        })
        .map(|process| {
            let Process {
                pid,
                started,
                comm,
                command_line,
                ..
            } = process;
            // Not the state: a process that becomes a zombie is no second process.
            format!("process {pid} ({comm}, started at {started}) {command_line}")
        })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

/// Sockets that no process listens on. Those of other daemons' shims are not counted, alive or
/// dead, which lets tests run at the same time.
fn dead_sockets(scope: &Scope) -> Vec<PathBuf> {
    let listening = fs::read_to_string("/proc/net/unix").expect("/proc is mounted");
    let mut others: BTreeSet<PathBuf> = listening
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .map(PathBuf::from)
        .collect();
    for other in Scope::all() {
        if other.namespace != scope.namespace {
            others.extend(other.sockets());
        }
    }
    let files = entries(Path::new(SOCKET_FOLDER)).into_iter();
    files.filter(|socket| !others.contains(socket)).collect()
}
