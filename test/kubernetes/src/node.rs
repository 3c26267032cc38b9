//! The node: its daemons, and containers as its kernel shows them.

use std::fs;
use std::path::PathBuf;

use lighter_testkit::{Call, Process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::wait::{LIMIT, until};

/// The process of a daemon of the node: `containerd`, `kubelet`.
///
/// # Errors
/// That there is none.
pub fn daemon(name: &str) -> Result<Process, String> {
    let is = |process: &Process| {
        process.comm == name
            && process.state != 'Z'
            && process
                .cgroups
                .lines()
                .all(|line| !line.contains("/kubepods"))
    };
    let found = Process::all()
        .into_iter()
        .filter(is)
        .min_by_key(|process| process.pid);
    found.ok_or_else(|| format!("no process is {name}"))
}

/// Ends a daemon, which the node starts again, and waits until another is there.
#[track_caller]
pub fn restart(name: &str, signal: Signal) {
    let before = until(&format!("{name} runs"), LIMIT, || daemon(name));
    kill(Pid::from_raw(before.pid), signal).expect("the daemon runs");
    until(&format!("another {name} runs"), LIMIT, || {
        daemon(name).and_then(|now| {
            if (now.pid, now.started) == (before.pid, before.started) {
                Err("the same".to_owned())
            } else {
                Ok(())
            }
        })
    });
}

/// While it lives, daemons that end are not started again.
pub struct Holding(PathBuf);

impl Holding {
    /// Begins.
    pub fn start() -> Self {
        let file = PathBuf::from(std::env::var_os("NODE").expect("run by run.sh")).join("hold");
        fs::write(&file, "").expect("write below the node's folder");
        Self(file)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The first process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its id on the node.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Guest {
    /// That of a container of a pod, as the cluster shows the pod.
    #[track_caller]
    pub fn of(pod: &Value, container: &str) -> Self {
        let statuses = [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ];
        let id = statuses
            .iter()
            .filter_map(|name| pod["status"][name].as_array())
            .flatten()
            .find(|status| status["name"] == container)
            .and_then(|status| {
                status["containerID"]
                    .as_str()?
                    .strip_prefix("containerd://")
            })
            .unwrap_or_else(|| panic!("no container {container} runs: {:#}", pod["status"]));
        let tasks = Call::new("ctr", ["--namespace", "k8s.io", "tasks", "list"]).ok();
        let pid = tasks
            .lines()
            .find_map(|line| {
                line.strip_prefix(id)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or_else(|| panic!("containerd has no task {id}:\n{tasks}"));
        let process = Process::read(pid).unwrap_or_else(|| panic!("{id}: process {pid} has ended"));
        Self {
            pid,
            started: process.started,
        }
    }

    /// A line of `/proc/PID/status`: `Uid`, `CapEff`. Fields are separated by one space.
    #[track_caller]
    pub fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let line = line.unwrap_or_else(|| panic!("{path} has no {name}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// A file of one of its cgroups, of version 1: `memory`, `memory.limit_in_bytes`.
    #[track_caller]
    pub fn cgroup(&self, controller: &str, file: &str) -> String {
        let process = Process::read(self.pid).expect("the guest runs");
        let path = process
            .cgroups
            .lines()
            .find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let (names, path) = (fields.next()?, fields.next()?);
                names
                    .split(',')
                    .any(|name| name == controller)
                    .then(|| format!("/sys/fs/cgroup/{names}{path}/{file}"))
            })
            .unwrap_or_else(|| panic!("no cgroup of {controller}: {}", process.cgroups));
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path}: {error}"))
            .trim()
            .to_owned()
    }
}
