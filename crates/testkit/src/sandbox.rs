//! The private place of a daemon, and how it is emptied again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::cgroup::{self, Driver};
use crate::processes::Process;

/// State of runtimes that is kept outside of a daemon's own folders, by containerd namespace:
/// Lighter's, what it has recorded of guests, and that of runc's shim.
const STATE_ROOTS: [&str; 3] = [
    "/run/lighter",
    "/var/lib/lighter/debug",
    "/run/containerd/runc",
];

/// What belongs to one daemon: a folder, and a name that is its containerd namespace and its
/// top-level cgroup.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The folder that the daemon's sockets, state and data are in.
    pub folder: PathBuf,
    /// The containerd namespace; containers are in the cgroup that [`Driver`] makes of it.
    pub namespace: String,
}

impl Scope {
    /// Whether a process was started by the daemon: a shim names the daemon's socket in its
    /// arguments, a container's process is in a cgroup of the namespace.
    pub fn owns(&self, process: &Process) -> bool {
        // With the slash, or the folder of number 1 would also be found in that of number 10.
        process
            .command_line
            .contains(&format!("{}/", self.folder.display()))
            || [Driver::Cgroupfs, Driver::Systemd].iter().any(|driver| {
                let top = driver.top(&self.namespace);
                process.cgroups.contains(&format!(":/{top}/"))
            })
    }

    /// The processes that the daemon started, and the daemon.
    pub fn processes(&self) -> Vec<Process> {
        Process::all()
            .into_iter()
            .filter(|process| self.owns(process))
            .collect()
    }

    /// The mount points below the folder.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let info = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        info.lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|mount| mount.starts_with(&self.folder))
            .collect()
    }

    /// The cgroups of containers, in all hierarchies.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let tops = [Driver::Cgroupfs, Driver::Systemd].map(|driver| driver.top(&self.namespace));
        tops.iter().flat_map(|top| cgroup::below(top)).collect()
    }

    /// The state folders of runtimes for this namespace, outside of the daemon's folder.
    pub(crate) fn state_folders(&self) -> Vec<PathBuf> {
        STATE_ROOTS
            .iter()
            .map(|root| Path::new(root).join(&self.namespace))
            .collect()
    }

    /// The sockets that the shims of existing bundles listen on, or did.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let bundles = self
            .folder
            .join("state/io.containerd.runtime.v2.task")
            .join(&self.namespace);
        let bundles = fs::read_dir(bundles).into_iter().flatten().flatten();
        bundles
            // Up to containerd 1.7 the first, from 2.0 on the second.
            .flat_map(|bundle| ["address", "bootstrap.json"].map(|name| bundle.path().join(name)))
            .filter_map(|file| fs::read_to_string(file).ok())
            .filter_map(|text| {
                let path = text.split_once("unix://")?.1.split(['"', '\n']).next()?;
                Some(PathBuf::from(path))
            })
            .collect()
    }

    /// All scopes of this machine, also those of other processes.
    pub(crate) fn all() -> Vec<Self> {
        let folders = fs::read_dir(std::env::temp_dir())
            .into_iter()
            .flatten()
            .flatten();
        folders
            .filter_map(|entry| {
                let namespace = entry.file_name().into_string().ok()?;
                namespace.starts_with(PREFIX).then(|| Self {
                    folder: entry.path(),
                    namespace,
                })
            })
            .collect()
    }

    /// Whether the process that made the scope is gone.
    fn abandoned(&self) -> bool {
        let owner = self.namespace[PREFIX.len()..].split('-').next();
        let owner = owner.and_then(|pid| pid.parse().ok());
        owner.is_some_and(|pid| Process::read(pid).is_none())
    }

    /// Ends, unmounts and removes everything of this scope.
    fn clean(&self) {
        // A shim that is killed leaves them; that of runc has one more than its bundle names.
        let mut sockets = self.sockets();
        for process in self.processes() {
            if process.pid != own_pid() {
                sockets.extend(process.sockets());
            }
        }
        self.kill_processes();
        for socket in sockets {
            let _ = fs::remove_file(socket);
        }
        for mount in self.mounts().iter().rev() {
            let _ = umount2(mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        }
        Driver::Cgroupfs.remove_top(&self.namespace);
        if Driver::of_tests() == Driver::Systemd {
            Driver::Systemd.remove_top(&self.namespace);
        }
        for folder in self.state_folders() {
            let _ = fs::remove_dir_all(folder);
        }
        // Never through a mount that could not be undone: it may lead anywhere.
        if self.mounts().is_empty() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    /// Kills until nothing is left: what is killed may have forked in between.
    fn kill_processes(&self) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let alive: Vec<Process> = self
                .processes()
                .into_iter()
                .filter(|process| process.state != 'Z' && process.pid != own_pid())
                .collect();
            if alive.is_empty() || Instant::now() > end {
                return;
            }
            for process in alive {
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn own_pid() -> i32 {
    std::process::id().cast_signed()
}

/// Owns a [`Scope`] and cleans it when dropped.
pub(crate) struct Sandbox {
    pub(crate) scope: Scope,
}

impl Sandbox {
    /// Makes the folder, after having cleaned what killed test runs left.
    ///
    /// # Panics
    /// Without root.
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(
            Uid::effective().is_root(),
            "these tests start containers: run them as root (they do not skip themselves)"
        );
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{PREFIX}{}-{number}", own_pid());
        let folder = std::env::temp_dir().join(&namespace);
        fs::create_dir(&folder)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        // The longest socket below is `containerd.sock.ttrpc`; sun_path has 108 bytes.
        assert!(
            folder.as_os_str().len() < 80,
            "{} is too long for Unix sockets: set TMPDIR to a shorter path",
            folder.display()
        );
        Self {
            scope: Scope { folder, namespace },
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.scope.clean();
    }
}

/// Name of each folder and namespace, before the test process' pid.
const PREFIX: &str = "lighter-test-";

/// Cleans the scopes whose test process is gone.
fn sweep() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for scope in Scope::all().iter().filter(|scope| scope.abandoned()) {
        scope.clean();
    }
}
