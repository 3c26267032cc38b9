//! `lighter install`, `status` and `uninstall`, on a containerd that a supervisor starts again.

mod foreign;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lighter_testkit::{Call, Cri, Image, Output, Version, node_tool, shim_folder};
use serde_json::{Value, json};

use lighter_testkit::shim::eventually;

const NAMES: [&str; 3] = ["containerd-shim-wasmtime-v1", "lighter-compiler", "lighter"];

/// A node without Lighter.
struct Node {
    cri: Cri,
}

impl Node {
    fn new(version: Version) -> Self {
        Self {
            cri: Cri::start_supervised(version),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cri.containerd().folder().join(name)
    }

    fn config(&self) -> String {
        fs::read_to_string(self.path("config.toml")).unwrap()
    }

    fn lighter(&self, arguments: &[&str]) -> Output {
        let config = self.path("config.toml").display().to_string();
        let state = self.path("lighter").display().to_string();
        let node = ["--config", &config, "--state", &state];
        let all: Vec<&str> = arguments.iter().chain(&node).copied().collect();
        Call::new(node_tool(), all).output()
    }

    fn install(&self, more: &[&str]) -> Output {
        let from = shim_folder().display().to_string();
        self.install_from(&from, more)
    }

    fn install_from(&self, from: &str, more: &[&str]) -> Output {
        let prefix = self.path("usr").display().to_string();
        let first = ["install", "--from", from, "--prefix", &prefix];
        self.lighter(&[&first, more].concat())
    }

    /// What `lighter status --json` says, and whether it succeeds.
    fn status(&self) -> (Value, bool) {
        let output = self.lighter(&["status", "--json"]);
        (
            serde_json::from_str(&output.stdout).unwrap(),
            output.status.success(),
        )
    }

    /// What `lighter doctor` finds wrong with containerd.
    fn faults(&self) -> Vec<String> {
        let config = self.path("config.toml").display().to_string();
        let said = Call::new(node_tool(), ["doctor", "--config", &config]).output();
        let about = [
            "containerd:",
            "handler:",
            "shim:",
            "cgroup driver:",
            "snapshotter:",
        ];
        let lines = said.stdout.lines().filter(|line| line.starts_with("FAIL"));
        let lines = lines.filter(|line| about.iter().any(|name| line.contains(name)));
        lines.map(str::to_owned).collect()
    }

    /// The files that installing may touch, with what is in them.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for name in ["", "usr", "usr/bin", "conf.d", "lighter"] {
            for entry in fs::read_dir(self.path(name))
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path();
                let ours =
                    !name.is_empty() || entry.file_name().to_string_lossy().contains("config");
                if ours && path.is_file() {
                    let bytes = fs::read(&path).unwrap();
                    files.push((path, bytes));
                }
            }
        }
        files.sort();
        files
    }

    /// Other programs than the built ones, which do the same.
    fn another_release(&self) -> String {
        let folder = self.path("release");
        fs::create_dir(&folder).unwrap();
        for name in NAMES {
            let mut bytes = fs::read(shim_folder().join(name)).unwrap();
            bytes.push(0);
            fs::write(folder.join(name), bytes).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(folder.join(name), mode).unwrap();
        }
        folder.display().to_string()
    }
}

