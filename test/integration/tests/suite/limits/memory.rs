//! Guests that the kernel ends for want of memory. What a guest grows by is refused below the
//! limit; files in memory are not the guest's own, and nothing but the kernel counts them.

use std::fs;
use std::path::{Path, PathBuf};

use lighter_testkit::{Cri, Image, Pod, Process, Version, guest};
use serde_json::{Value, json};

use super::assert_killed_for_memory;
use crate::containerd_with;
use lighter_testkit::shim::{Shim, eventually};

const LIMIT: u64 = 32 << 20;

#[test]
fn a_guest_that_fills_a_file_system_in_memory_is_killed() {
    let image = Image::wasm("fill");
    let containerd = containerd_with(&image);
    let tmpfs = "type=tmpfs,src=tmpfs,dst=/data,options=rw";
    let flags = ["--memory-limit", &LIMIT.to_string(), "--mount", tmpfs];
    assert_killed_for_memory(
        &containerd,
        &image,
        &flags,
        &["/fill.wasm", "/data/file", "64"],
    );
}

/// As `docker restart` does: systemd may keep the scope of what was killed.
#[test]
fn a_container_that_was_killed_for_memory_can_be_started_again() {
    let shim = Shim::start();
    for (mebibytes, status) in [("64", 137), ("64", 137), ("4", 0)] {
        shim.create("a", &filling(&shim, "a", mebibytes)).unwrap();
        shim.start_task("a").unwrap();
        assert_eq!(shim.wait("a"), status);
        shim.delete("a").unwrap();
    }
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// The spec of a guest that fills so much of a file system in memory; more than [`LIMIT`] is its end.
pub(super) fn filling(shim: &Shim, id: &str, mebibytes: &str) -> Value {
    fs::copy(guest("fill"), shim.rootfs().join("fill.wasm")).unwrap();
    fs::create_dir_all(shim.rootfs().join("data")).unwrap();
    let mut spec = shim.spec(id, &["/fill.wasm", "/data/file", mebibytes]);
    let mount = json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs" });
    spec["mounts"].as_array_mut().unwrap().push(mount);
    spec["linux"]["resources"] = json!({ "memory": { "limit": LIMIT } });
    spec
}

/// A volume in the node's memory, as an `emptyDir` of a pod with `medium: Memory`.
struct Volume(PathBuf);

impl Volume {
    fn new(name: &str) -> Self {
        let path = Path::new("/dev/shm").join(format!("lighter-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Demands that a container of a pod is killed for memory. containerd learns of the end and of its
/// reason in different ways, and says `Error` until it has heard the second.
fn assert_killed(pod: &Pod<'_>, id: &str) {
    eventually("OOMKilled", || {
        let ended = pod.wait(id).unwrap();
        assert_eq!(ended.code, 137, "{ended:?}");
        ended.reason == "OOMKilled"
    });
}

#[test]
fn a_pod_says_that_its_guest_was_killed_for_memory() {
    let image = Image::wasm("fill");
    let cri = Cri::start(Version::V2);
    cri.import(&image);
    let volume = Volume::new("own");
    let container = |mebibytes: &str| {
        json!({
            "image": { "image": image.reference() },
            "command": ["/fill.wasm", "/data/file", mebibytes],
            "mounts": [{ "host_path": volume.0, "container_path": "/data" }],
            "linux": { "resources": { "memory_limit_in_bytes": LIMIT } },
        })
    };
    let pod = cri.pod(&json!({}));
    let id = pod.start(&container("64")).unwrap();
    assert_killed(&pod, &id);
    let ended = pod.start(&container("4")).and_then(|id| pod.wait(&id));
    let ended = ended.unwrap();
    assert_eq!(
        (ended.code, ended.reason.as_str()),
        (0, "Completed"),
        "{ended:?}"
    );
}

/// A kubelet sets a pod's limit on the cgroup that holds those of the containers, and it is not in
/// any container's spec.
#[test]
fn a_pods_limit_holds_for_its_guest_and_spares_the_pause_container() {
    let image = Image::wasm("fill");
    let cri = Cri::start(Version::V2);
    cri.import(&image);
    let pod = cri.pod(&json!({}));
    let cgroup = |pid: i32| {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let line = table
            .lines()
            .find(|line| line.contains(":memory:"))
            .or_else(|| table.lines().find(|line| line.starts_with("0::")));
        line.unwrap()
            .rsplit_once(':')
            .unwrap()
            .1
            .trim_start_matches('/')
            .to_owned()
    };
    let pid_of = |id: &str, what: &str| {
        let text = cri.crictl(&[what, "--output", "json", id]).ok();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        i32::try_from(status["info"]["pid"].as_i64().unwrap()).unwrap()
    };
    let pause = pid_of(&pod.id, "inspectp");
    let of_pause = PathBuf::from(cgroup(pause));
    let of_pod = of_pause.parent().unwrap().to_owned();
    let root = Path::new("/sys/fs/cgroup");
    let (legacy, unified) = (
        root.join("memory")
            .join(&of_pod)
            .join("memory.limit_in_bytes"),
        root.join(&of_pod).join("memory.max"),
    );
    let file = if legacy.exists() { legacy } else { unified };
    fs::write(&file, LIMIT.to_string()).unwrap();

    let volume = Volume::new("pods");
    let container = |command: &[&str]| {
        json!({
            "image": { "image": image.reference() },
            "command": command,
            "mounts": [{ "host_path": volume.0, "container_path": "/data" }],
            "linux": {},
        })
    };
    let id = pod
        .start(&container(&["/fill.wasm", "/data/file", "64"]))
        .unwrap();
    assert_killed(&pod, &id);
    assert!(
        Process::read(pause).is_some_and(|process| process.state != 'Z'),
        "the pause container still runs"
    );
    fs::remove_file(volume.0.join("file")).unwrap();
    let id = pod
        .start(&container(&["/fill.wasm", "/data/file", "4"]))
        .unwrap();
    assert_eq!(pod.wait(&id).unwrap().code, 0);
}
