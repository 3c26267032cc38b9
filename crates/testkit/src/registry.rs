//! A private registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::call::Call;
use crate::daemon::Daemon;
use crate::docker::Docker;
use crate::paths::daemon;
use crate::sandbox::Sandbox;

/// A docker-registry on a free port of 127.0.0.1, without TLS and without users, with its
/// contents in a private folder.
pub struct Registry {
    // Dropped in this order: the daemon is stopped before its place is cleaned.
    daemon: Daemon,
    sandbox: Sandbox,
    folder: PathBuf,
    address: String,
}

impl Registry {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::launch(|program| Command::new(program))
    }

    /// The same on the loopback interface of a Docker Engine, which has a network of its own.
    pub fn start_inside(docker: &Docker) -> Self {
        let pid = docker.pid().to_string();
        Self::launch(|program| {
            // It is replaced by the program, so that the child's pid is the registry's.
            let mut command = Command::new("nsenter");
            command.args(["--net", "--target", &pid]).arg(program);
            command
        })
    }

    fn launch(command: impl Fn(&Path) -> Command) -> Self {
        let folder = daemon(&["registry-"]).join("usr/bin");
        let sandbox = Sandbox::new();
        let place = &sandbox.scope.folder;
        let (file, log) = (place.join("registry.yml"), place.join("registry.log"));
        fs::write(&file, configuration(place)).expect("write the registry's configuration");
        let mut command = command(&folder.join("docker-registry"));
        command.arg("serve").arg(file);
        let mut daemon = Daemon::start("docker-registry", &mut command, &log);
        // It takes a free port and says which.
        daemon.await_ready(|| Call::new("grep", ["-q", LISTENING, &log.display().to_string()]));
        let text = daemon.log();
        let port = text
            .split_once(LISTENING)
            .and_then(|(_, rest)| rest.split('"').next())
            .and_then(|address| address.rsplit(':').next())
            .unwrap_or_else(|| panic!("no port in {text}"));
        let address = format!("127.0.0.1:{port}");
        Self {
            daemon,
            sandbox,
            folder,
            address,
        }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The full name of an image in it: `127.0.0.1:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// A call of `crane`, from outside: only for a registry that [`Registry::start`] started.
    pub fn crane<const N: usize>(&self, arguments: [&str; N]) -> Call {
        Call::new(self.folder.join("crane"), arguments).env("HOME", &self.sandbox.scope.folder)
    }

    /// Everything that it has printed until now: one line for each request.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}

const LISTENING: &str = "listening on ";

fn configuration(place: &Path) -> String {
    let place = place.display();
    format!(
        r#"version: 0.1
log: {{level: info, formatter: text, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{place}/registry"}}}}
http: {{addr: "127.0.0.1:0"}}
"#
    )
}
