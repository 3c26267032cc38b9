//! A bundle of the OCI runtime specification, made anew for each run.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Stands in specs, scripts and links for the directory of the run, in which `volume` is.
pub(crate) const DIR: &str = "$DIR";

/// One feature of a bundle.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    args: Value,
    edits: Vec<(&'static str, Value)>,
    mounts: Vec<Value>,
    files: Vec<(&'static str, Entry)>,
    /// Why Lighter differs, if it does.
    pub(crate) reason: Option<&'static str>,
}

enum Entry {
    Directory,
    File(&'static str, u32),
    Link(&'static str),
}

impl Case {
    /// A container that runs a shell script.
    pub(crate) fn new(name: &'static str, script: &str) -> Self {
        let script = format!("exec 2>&1\n{script}");
        Self {
            name,
            args: json!(["/bin/sh", "-c", script]),
            edits: Vec::new(),
            mounts: Vec::new(),
            files: Vec::new(),
            reason: None,
        }
    }

    /// Runs this instead.
    pub(crate) fn args(mut self, args: Value) -> Self {
        self.args = args;
        self
    }

    /// Sets a field of the spec, by a JSON pointer (RFC 6901).
    pub(crate) fn set(mut self, pointer: &'static str, value: Value) -> Self {
        self.edits.push((pointer, value));
        self
    }

    pub(crate) fn mount(mut self, kind: &str, destination: &str, options: &[&str]) -> Self {
        self.mounts.push(json!({
            "type": kind, "source": kind, "destination": destination, "options": options,
        }));
        self
    }

    /// Binds a path of the run's directory.
    pub(crate) fn bind(mut self, source: &str, destination: &str, options: &[&str]) -> Self {
        self.mounts.push(json!({
            "type": "bind", "source": format!("{DIR}/{source}"), "destination": destination,
            "options": options,
        }));
        self
    }

    pub(crate) fn directory(mut self, path: &'static str) -> Self {
        self.files.push((path, Entry::Directory));
        self
    }

    pub(crate) fn file(mut self, path: &'static str, text: &'static str, mode: u32) -> Self {
        self.files.push((path, Entry::File(text, mode)));
        self
    }

    pub(crate) fn link(mut self, path: &'static str, target: &'static str) -> Self {
        self.files.push((path, Entry::Link(target)));
        self
    }

    /// Names the reason for which Lighter differs from both.
    pub(crate) fn differs(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Makes the directory of a run, and returns the spec, with absolute paths.
    pub(crate) fn make(&self, dir: &Path) -> Value {
        let rootfs = dir.join("rootfs");
        make_rootfs(&rootfs);
        let volume = dir.join("volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "of the volume\n").unwrap();
        fs::write(dir.join("single"), "of a file\n").unwrap();
        for (path, entry) in &self.files {
            let path = rootfs.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match entry {
                Entry::Directory => fs::create_dir_all(&path).unwrap(),
                Entry::File(text, mode) => {
                    fs::write(&path, text).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
                Entry::Link(target) => symlink(target, &path).unwrap(),
            }
        }
        let mut spec = base(&rootfs, &self.args);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.extend(self.mounts.iter().cloned());
        for (pointer, value) in &self.edits {
            set(&mut spec, pointer, value.clone());
        }
        let text = spec.to_string().replace(DIR, dir.to_str().unwrap());
        serde_json::from_str(&text).unwrap()
    }
}

fn set(spec: &mut Value, pointer: &str, value: Value) {
    let mut place = spec;
    for key in pointer.trim_start_matches('/').split('/') {
        place = match (key, place) {
            ("-", Value::Array(all)) => {
                all.push(Value::Null);
                all.last_mut().unwrap()
            }
            (key, place) => &mut place[key],
        };
    }
    *place = value;
}

/// All of busybox, and the directories that every image has.
fn make_rootfs(rootfs: &Path) {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    fs::set_permissions(rootfs.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let busybox = rootfs.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).unwrap();
    let installed = Command::new("chroot")
        .arg(rootfs)
        .args(["/bin/busybox", "--install", "-s", "/bin"])
        .status()
        .unwrap();
    assert!(installed.success());
}

fn base(rootfs: &PathBuf, args: &Value) -> Value {
    let capabilities = json!(lighter_testkit::shim::DEFAULT_CAPABILITIES);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 },
            "env": ["PATH=/bin", "HOME=/root"],
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": { "path": rootfs },
        "hostname": "bundle",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "network" },
            ],
        },
    })
}
