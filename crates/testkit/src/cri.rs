//! A private containerd as a kubelet uses it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
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
    /// What the CRI calls the end: `Completed`, `Error` or `OOMKilled`.
    pub reason: String,
    /// Its log.
    pub log: String,
}

/// A network plugin (CNI 1.0) that gives a pod an address and changes nothing.
const NETWORK_PLUGIN: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}' ;;
ADD)
    echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'$CNI_IFNAME'","sandbox":"'$CNI_NETNS'"}],
        "ips":[{"address":"192.0.2.1/32","interface":0}]}'
    ;;
esac
"#;

/// The containerd namespace of the CRI.
const NAMESPACE: &str = "k8s.io";

impl Cri {
    /// Starts containerd with an image for pods' own containers.
    pub fn start(version: Version) -> Self {
        Self::start_with_environment(version, &[])
    }

    /// The same with variables in containerd's environment, which is its shims', too.
    pub fn start_with_environment(version: Version, environment: &[(&str, &str)]) -> Self {
        Self::on(Containerd::start_with_cri(version, environment))
    }

    /// Starts one that knows no handler of Lighter yet, and that is started again whenever it ends. Its
    /// configuration is `config.toml` in its folder; as long as that has the text of a file `refuse`
    /// beside it, it is not.
    pub fn start_supervised(version: Version) -> Self {
        Self::on(Containerd::start_supervised(version))
    }

    fn on(containerd: Containerd) -> Self {
        let cri = Self { containerd };
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
        let pod = self.pod(annotations);
        let mut container = json!({ "image": { "image": image }, "linux": {} });
        if !command.is_empty() {
            container["command"] = json!(command);
        }
        pod.start(&container).and_then(|id| pod.wait(&id))
    }

    /// Runs a pod whose runtime handler is `wasmtime`. Dropped, it is removed with all in it.
    #[track_caller]
    pub fn pod(&self, annotations: &Value) -> Pod<'_> {
        self.pod_named(&self.containerd.next_id(), annotations)
    }

    /// The same with this name.
    #[track_caller]
    pub fn pod_named(&self, name: &str, annotations: &Value) -> Pod<'_> {
        // Network mode 2 is the node's.
        self.run_pod(name, annotations, &json!({ "network": 2 }))
    }

    /// Runs a pod with a user namespace in which all ids are `first` and the following of the host. The
    /// value is the `security_context` that its containers have to have, too.
    ///
    /// containerd has the network of such a pod in its user namespace, so that it needs a network plugin:
    /// one that does nothing.
    #[track_caller]
    pub fn pod_with_users(&self, first: u32) -> (Pod<'_>, Value) {
        let range = json!([{ "container_id": 0, "host_id": first, "length": 65536 }]);
        // Mode 0 is the pod's.
        let users = json!({ "mode": 0, "uids": range, "gids": range });
        let options = json!({ "network": 0, "userns_options": users });
        self.add_network();
        let pod = self.run_pod(&self.containerd.next_id(), &json!({}), &options);
        (pod, json!({ "namespace_options": options }))
    }

    fn add_network(&self) {
        let place = self.containerd.folder();
        let plugins = place.join("cni-plugins");
        fs::create_dir_all(&plugins).expect("make the folder of network plugins");
        for name in ["loopback", "nothing"] {
            let file = plugins.join(name);
            fs::write(&file, NETWORK_PLUGIN).expect("write a network plugin");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&file, mode).expect("make the plugin executable");
        }
        let list =
            json!({ "cniVersion": "1.0.0", "name": "nothing", "plugins": [{ "type": "nothing" }] });
        fs::write(place.join("cni/nothing.conflist"), list.to_string()).expect("name the network");
        let end = Instant::now() + Duration::from_secs(20);
        let is_ready = || {
            let info = self.call(&["info", "--output", "json"]).unwrap_or_default();
            let info: Value = serde_json::from_str(&info).unwrap_or_default();
            let conditions = info["status"]["conditions"].as_array().cloned();
            conditions
                .unwrap_or_default()
                .iter()
                .any(|condition| condition["type"] == "NetworkReady" && condition["status"] == true)
        };
        while !is_ready() {
            assert!(Instant::now() < end, "containerd does not see the network");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a pod with these options of its namespaces.
    fn run_pod(&self, name: &str, annotations: &Value, namespaces: &Value) -> Pod<'_> {
        let place = self.containerd.folder();
        let (logs, cgroup) = (place.join("logs"), self.containerd.namespace());
        let cgroup = Driver::of_tests().top(cgroup);
        fs::create_dir_all(&logs).expect("make the folder of logs");
        let pod = json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "attempt": 1 },
            "annotations": annotations,
            "log_directory": logs,
            "linux": {
                "cgroup_parent": format!("/{cgroup}"),
                "security_context": { "namespace_options": namespaces },
            },
        });
        let file = self.request(name, &pod);
        let id = self.crictl(&["runp", "--runtime", "wasmtime", &file]).ok();
        Pod {
            cri: self,
            file,
            id: id.trim().to_owned(),
        }
    }

    /// Writes a request for `crictl`.
    fn request(&self, name: &str, request: &Value) -> String {
        let file = self.containerd.folder().join(format!("{name}.json"));
        fs::write(&file, request.to_string()).expect("write a request");
        file.display().to_string()
    }

    /// What `crictl` prints, or what it says when it fails.
    fn call(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.crictl(arguments).output();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(output.stderr)
        }
    }
}

/// A pod that runs.
pub struct Pod<'a> {
    cri: &'a Cri,
    /// The request that made it.
    file: String,
    /// Its id, which is that of its own container, too.
    pub id: String,
}

impl Pod<'_> {
    /// Starts a container, of a request without log and with or without a name, and answers its id.
    /// The error is what `crictl` says.
    pub fn start(&self, container: &Value) -> Result<String, String> {
        let name = self.cri.containerd.next_id();
        let mut request = container.clone();
        if request["metadata"].is_null() {
            request["metadata"] = json!({ "name": name });
        }
        request["log_path"] = json!(format!("{name}.log"));
        let request = self.cri.request(&name, &request);
        let create = ["create", "--no-pull", &self.id, &request, &self.file];
        let id = self.cri.call(&create)?.trim().to_owned();
        self.cri.call(&["start", &id])?;
        Ok(id)
    }

    /// Waits for a container's end.
    pub fn wait(&self, id: &str) -> Result<Ended, String> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.cri.call(&["inspect", "--output", "json", id])?;
            let status: Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
            let status = &status["status"];
            if status["state"] == "CONTAINER_EXITED" {
                return Ok(Ended {
                    code: status["exitCode"].as_i64().unwrap_or(-1),
                    reason: status["reason"].as_str().unwrap_or_default().to_owned(),
                    log: self.cri.call(&["logs", id])?,
                });
            }
            if Instant::now() > end {
                return Err(format!("runs longer than a minute: {status}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        for arguments in [&["stopp", &self.id][..], &["rmp", "--force", &self.id]] {
            let done = self.cri.call(arguments);
            // One failure is enough to be told of.
            if !thread::panicking() {
                done.unwrap_or_else(|error| panic!("crictl {arguments:?}: {error}"));
            }
        }
    }
}
