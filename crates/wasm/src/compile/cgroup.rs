//! The cgroup of one compile worker: memory and processor time, by plain files of v1 or v2.
//!
//! It stands at the root of the hierarchy and not below the cgroup of a container: a
//! compilation is the node's work, and its result serves every container. The worker enters it
//! by itself before it reads a byte.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::geteuid;

use super::CompileError;
use crate::cache::CacheLimits;

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "lighter-compile-";
/// The one cgroup of all processes that have something compiled. It is there while there are any.
const JOBS: &str = "lighter-jobs";
/// Microseconds that a share of processor time is counted over.
const PERIOD: u64 = 100_000;
/// What each processor counts for when all want to compute: as much as a container by default.
/// Less would spare the others, but a start waits for this, and on a busy node it would wait
/// until its time is up.
const SHARES_V1: u64 = 1024;
const WEIGHT_V2: u64 = 100;

/// Removed when it is dropped: the worker has been reaped by then.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// One of v2, one for each controller of v1, and none where there is nothing to limit by.
    folders: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes a cgroup with `limits`.
    ///
    /// Only root can, and only root is served on a node. For anybody else, and on a kernel
    /// without a controller, the limits that the worker sets itself have to do; they bound its
    /// memory and time too, but processor by processor not at all. When it should work and does
    /// not, nothing is compiled.
    pub(super) fn make(limits: &CacheLimits) -> Result<Self, CompileError> {
        if geteuid().is_root() {
            Self::make_in(Path::new(ROOT), limits)
        } else {
            Ok(Self {
                folders: Vec::new(),
            })
        }
    }

    fn make_in(root: &Path, limits: &CacheLimits) -> Result<Self, CompileError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mut cgroup = Self {
            folders: Vec::new(),
        };
        let cores = u64::from(cores(limits));
        let quota = PERIOD * cores;
        if root.join("cgroup.controllers").exists() {
            enable_controllers(root)?;
            let folder = cgroup.add(root, &name)?;
            set(&folder, "memory.max", limits.memory)?;
            set_if_there(&folder, "memory.swap.max", 0)?;
            set_if_there(&folder, "cpu.weight", WEIGHT_V2 * cores)?;
            set_if_there(&folder, "cpu.max", format!("{quota} {PERIOD}"))?;
            return Ok(cgroup);
        }
        if root.join("memory").is_dir() {
            let folder = cgroup.add(&root.join("memory"), &name)?;
            set(&folder, "memory.limit_in_bytes", limits.memory)?;
            // Memory and swap together.
            set_if_there(&folder, "memory.memsw.limit_in_bytes", limits.memory)?;
        }
        if root.join("cpu").is_dir() {
            let folder = cgroup.add(&root.join("cpu"), &name)?;
            set(&folder, "cpu.shares", SHARES_V1 * cores)?;
            set_if_there(&folder, "cpu.cfs_period_us", PERIOD)?;
            set_if_there(&folder, "cpu.cfs_quota_us", quota)?;
        }
        Ok(cgroup)
    }

    fn add(&mut self, hierarchy: &Path, name: &str) -> Result<PathBuf, CompileError> {
        sweep(hierarchy);
        let folder = hierarchy.join(name);
        fs::create_dir(&folder).map_err(|error| at(&folder, error))?;
        self.folders.push(folder.clone());
        Ok(folder)
    }

    /// Whether the kernel has killed in it for want of memory.
    pub(super) fn has_killed(&self) -> bool {
        self.folders.iter().any(|folder| {
            ["memory.events", "memory.oom_control"]
                .iter()
                .filter_map(|file| fs::read_to_string(folder.join(file)).ok())
                .any(|text| kills(&text) > 0)
        })
    }

    /// What the worker enters.
    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            // The kernel needs a moment to count the last thread out. What stays nevertheless
            // is removed by the next compilation.
            for _ in 0..50 {
                if fs::remove_dir(folder).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Moves this process into the cgroup of all jobs, which may have `memory` bytes together.
///
/// One for all: on cgroup v1 it takes the kernel some 8 ms to move a process, so that nothing
/// enters it but what compiles anyway.
pub(crate) fn enter_job_cgroup(memory: u64) -> Result<(), CompileError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    enter_jobs(Path::new(ROOT), memory)
}

fn enter_jobs(root: &Path, memory: u64) -> Result<(), CompileError> {
    let (folder, limit) = if root.join("cgroup.controllers").exists() {
        enable_controllers(root)?;
        (root.join(JOBS), "memory.max")
    } else if root.join("memory").is_dir() {
        (root.join("memory").join(JOBS), "memory.limit_in_bytes")
    } else {
        return Ok(());
    };
    // Whoever leaves removes it if nobody else is in it, also between these steps.
    for _ in 0..10 {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at(&folder, error));
            }
            _ => {}
        }
        match set(&folder, limit, memory).and_then(|()| set(&folder, "cgroup.procs", 0)) {
            Err(CompileError::Cgroup { error, .. })
                if [Errno::ENOENT, Errno::ENODEV]
                    .iter()
                    .any(|gone| error.raw_os_error() == Some(*gone as i32)) => {}
            other => return other,
        }
    }
    Err(at(
        &folder,
        io::Error::other("others remove it all the time"),
    ))
}

