//! Having a containerd read its configuration again: by a restart, which containers live through.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::containerd::Containerd;
use super::cri;
use super::effective::Handler;

/// Services that start a containerd as a child of theirs.
const PARENTS: [&str; 5] = [
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "snap.microk8s.daemon-containerd.service",
];

/// How long a containerd may take to end.
const END: Duration = Duration::from_secs(30);

/// What starts a containerd again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supervisor {
    /// A service of systemd.
    Unit(String),
    /// Something else, once the process has ended.
    Other(i32),
}

impl std::fmt::Display for Supervisor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unit(unit) => formatter.write_str(unit),
            Self::Other(pid) => write!(
                formatter,
                "process {pid}, which its supervisor starts again"
            ),
        }
    }
}

impl Supervisor {
    /// That of a process.
    pub fn of(pid: i32) -> Self {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        match unit(&groups) {
            Some(unit)
                if Path::new("/run/systemd/system").exists()
                    && (PARENTS.contains(&unit) || is_main(unit, pid)) =>
            {
                Self::Unit(unit.to_owned())
            }
            _ => Self::Other(pid),
        }
    }

    /// Restarts it.
    pub fn restart(&self) -> Result<(), String> {
        match self {
            Self::Unit(unit) => systemctl(&["restart", unit]),
            Self::Other(pid) => end(*pid),
        }
    }
}

/// The service in the text of a process's `cgroup` file.
fn unit(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| {
        let path = line
            .strip_prefix("0::")
            .or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))?;
        path.split('/').rfind(|part| part.ends_with(".service"))
    })
}

/// Whether it is the service's own process, and not started by hand in somebody else's.
fn is_main(unit: &str, pid: i32) -> bool {
    Command::new("systemctl")
        .args(["show", "--property=MainPID", "--value", unit])
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == pid.to_string())
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| format!("cannot run systemctl: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.lines().next().unwrap_or_default();
    Err(format!("systemctl {}: {text}", arguments.join(" ")))
}

fn end(pid: i32) -> Result<(), String> {
    let process = Pid::from_raw(pid);
    let _ = kill(process, Signal::SIGTERM);
    let limit = Instant::now() + END;
    // A zombie that nobody has waited for has ended, too.
    while kill(process, None).is_ok() && !is_zombie(pid) {
        if Instant::now() > limit {
            return Err(format!(
                "containerd (process {pid}) does not end at SIGTERM"
            ));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Restarts a containerd if it runs, and waits until it answers as it should: `right` judges what it
/// knows of the handler.
pub fn restart(
    containerd: &Containerd,
    socket: &Path,
    limit: Duration,
    right: &dyn Fn(Option<&Handler>) -> Result<(), String>,
) -> Result<(), String> {
    let restarted = match containerd.running() {
        Some(process) => Supervisor::of(process.pid).restart(),
        // It has ended before, and whatever starts it again will.
        None => Ok(()),
    };
    restarted?;
    let end = Instant::now() + limit;
    loop {
        let answer = cri::handler(socket).and_then(|handler| right(handler.as_ref()));
        match answer {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => {
                return Err(format!("{error} (after {} s)", limit.as_secs()));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_of_a_process_is_in_its_groups() {
        for (groups, expected) in [
            (
                "0::/system.slice/containerd.service\n",
                Some("containerd.service"),
            ),
            (
                "3:pids:/x.service\n1:name=systemd:/system.slice/k3s.service\n0::/\n",
                Some("k3s.service"),
            ),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            (
                "0::/system.slice/k3s.service/containerd\n",
                Some("k3s.service"),
            ),
            ("", None),
        ] {
            assert_eq!(unit(groups), expected, "{groups}");
        }
    }

    #[test]
    #[allow(
        clippy::disallowed_methods,
        reason = "banned for the shim's sake; here the child is what is tested"
    )]
    fn a_process_without_a_service_is_ended_for_its_supervisor() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        Supervisor::Other(pid).restart().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