#[test]
fn a_node_is_installed_runs_wasm_and_is_as_it_was() {
    for version in Version::ALL {
        let node = Node::new(version);
        let before = node.files();
        let (status, ok) = node.status();
        assert!(
            !ok && status["problems"][0]
                .as_str()
                .unwrap()
                .contains("not installed"),
            "{status}"
        );

        let faults = node.faults().join("\n");
        assert!(
            faults.contains("no handler wasmtime") && faults.contains("lighter install"),
            "{faults}"
        );

        let said = node.install(&[]).ok();
        assert!(
            said.contains("which knows the handler now"),
            "{version:?}: {said}"
        );
        let (status, ok) = node.status();
        assert!(ok, "{version:?}: {status}");
        assert_eq!(status["installed"], env!("CARGO_PKG_VERSION"));
        assert_eq!(
            (&status["configured"], &status["known"]),
            (&json!(true), &json!(true))
        );

        assert!(node.faults().is_empty(), "{version:?}: {:?}", node.faults());

        let image = Image::wasm("hello");
        node.cri.import(&image);
        let ended = node.cri.run(&image.reference(), &[]);
        assert_eq!(
            (ended.code, ended.reason.as_str()),
            (0, "Completed"),
            "{version:?}"
        );
        assert!(ended.log.contains("Hello from Wasm"), "{}", ended.log);
        // The shim reads our annotations, so CRI has passed them on.
        let refused = node.cri.attempt(
            &image.reference(),
            &[],
            &json!({ "lighter.dev/engine": "fast" }),
        );
        assert!(refused.unwrap_err().contains("fast"), "{version:?}");

        let now = node.files();
        let said = node.install(&[]).ok();
        assert!(said.starts_with("nothing to do"), "{version:?}: {said}");
        assert!(
            node.files() == now,
            "{version:?}: a second time changes nothing"
        );

        node.lighter(&["uninstall"]).ok();
        assert!(
            node.files() == before,
            "{version:?}: {:?}",
            paths(&node.files())
        );
        assert!(!node.path("usr").exists() && !node.path("lighter").exists());
        let said = node.lighter(&["uninstall"]).ok();
        assert!(said.starts_with("nothing to do"), "{said}");
    }
}

fn paths(files: &[(PathBuf, Vec<u8>)]) -> Vec<&Path> {
    files.iter().map(|(path, _)| path.as_path()).collect()
}

#[test]
fn pods_live_through_an_upgrade_and_keep_the_programs_they_need() {
    let node = Node::new(Version::V2);
    let before = node.files();
    node.install(&[]).ok();
    let image = Image::wasm("sleep");
    node.cri.import(&image);
    let pod = node.cri.pod(&json!({}));
    let container =
        json!({ "image": { "image": image.reference() }, "args": ["1000"], "linux": {} });
    let id = pod.start(&container).unwrap();
    let running = |id: &str| {
        node.cri
            .crictl(&["inspect", id])
            .ok()
            .contains("CONTAINER_RUNNING")
    };
    assert!(running(&id));

    let daemon = node.status().0["containerd"]["pid"].clone();
    let release = node.another_release();
    let said = node.install_from(&release, &[]).ok();
    assert!(
        said.contains("lighter-compiler, containerd-shim-wasmtime-v1, lighter"),
        "{said}"
    );
    assert!(!said.contains("restarted"), "{said}");
    assert_eq!(
        node.status().0["containerd"]["pid"],
        daemon,
        "there is nothing to restart"
    );
    assert!(running(&id));

    let refused = node.lighter(&["uninstall"]);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("--force") && refused.stderr.contains("default/"),
        "{}",
        refused.stderr
    );
    let said = node.lighter(&["uninstall", "--force"]).ok();
    assert!(said.contains("left the programs"), "{said}");
    assert!(
        running(&id),
        "it lives through the restart without the handler"
    );
    assert!(node.path("usr/bin").join(NAMES[0]).exists());
    drop(pod);
    eventually("the programs go", || {
        node.lighter(&["uninstall"])
            .stdout
            .contains("removed the programs")
    });
    // What was the other release is the test's own.
    assert!(node.files() == before, "{:?}", paths(&node.files()));
}