/// Removes the cgroup of all jobs. The kernel keeps it while there is one.
pub(crate) fn remove_job_cgroup() {
    for hierarchy in ["", "memory"] {
        let _ = fs::remove_dir(Path::new(ROOT).join(hierarchy).join(JOBS));
    }
}

/// Processors that a worker may use.
pub(super) fn cores(limits: &CacheLimits) -> u32 {
    let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    limits
        .cores
        .clamp(1, u32::try_from(there).unwrap_or(u32::MAX))
}

/// Has children of the root limited by these, as every container runtime does. A controller
/// that v1 has taken is not there to be enabled.
fn enable_controllers(root: &Path) -> Result<(), CompileError> {
    let words = |file: &str| -> Result<Vec<String>, CompileError> {
        let path = root.join(file);
        let text = fs::read_to_string(&path).map_err(|error| at(&path, error))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let there = words("cgroup.controllers")?;
    let enabled = words("cgroup.subtree_control")?;
    for controller in ["cpu", "memory"].map(str::to_owned) {
        if there.contains(&controller) && !enabled.contains(&controller) {
            set(root, "cgroup.subtree_control", format!("+{controller}"))?;
        }
    }
    Ok(())
}

fn set(folder: &Path, file: &str, value: impl ToString) -> Result<(), CompileError> {
    let path = folder.join(file);
    fs::write(&path, value.to_string()).map_err(|error| at(&path, error))
}

/// Kernels can be built without these.
fn set_if_there(folder: &Path, file: &str, value: impl ToString) -> Result<(), CompileError> {
    if folder.join(file).exists() {
        set(folder, file, value)
    } else {
        Ok(())
    }
}

/// Removes the cgroups of compilations whose operation was killed.
pub(crate) fn sweep_all() {
    remove_job_cgroup();
    for hierarchy in ["", "memory", "cpu"] {
        sweep(&Path::new(ROOT).join(hierarchy));
    }
}

/// Removes what operations that were killed have left. The kernel keeps what has processes.
fn sweep(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn kills(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .filter_map(|count| count.trim().parse::<u64>().ok())
        .sum()
}

fn at(path: &Path, error: io::Error) -> CompileError {
    CompileError::Cgroup {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> CacheLimits {
        CacheLimits {
            memory: 64 << 20,
            cores: 1,
            ..CacheLimits::default()
        }
    }

    #[test]
    fn it_is_made_and_removed() {
        let cgroup = Cgroup::make(&limits()).unwrap();
        if !geteuid().is_root() {
            assert!(cgroup.folders().is_empty());
            return;
        }
        let folders = cgroup.folders().to_vec();
        assert!(!folders.is_empty(), "this machine has no cgroups");
        let value = |file: &str| {
            folders
                .iter()
                .find_map(|folder| fs::read_to_string(folder.join(file)).ok())
        };
        let memory = value("memory.max").or(value("memory.limit_in_bytes"));
        assert_eq!(memory.unwrap().trim(), "67108864");
        let quota = value("cpu.max").or(value("cpu.cfs_quota_us"));
        assert!(quota.unwrap().starts_with("100000"));
        assert!(!cgroup.has_killed());
        drop(cgroup);
        assert!(folders.iter().all(|folder| !folder.exists()));
    }

    #[test]
    fn what_a_killed_operation_left_is_removed() {
        let hierarchy = tempfile::tempdir().unwrap();
        // No process has this number: it is above the largest that there can be.
        let left = hierarchy.path().join(format!("{PREFIX}4194305-0"));
        let own = format!("{PREFIX}{}-7", std::process::id());
        let ours = hierarchy.path().join(own);
        let other = hierarchy.path().join("system.slice");
        for folder in [&left, &ours, &other] {
            fs::create_dir(folder).unwrap();
        }
        sweep(hierarchy.path());
        assert!(!left.exists());
        assert!(ours.exists() && other.exists());
    }

    #[test]
    fn jobs_share_one_cgroup() {
        let root = tempfile::tempdir().unwrap();
        // Without a controller there is nothing to limit by.
        enter_jobs(root.path(), 1).unwrap();
        fs::create_dir(root.path().join("memory")).unwrap();
        for memory in [5, 6] {
            enter_jobs(root.path(), memory).unwrap();
            let folder = root.path().join("memory").join(JOBS);
            let value = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
            assert_eq!(value("memory.limit_in_bytes"), memory.to_string());
            assert_eq!(value("cgroup.procs"), "0");
        }
    }

    #[test]
    fn a_cgroup_that_cannot_be_made_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        // A hierarchy that is no cgroup has none of the files.
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        let error = Cgroup::make_in(root.path(), &limits()).unwrap_err();
        assert!(error.to_string().contains("cgroup.subtree_control"));
        let root = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::make_in(root.path(), &limits()).unwrap();
        assert!(cgroup.folders().is_empty());
    }

    #[test]
    fn kills_are_counted_on_both_versions() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        let v2 = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!((kills(v1), kills(v2), kills("")), (2, 1, 0));
    }
}
