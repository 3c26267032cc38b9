//! A private containerd as a kubelet uses it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::call::Call;
use crate::cgroup::Driver;
use crate::configuration::PAUSE;
use crate::containerd::{Containerd, Version};
use crate::image::Image;
use crate::paths::cache;

/// A containerd with its CRI on, and `crictl`. The handler `wasmtime` is Lighter's runtime.
pub struct Cri {
    containerd: Containerd,
}

/// How a container ended, and what it printed on stdout and stderr.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub code: i64,
    /// Its log.
    pub log: String,
}

/// The containerd namespace of the CRI.
const NAMESPACE: &str = "k8s.io";

impl Cri {
    /// Starts containerd with an image for pods' own containers.
    pub fn start(version: Version) -> Self {
        let cri = Self {
            containerd: Containerd::start_with_cri(version),
        };
        let pause = Image::busybox()
            .entrypoint(["/bin/sleep", "1000000"])
            .command([]);
        cri.import(&pause);
        cri.containerd
            .ctr_in(NAMESPACE, ["images", "tag", &pause.reference(), PAUSE])
            .ok();
        cri
    }

    /// The containerd below.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Imports an image without a registry.
    #[track_caller]
    pub fn import(&self, image: &Image) {
        let name = format!("image-{}.tar", self.containerd.next_id());
        let file = self.containerd.folder().join(name);
        fs::write(&file, image.archive()).expect("write the image's archive");
        let file_name = file.display().to_string();
        let import = ["images", "import", "--all-platforms", &file_name];
        self.containerd.ctr_in(NAMESPACE, import).output().exits(0);
        let _ = fs::remove_file(file);
    }

    /// A call of `crictl`.
    ///
    /// # Panics
    /// When it has not been built; the text names the command that does it.
    pub fn crictl(&self, arguments: &[&str]) -> Call {
        let crictl = cache().join("cri/crictl");
        assert!(
            crictl.is_file(),
            "no {}: run test/cri/build.sh crictl",
            crictl.display()
        );
        let endpoint = format!("unix://{}", self.containerd.socket().display());
        // Otherwise it reads the machine's configuration.
        let configuration = self.containerd.folder().join("crictl.yaml");
        if !configuration.exists() {
            fs::write(&configuration, "timeout: 30\n").expect("write crictl's configuration");
        }
        let file = configuration.display().to_string();
        let first = ["-c", &file, "-r", &endpoint, "-i", &endpoint];
        Call::new(crictl, first.iter().chain(arguments))
    }

    /// Runs a container of a pulled image to its end, in a pod of its own whose runtime handler
    /// is `wasmtime`; with the image's command, or with this one.
    #[track_caller]
    pub fn run(&self, image: &str, command: &[&str]) -> Ended {
        match self.attempt(image, command, &json!({})) {
            Ok(ended) => ended,
            Err(error) => panic!("{image}: {error}"),
        }
    }

    /// The same in a pod with annotations. Answers what `crictl` says if the container cannot be
    /// created or started.
    #[track_caller]
    pub fn attempt(
        &self,
        image: &str,
        command: &[&str],
        annotations: &Value,
    ) -> Result<Ended, String> {
        let name = self.containerd.next_id();
        let place = self.containerd.folder();
        let (logs, cgroup) = (place.join("logs"), self.containerd.namespace());
        let cgroup = Driver::of_tests().top(cgroup);
        fs::create_dir_all(&logs).expect("make the folder of logs");
        // Network mode 2 is the node's.
        let pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "attempt": 1 },
            "annotations": annotations,
            "log_directory": logs,
            "linux": {
                "cgroup_parent": format!("/{cgroup}"),
                "security_context": { "namespace_options": { "network": 2 } },
            },
        });
        let mut container = json!({
            "metadata": { "name": name },
            "image": { "image": image },
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        if !command.is_empty() {
            container["command"] = json!(command);
        }
        let write = |kind: &str, value: &Value| {
            let file = place.join(format!("{name}-{kind}.json"));
            fs::write(&file, value.to_string()).expect("write a request");
            file.display().to_string()
        };
        let (pod, container) = (write("pod", &pod), write("container", &container));
        let pod_id = self.crictl(&["runp", "--runtime", "wasmtime", &pod]).ok();
        let pod_id = pod_id.trim();
        let ended = self.run_in(pod_id, &container, &pod);
        self.crictl(&["stopp", pod_id]).ok();
        self.crictl(&["rmp", "--force", pod_id]).ok();
        ended
    }

    fn run_in(&self, pod_id: &str, container: &str, pod: &str) -> Result<Ended, String> {
        let call = |arguments: &[&str]| {
            let output = self.crictl(arguments).output();
            if output.status.success() {
                Ok(output.stdout)
            } else {
                Err(output.stderr)
            }
        };
        let id = call(&["create", "--no-pull", pod_id, container, pod])?;
        let id = id.trim();
        call(&["start", id])?;
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = call(&["inspect", "--output", "json", id])?;
            let status: Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
            let status = &status["status"];
            if status["state"] == "CONTAINER_EXITED" {
                return Ok(Ended {
                    code: status["exitCode"].as_i64().unwrap_or(-1),
                    log: call(&["logs", id])?,
                });
            }
            if Instant::now() > end {
                return Err(format!("runs longer than a minute: {status}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