#[test]
fn a_configuration_that_was_reverted_is_noticed_and_repaired() {
    let node = Node::new(Version::V2);
    let before = node.config();
    node.install(&[]).ok();
    // As a node's image does.
    fs::write(node.path("config.toml"), &before).unwrap();
    let (status, ok) = node.status();
    let problem = status["problems"][0].as_str().unwrap();
    assert!(
        !ok && problem.contains("no longer has the handler wasmtime"),
        "{status}"
    );
    assert!(problem.contains("run `lighter install`"), "{problem}");
    node.install(&[]).ok();
    assert!(node.status().1);

    // What somebody else has written stays when we go.
    let changed = format!("{}\n[metrics]\naddress = \"\"\n", node.config());
    fs::write(node.path("config.toml"), changed).unwrap();
    node.lighter(&["uninstall"]).ok();
    assert_eq!(
        node.config(),
        format!("{before}\n[metrics]\naddress = \"\"\n")
    );
}

#[test]
fn a_folder_that_is_imported_gets_a_file_and_the_configuration_stays() {
    let node = Node::new(Version::V2);
    let folder = node.path("conf.d").display().to_string();
    let config = format!("imports = [\"{folder}/*.toml\"]\n{}", node.config());
    fs::write(node.path("config.toml"), &config).unwrap();
    node.install(&[]).ok();
    assert_eq!(node.config(), config);
    let text = fs::read_to_string(node.path("conf.d/90-lighter.toml")).unwrap();
    assert!(
        text.contains("pod_annotations = [\"lighter.dev/*\"]"),
        "{text}"
    );
    assert!(node.status().1);
    node.lighter(&["uninstall"]).ok();
    assert!(!node.path("conf.d").exists(), "it was made for the file");
    assert_eq!(node.config(), config);
}

#[test]
fn what_containerd_refuses_is_left_alone() {
    let node = Node::new(Version::V1_7);
    let broken = format!("{}x = [\n", node.config());
    fs::write(node.path("config.toml"), &broken).unwrap();
    let before = node.files();
    let refused = node.install(&[]);
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("config.toml"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("unterminated array"),
        "{}",
        refused.stderr
    );
    assert!(node.files() == before);
}

#[test]
fn a_containerd_that_does_not_come_back_gets_its_configuration_back() {
    let node = Node::new(Version::V2);
    let before = node.files();
    fs::write(node.path("refuse"), "io.containerd.wasmtime.v1").unwrap();
    let refused = node.install(&["--timeout", "3"]);
    assert!(!refused.status.success());
    for text in [
        "did not come back",
        "configuration is as it was",
        "answers again",
    ] {
        assert!(refused.stderr.contains(text), "{}", refused.stderr);
    }
    assert!(node.files() == before, "{:?}", paths(&node.files()));
    node.cri.crictl(&["version"]).ok();

    // The same when it is taken away: here containerd does not start without.
    fs::remove_file(node.path("refuse")).unwrap();
    node.install(&[]).ok();
    let installed = node.files();
    fs::write(node.path("refuse"), "state = ").unwrap();
    let refused = node.lighter(&["uninstall", "--timeout", "2"]);
    assert!(
        refused.stderr.contains("as it was before"),
        "{}",
        refused.stderr
    );
    assert!(node.files() == installed);
    fs::remove_file(node.path("refuse")).unwrap();
    eventually("containerd is back", || node.status().1);
}

#[test]
fn a_full_disk_leaves_the_installed_programs() {
    let node = Node::new(Version::V2);
    fs::create_dir(node.path("usr")).unwrap();
    let sizes = NAMES.map(|name| fs::metadata(shim_folder().join(name)).unwrap().size());
    // Room for the programs, and not for as many beside them.
    let size = format!("size={}", sizes.iter().sum::<u64>() + (2 << 20));
    let place = node.path("usr");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
        .arg(&place)
        .status();
    assert!(mounted.unwrap().success());
    node.install(&[]).ok();
    let before = node.files();
    let release = node.another_release();
    let refused = node.install_from(&release, &[]);
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("No space left") && refused.stderr.contains("make room"),
        "{}",
        refused.stderr
    );
    assert!(node.files() == before, "{:?}", paths(&node.files()));
    assert!(node.status().1);
    node.lighter(&["uninstall"]).ok();
    assert!(
        Command::new("umount")
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
}
