//! A private containerd.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::call::Call;
use crate::configuration::{CriPlugin, configuration};
use crate::daemon::Daemon;
use crate::image::Image;
use crate::leaks::Leaks;
use crate::paths::{daemon, shim_folder};
use crate::run::Run;
use crate::sandbox::{Sandbox, Scope};

/// Which containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The distribution's own: 1.6 on Debian 12.
    Debian,
    /// 1.7, from `test/setup/daemons.sh`.
    V1_7,
    /// 2.1 or later, from `test/setup/daemons.sh`.
    V2,
}

impl Version {
    /// All of them, for tests that have to hold everywhere.
    pub const ALL: [Self; 3] = [Self::Debian, Self::V1_7, Self::V2];

    /// The folder of `containerd`, `ctr` and runc's shim.
    fn folder(self) -> PathBuf {
        match self {
            Self::Debian => {
                let folder = PathBuf::from("/usr/bin");
                assert!(
                    folder.join("containerd").exists(),
                    "run test/setup/packages.sh"
                );
                folder
            }
            Self::V1_7 => daemon(&["containerd-1.7."]).join("usr/bin"),
            Self::V2 => daemon(&["containerd-2.", "containerd-3."]).join("usr/bin"),
        }
    }
}

/// A containerd of its own, with a folder, sockets and a namespace of its own.
///
/// Lighter's shim and runc's are found by their runtime types `io.containerd.wasmtime.v1` and
/// `io.containerd.runc.v2`. Its log has level debug; a failing test prints the end of it.
pub struct Containerd {
    // Dropped in this order: the daemon is stopped before its place is cleaned.
    daemon: Daemon,
    sandbox: Sandbox,
    version: Version,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    number: AtomicU32,
}

impl Containerd {
    /// Starts one and waits until it answers.
    pub fn start(version: Version) -> Self {
        Self::start_in(Sandbox::new(), version, "debug", CriPlugin::Off, &[])
    }

    /// The same with variables in its environment, which is its shims', too.
    pub fn start_with_environment(version: Version, environment: &[(&str, &str)]) -> Self {
        let plugin = CriPlugin::Off;
        Self::start_in(Sandbox::new(), version, "debug", plugin, environment)
    }

    pub(crate) fn start_with_cri(version: Version, environment: &[(&str, &str)]) -> Self {
        let plugin = CriPlugin::On;
        Self::start_in(Sandbox::new(), version, "debug", plugin, environment)
    }

    /// One with the CRI and without Lighter's handler, that a supervisor starts again whenever it ends.
    /// The shim is not in its PATH. It waits as long as its configuration has what the file `refuse`
    /// of its folder has as a line.
    pub(crate) fn start_supervised(version: Version) -> Self {
        Self::start_in(Sandbox::new(), version, "debug", CriPlugin::Bare, &[])
    }

    /// The same with log level info, as nodes have it: shims are not told to log everything.
    pub fn start_for_measurements(version: Version) -> Self {
        Self::start_in(Sandbox::new(), version, "info", CriPlugin::Off, &[])
    }

    pub(crate) fn start_in(
        sandbox: Sandbox,
        version: Version,
        level: &str,
        plugin: CriPlugin,
        environment: &[(&str, &str)],
    ) -> Self {
        let environment: Vec<(String, String)> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let folder = version.folder();
        let place = &sandbox.scope.folder;
        fs::write(
            place.join("config.toml"),
            configuration(place, version, level, plugin),
        )
        .expect("write containerd's configuration");
        let daemon = match plugin {
            // 1.6 finds what is installed here by its PATH only.
            CriPlugin::Bare if version == Version::Debian => {
                supervise(&[&folder, &place.join("usr/bin")], place)
            }
            CriPlugin::Bare => supervise(&[&folder], place),
            CriPlugin::Off | CriPlugin::On => launch(&folder, place, &environment),
        };
        let mut containerd = Self {
            daemon,
            sandbox,
            version,
            folder,
            environment,
            number: AtomicU32::new(0),
        };
        containerd.await_ready();
        containerd
    }

    fn await_ready(&mut self) {
        let (folder, scope) = (self.folder.clone(), self.sandbox.scope.clone());
        self.daemon
            .await_ready(|| ctr(&folder, &scope.folder, &scope.namespace, ["version"]));
    }

    /// Stops the daemon with `signal` (SIGTERM, or SIGKILL for a crash) and starts it again on
    /// the same state. Shims and containers live on.
    pub fn restart(&mut self, signal: Signal) {
        self.stop(signal);
        self.resume();
    }

    /// Stops the daemon alone; [`Containerd::resume`] starts it again.
    pub fn stop(&mut self, signal: Signal) {
        self.daemon.stop(signal);
    }

    /// Starts the daemon again after [`Containerd::stop`].
    pub fn resume(&mut self) {
        self.daemon = launch(&self.folder, &self.sandbox.scope.folder, &self.environment);
        self.await_ready();
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.daemon.pid()
    }

