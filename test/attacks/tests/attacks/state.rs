//! What an ordinary user of the node could read of our state, and what a `start` leaves that was
//! killed.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as Streams};
use std::time::Duration;

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use lighter_testkit::shim::{Shim, Stdio, eventually};
use lighter_testkit::{Process, shim_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// User and group of nobody.
const NOBODY: u32 = 65534;

/// The files with `secret` that this user can read.
fn readable(secret: &str, user: u32, places: &[PathBuf]) -> Vec<PathBuf> {
    let output = Command::new("/bin/busybox")
        .args(["grep", "-r", "-l", "-s", secret])
        .args(places)
        .uid(user)
        .gid(user)
        .current_dir("/")
        .output()
        .unwrap();
    let files = String::from_utf8(output.stdout).unwrap();
    files.lines().map(PathBuf::from).collect()
}

/// Secrets are in annotations (they are libcontainer's state) and in the environment (of the specs
/// that it is given, and of execs).
#[test]
fn no_other_user_reads_the_state_of_a_container() {
    let shim = Shim::start();
    let secret = format!("secret-{}", shim.namespace);
    let hook = shim.rootfs().join("hook");
    fs::write(&hook, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    let mut bundles = Vec::new();
    for (id, args) in [
        ("guest", &["/sleep.wasm", "100"][..]),
        ("linux", &["/bin/sh", "-c", "kill -STOP $$"][..]),
    ] {
        let mut spec = shim.spec(id, args);
        spec["annotations"] = json!({ "example.com/secret": secret });
        spec["process"]["env"] = json!(["PATH=/bin", format!("SECRET={secret}")]);
        // libcontainer keeps hooks, with their environment.
        let hook = json!({ "path": hook, "env": [format!("SECRET={secret}")] });
        spec["hooks"] = json!({ "poststop": [hook] });
        // A cgroup mount and the node's processes: the spec has to be adapted.
        spec["mounts"].as_array_mut().unwrap().push(json!(
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }
        ));
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .remove(0);
        shim.create(id, &spec).unwrap();
        shim.start_task(id).unwrap();
        let mut process = shim.process(args);
        process["env"] = json!([format!("SECRET={secret}")]);
        shim.exec(id, "later", &process, Stdio::default()).unwrap();
        // containerd's own, which it makes for root alone.
        fs::remove_file(shim.bundle(id).join("config.json")).unwrap();
        bundles.push(shim.bundle(id));
    }
    let mut places: Vec<PathBuf> = ["/run/lighter", "/var/lib/lighter/debug"]
        .map(Into::into)
        .into();
    places.extend(bundles.clone());
    let there = readable(&secret, 0, &places);
    for place in places.iter().filter(|place| !place.ends_with("debug")) {
        let found = there.iter().any(|file| file.starts_with(place));
        assert!(found, "nothing is found in {}: {there:?}", place.display());
    }
    let none = Vec::<PathBuf>::new();
    assert_eq!(readable(&secret, NOBODY, &places), none);
    assert_private(Path::new("/run/lighter"));
    for bundle in &bundles {
        for name in ["guest", "native"] {
            assert_private(&bundle.join(name));
        }
    }
    for id in ["guest", "linux"] {
        shim.delete_exec(id, "later").unwrap();
        shim.remove(id);
    }
    // What was counted is kept, with the annotations.
    let kept = [PathBuf::from("/run/lighter/.ended")];
    assert_eq!(readable(&secret, 0, &kept).len(), 1);
    assert_eq!(readable(&secret, NOBODY, &kept), none);
}

/// All below `path` belongs to root alone.
fn assert_private(path: &Path) {
    let Ok(found) = fs::symlink_metadata(path) else {
        return;
    };
    let mode = found.mode() & 0o777;
    assert!(
        found.is_dir() && mode == 0o700,
        "{} has {mode:o}",
        path.display()
    );
    for entry in fs::read_dir(path).unwrap().flatten() {
        let Ok(found) = entry.metadata() else {
            continue;
        };
        if found.is_file() {
            let mode = found.mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
        }
    }
}

/// A pod of which nothing but a `start` is there, whose socket is in a directory of its own.
struct Pod {
    dir: tempfile::TempDir,
    namespace: String,
}

impl Pod {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sockets")).unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        Self {
            dir,
            namespace: format!("lighter-{name}-{}", std::process::id()),
        }
    }

    fn call(&self, action: &str) -> Command {
        let mut command = Command::new(shim_binary());
        command
            .args(["-namespace", &self.namespace, "-id", "pod"])
            .args(["-address", "/nowhere", action])
            .current_dir(&self.dir);
        command
    }

    #[expect(clippy::disallowed_methods, reason = "a test may have children")]
    fn start(&self, stdout: Streams) -> Child {
        let mut params = BootstrapParams::new();
        params.instance_id = "pod".to_owned();
        params.namespace.clone_from(&self.namespace);
        params.socket_dir = self.dir.path().join("sockets").to_str().map(str::to_owned);
        let mut start = self
            .call("start")
            .stdin(Streams::piped())
            .stdout(stdout)
            .stderr(Streams::null())
            .spawn()
            .unwrap();
        let bytes = params.write_to_bytes().unwrap();
        start.stdin.take().unwrap().write_all(&bytes).unwrap();
        start
    }

    /// What containerd calls when `start` has failed.
    fn delete(&self) {
        assert!(self.call("delete").output().unwrap().status.success());
    }

    fn processes(&self) -> Vec<Process> {
        let mut processes = Process::all();
        processes.retain(|process| {
            process.command_line.contains(&self.namespace) && process.state != 'Z'
        });
        processes
    }

    fn sockets(&self) -> usize {
        fs::read_dir(self.dir.path().join("sockets"))
            .unwrap()
            .count()
    }

    #[track_caller]
    fn assert_nothing_is_left(&self, what: &str) {
        eventually(&format!("{what}: a process is left"), || {
            self.processes().is_empty()
        });
        assert_eq!(self.sockets(), 0, "{what}: a socket is left");
    }

    /// That a whole `start` works, and its shim serves and ends when it is told to.
    fn assert_starts(&self) {
        use containerd_shim_protos::{Client, TaskClient, api, ttrpc::context};
        let output = self.start(Streams::piped()).wait_with_output().unwrap();
        assert!(output.status.success());
        let address = BootstrapResult::parse_from_bytes(&output.stdout)
            .unwrap()
            .address;
        let client = TaskClient::new(Client::connect(&address).unwrap());
        let limit = || context::with_duration(Duration::from_secs(60));
        client
            .connect(limit(), &api::ConnectRequest::new())
            .unwrap();
        client
            .shutdown(limit(), &api::ShutdownRequest::new())
            .unwrap();
        self.assert_nothing_is_left("after Shutdown");
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}

