//! A private Docker Engine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::call::Call;
use crate::containerd::{Containerd, Version, search_path};
use crate::daemon::Daemon;
use crate::image::Image;
use crate::leaks::Leaks;
use crate::paths::{daemon, shim_folder};
use crate::sandbox::Scope;

/// A dockerd (28.5 or later) on a private containerd 2, with the containerd image store.
///
/// It runs in a network namespace of its own: bridge `docker0`, its addresses and its iptables
/// rules meet neither the machine's nor those of another test. A published port is reached
/// from inside only, see [`Docker::inside`].
pub struct Docker {
    // Dropped in this order: dockerd, then containerd, which cleans the place of both.
    daemon: Daemon,
    containerd: Containerd,
    folder: PathBuf,
    /// Whether images are in containerd's store.
    containerd_store: bool,
}

impl Docker {
    /// Starts containerd and dockerd and waits until both answer.
    pub fn start() -> Self {
        Self::start_with(true, false)
    }

    /// The same with images in dockerd's own store, as engines have it that were upgraded.
    pub fn start_with_graph_driver() -> Self {
        Self::start_with(false, false)
    }

    /// One whose containers have a user namespace (`userns-remap`): their users are [`REMAPPED`] and the
    /// following of the host.
    ///
    /// Such an engine takes its images from its own store alone, and the range of a user, `nobody`, from
    /// /etc/subuid, which is another file in its mount namespace.
    pub fn start_with_user_namespaces() -> Self {
        Self::start_with(false, true)
    }

    fn start_with(containerd_store: bool, user_namespaces: bool) -> Self {
        let folder = daemon(&["docker-"]).join("usr");
        let containerd = Containerd::start(Version::V2);
        let place = containerd.folder();
        let text = configuration(containerd_store, user_namespaces);
        fs::write(place.join("daemon.json"), text).expect("write daemon.json");
        if user_namespaces {
            let ranges = format!("nobody:{REMAPPED}:65536\n");
            fs::write(place.join("ranges"), ranges).expect("write the ranges of users");
            // What the engine mounts there, the shims have to see.
            let data = place.join("docker-data").display().to_string();
            let share = "mkdir \"$0\" && mount --bind \"$0\" \"$0\" && mount --make-shared \"$0\"";
            Call::new("sh", ["-c", share, &data]).ok();
        }
        let plugins = place.join("cli/cli-plugins");
        fs::create_dir_all(&plugins).expect("make the folder of docker's configuration");
        let buildx = "usr/libexec/docker/cli-plugins/docker-buildx";
        symlink(
            daemon(&["buildx-"]).join(buildx),
            plugins.join("docker-buildx"),
        )
        .expect("link docker's plugin");
        let mut daemon = launch(&folder, &containerd, user_namespaces);
        daemon.await_ready(|| docker(&folder, place, ["version"]));
        Self {
            daemon,
            containerd,
            folder,
            containerd_store,
        }
    }

    /// A call of `docker`.
    pub fn docker<I, S>(&self, arguments: I) -> Call
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        docker(&self.folder, self.folder(), arguments)
    }

    /// A call of any program inside dockerd's network namespace.
    pub fn inside<I, S>(&self, arguments: I) -> Call
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut all: Vec<OsString> = vec![
            "--net".into(),
            "--target".into(),
            self.daemon.pid().to_string().into(),
        ];
        all.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        Call::new("nsenter", all)
    }

    /// Loads an image into the engine.
    #[track_caller]
    pub fn load(&self, image: &Image) {
        let file = self
            .folder()
            .join(format!("image-{}.tar", self.containerd.next_id()));
        let archive = match self.containerd_store {
            true => image.archive(),
            false => image.docker_archive(),
        };
        fs::write(&file, archive).expect("write the image's archive");
        self.docker([OsStr::new("load"), OsStr::new("--input"), file.as_os_str()])
            .output()
            .exits(0);
        let _ = fs::remove_file(file);
    }

    /// The containerd below; the engine's containers are in its namespace.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// The private folder of both daemons.
    pub fn folder(&self) -> &Path {
        self.containerd.folder()
    }

    /// dockerd's process id.
    pub fn pid(&self) -> i32 {
        self.daemon.pid()
    }

    /// Everything that dockerd has printed until now.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// What belongs to the engine.
    pub fn scope(&self) -> &Scope {
        self.containerd.scope()
    }

    /// A count of what there is now, to assert later that nothing was added.
    pub fn leaks(&self) -> Leaks {
        self.containerd.leaks()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // SIGTERM would make it wait for each container's stop time-out; what is left is
        // cleaned with the place, and the network goes with its namespace.
        self.daemon.stop(Signal::SIGKILL);
    }
}

/// The host's number of the root of a container of [`Docker::start_with_user_namespaces`].
pub const REMAPPED: u32 = 1_500_000;

fn launch(folder: &Path, containerd: &Containerd, user_namespaces: bool) -> Daemon {
    let place = containerd.folder();
    let at = |name: &str| place.join(name).display().to_string();
    let namespace = containerd.namespace();
    let mut command = Command::new("unshare");
    let mut first = "ip link set lo up && exec \"$@\"".to_owned();
    if user_namespaces {
        command.args(["--mount", "--propagation", "unchanged"]);
        // Private: what is mounted on the root below must not appear on the host.
        let ranges = at("ranges");
        let hide = format!(
            "mount --make-private / && for f in /etc/subuid /etc/subgid; do mount --bind {ranges} $f || exit; done && "
        );
        first.insert_str(0, &hide);
    }
    command
        // The shell is replaced by dockerd, so that the child's pid is dockerd's.
        .args(["--net", "sh", "-c", &first, "sh"])
        .arg(folder.join("sbin/dockerd"))
        .args(["--config-file", &at("daemon.json")])
        .args(["--host", &format!("unix://{}", at("docker.sock"))])
        .args(["--pidfile", &at("docker.pid")])
        .args(["--data-root", &at("docker-data")])
        .args(["--exec-root", &at("docker-exec")])
        .args(["--containerd", &at("containerd.sock")])
        .args(["--containerd-namespace", namespace])
        .args([
            "--containerd-plugins-namespace",
            &format!("{namespace}-plugins"),
        ])
        .args(["--cgroup-parent", &format!("/{namespace}")])
        .arg("--init-path")
        .arg(folder.join("bin/docker-init"))
        .arg("--userland-proxy-path")
        .arg(folder.join("sbin/docker-proxy"))
        .env(
            "PATH",
            search_path(&[&shim_folder(), &folder.join("bin"), &folder.join("sbin")]),
        );
    Daemon::start("dockerd", &mut command, &place.join("dockerd.log"))
}

fn docker<I, S>(folder: &Path, place: &Path, arguments: I) -> Call
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    Call::new(folder.join("bin/docker"), arguments)
        .env(
            "DOCKER_HOST",
            format!("unix://{}", place.join("docker.sock").display()),
        )
        .env("DOCKER_CONFIG", place.join("cli"))
}

fn configuration(containerd_store: bool, user_namespaces: bool) -> String {
    serde_json::json!({
        "userns-remap": if user_namespaces { "nobody:nogroup" } else { "" },
        "features": { "containerd-snapshotter": containerd_store },
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "log-level": "info",
    })
    .to_string()
}