    /// The daemon's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The daemon's gRPC socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder())
    }

    /// The private folder; a test may keep files of its own in it.
    pub fn folder(&self) -> &Path {
        &self.sandbox.scope.folder
    }

    /// The containerd namespace that everything here uses.
    pub fn namespace(&self) -> &str {
        &self.sandbox.scope.namespace
    }

    /// The folder of a container's bundle.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.folder()
            .join("state/io.containerd.runtime.v2.task")
            .join(self.namespace())
            .join(id)
    }

    /// What belongs to this daemon: its processes, mounts and cgroups.
    pub fn scope(&self) -> &Scope {
        &self.sandbox.scope
    }

    /// Everything that the daemon has printed until now; shims' logs are in it.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// A count of what there is now, to assert later that nothing was added.
    pub fn leaks(&self) -> Leaks {
        Leaks::snapshot(self.scope())
    }

    /// A container id that was not used before.
    pub fn next_id(&self) -> String {
        format!("c{}", self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// A call of this version's `ctr`, with the address and the namespace set.
    pub fn ctr<I, S>(&self, arguments: I) -> Call
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.ctr_in(self.namespace(), arguments)
    }

    /// The same in another containerd namespace.
    pub(crate) fn ctr_in<I, S>(&self, namespace: &str, arguments: I) -> Call
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        ctr(&self.folder, self.folder(), namespace, arguments)
    }

    /// Imports an image and unpacks it.
    #[track_caller]
    pub fn import(&self, image: &Image) {
        let file = self.folder().join(format!("image-{}.tar", self.next_id()));
        fs::write(&file, image.archive()).expect("write the image's archive");
        let platform = image.platform_name();
        let mut arguments: Vec<OsString> = ["images", "import"].map(OsString::from).into();
        if platform != "linux/amd64" {
            arguments.extend(["--platform", &platform].map(OsString::from));
        }
        arguments.push(file.clone().into());
        self.ctr(arguments).output().exits(0);
        let _ = fs::remove_file(file);
    }

    /// A container of an imported image, to be run by `ctr run`.
    pub fn run(&self, image: &Image) -> Run<'_> {
        Run::new(self, image.reference())
    }

    /// The same by the image's name, as it was pulled.
    pub fn run_reference(&self, reference: &str) -> Run<'_> {
        Run::new(self, reference.to_owned())
    }

    /// The status of a container's task as `ctr tasks list` names it: `CREATED`, `RUNNING`,
    /// `STOPPED` ...; nothing when there is no such task.
    pub fn status(&self, id: &str) -> Option<String> {
        let tasks = self.ctr(["tasks", "list"]).ok();
        tasks.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            let (task, status) = (fields.next()?, fields.nth(1)?);
            (task == id).then(|| status.to_owned())
        })
    }

    /// Waits until the status is `status`.
    ///
    /// # Panics
    /// After `limit`.
    #[track_caller]
    pub fn await_status(&self, id: &str, status: &str, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let now = self.status(id);
            if now.as_deref() == Some(status) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{id} is {now:?} and not {status} after {limit:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills and deletes a container that `ctr run -d` started, task and all.
    #[track_caller]
    pub fn remove(&self, id: &str) {
        self.ctr(["tasks", "delete", "--force", id])
            .output()
            .exits(0);
        self.ctr(["containers", "delete", id]).output().exits(0);
    }
}

fn socket(place: &Path) -> PathBuf {
    place.join("containerd.sock")
}

fn ctr<I, S>(folder: &Path, place: &Path, namespace: &str, arguments: I) -> Call
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut all: Vec<OsString> = vec![
        "--address".into(),
        socket(place).into(),
        "--namespace".into(),
        namespace.into(),
    ];
    all.extend(
        arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned()),
    );
    Call::new(folder.join("ctr"), all)
}

fn launch(folder: &Path, place: &Path, environment: &[(String, String)]) -> Daemon {
    let path = search_path(&[&shim_folder(), folder]);
    let mut command = Command::new(folder.join("containerd"));
    command
        .arg("--config")
        .arg(place.join("config.toml"))
        .env("PATH", path)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    Daemon::start("containerd", &mut command, &place.join("containerd.log"))
}

fn supervise(folders: &[&Path], place: &Path) -> Daemon {
    const LOOP: &str = r#"
        while :; do
            if ! [ -e refuse ] || ! grep -q -F -f refuse config.toml; then
                "$0" --config "$PWD/config.toml"
            fi
            sleep 0.1
        done"#;
    let mut command = Command::new("sh");
    command
        .args(["-c", LOOP])
        .arg(folders[0].join("containerd"))
        .current_dir(place)
        .env("PATH", search_path(folders));
    Daemon::start("containerd", &mut command, &place.join("containerd.log"))
}

/// PATH of a daemon: the given folders, then the system's.
pub(crate) fn search_path(first: &[&Path]) -> OsString {
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    std::env::join_paths(first.iter().chain(&system)).expect("a folder's name has a colon")
}