/// containerd kills `start` when its caller gives up, and dies itself.
#[test]
fn a_killed_start_leaves_nothing() {
    let pod = Pod::new("killed");
    let mut killed = 0;
    for step in 0..100 {
        let mut start = pod.start(Streams::null());
        std::thread::sleep(Duration::from_micros(step * 150));
        start.kill().unwrap();
        if start.wait().unwrap().success() {
            // It was faster: the shim is containerd's now.
            for process in pod.processes() {
                kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
            }
        } else {
            killed += 1;
        }
        eventually("a process is left", || pod.processes().is_empty());
        pod.delete();
        pod.assert_nothing_is_left(&format!("killed after {step} steps"));
        if step % 20 == 0 {
            pod.assert_starts();
        }
    }
    assert!(killed > 3, "only {killed} were killed before they answered");
}

/// The shim is there, and the answer is not.
#[test]
fn a_start_that_cannot_answer_leaves_nothing() {
    let pod = Pod::new("unanswered");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = File::from(OwnedFd::from(writer.try_clone().unwrap()));
    filler.write_all(&[0; 1 << 16]).unwrap();
    let mut start = pod.start(writer.into());
    eventually("the shim is not there", || pod.processes().len() == 2);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(pod.processes().len(), 2, "it waits for its start");
    start.kill().unwrap();
    start.wait().unwrap();
    pod.assert_nothing_is_left("killed before it answered");
    drop((reader, filler));
    pod.assert_starts();

    // Nobody reads what it says.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert!(!pod.start(writer.into()).wait().unwrap().success());
    pod.assert_nothing_is_left("refused");
}

/// Ten minutes are too long for a test: it says what `start` says, with one second.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "it ends by itself, which is what is tested"
)]
fn a_shim_that_gets_no_task_ends() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let handover = json!({
        "socket": socket, "events": "", "pod": null, "trace": null,
        "compiler": "/nonexistent", "warning": null, "unused_seconds": 1,
    });
    let mut shim = Command::new(shim_binary())
        .args(["-namespace", "attacks", "-id", "unused", "serve"])
        .env("LIGHTER_SHIM", handover.to_string())
        .current_dir(dir.path())
        .stdin(Streams::piped())
        .stdout(OwnedFd::from(listener))
        .spawn()
        .unwrap();
    // Its address is known: it is not the end of `start` that ends it.
    shim.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let begin = std::time::Instant::now();
    eventually("it ends", || shim.try_wait().unwrap().is_some());
    assert!(begin.elapsed() >= Duration::from_millis(900));
    assert!(!socket.exists(), "its socket is left");
}
