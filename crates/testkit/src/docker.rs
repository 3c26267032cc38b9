//! A private Docker Engine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::call::Call;
use crate::configuration::CriPlugin;
use crate::containerd::{Containerd, Version, search_path};
use crate::daemon::Daemon;
use crate::image::Image;
use crate::leaks::Leaks;
use crate::paths::{daemon, shim_folder};
use crate::sandbox::{Sandbox, Scope};

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
}

impl Docker {
    /// Starts containerd and dockerd and waits until both answer.
    pub fn start() -> Self {
        Self::start_with(true)
    }

    /// The same with images in dockerd's own store, as engines have it that were upgraded.
    pub fn start_with_graph_driver() -> Self {
        Self::start_with(false)
    }

    fn start_with(containerd_store: bool) -> Self {
        let folder = daemon(&["docker-"]).join("usr");
        let containerd = Containerd::start_in(Sandbox::new(), Version::V2, "debug", CriPlugin::Off);
        let place = containerd.folder();
        fs::write(place.join("daemon.json"), configuration(containerd_store))
            .expect("write daemon.json");
        let plugins = place.join("cli/cli-plugins");
        fs::create_dir_all(&plugins).expect("make the folder of docker's configuration");
        let buildx = "usr/libexec/docker/cli-plugins/docker-buildx";
        symlink(
            daemon(&["buildx-"]).join(buildx),
            plugins.join("docker-buildx"),
        )
        .expect("link docker's plugin");
        let mut daemon = launch(&folder, &containerd);
        daemon.await_ready(|| docker(&folder, place, ["version"]));
        Self {
            daemon,
            containerd,
            folder,
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
        fs::write(&file, image.archive()).expect("write the image's archive");
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

fn launch(folder: &Path, containerd: &Containerd) -> Daemon {
    let place = containerd.folder();
    let at = |name: &str| place.join(name).display().to_string();
    let namespace = containerd.namespace();
    let mut command = Command::new("unshare");
    command
        // The shell is replaced by dockerd, so that the child's pid is dockerd's.
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec \"$@\"",
            "sh",
        ])
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

fn configuration(containerd_store: bool) -> String {
    serde_json::json!({
        "features": { "containerd-snapshotter": containerd_store },
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "log-level": "info",
    })
    .to_string()
}
