//! What `ctr`, `docker` and `crictl` say that a guest uses, against the kernel's own files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lighter_testkit::{Cri, Docker, Image, Version};
use serde_json::{Value, json};

use crate::{containerd_with, init};
use lighter_testkit::shim::eventually;

/// How long a load is watched.
const TIME: Duration = Duration::from_secs(6);
const MIB: f64 = (1 << 20) as f64;
/// What a guest's process has beside the guest's memory is less.
const OVERHEAD: f64 = 12.0 * MIB;

/// The counters of a process's cgroup, as the kernel has them.
struct Kernel {
    processor: PathBuf,
    memory: PathBuf,
    unified: bool,
}

impl Kernel {
    fn of(pid: i32) -> Self {
        let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let below = |controller: &str| {
            let line = table.lines().find(|line| {
                let names = line.split(':').nth(1).unwrap();
                names.split(',').any(|name| name == controller)
            });
            let path = line.unwrap().rsplit_once(':').unwrap().1;
            path.trim_start_matches('/').to_owned()
        };
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let folder = |controller: &str| {
            if unified {
                root.join(below(""))
            } else {
                root.join(controller).join(below(controller))
            }
        };
        Self {
            processor: folder("cpuacct"),
            memory: folder("memory"),
            unified,
        }
    }

    fn keyed(folder: &Path, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// Nanoseconds that were computed.
    fn computed(&self) -> u64 {
        if self.unified {
            1000 * Self::keyed(&self.processor, "cpu.stat", "usage_usec")
        } else {
            let text = fs::read_to_string(self.processor.join("cpuacct.usage")).unwrap();
            text.trim().parse().unwrap()
        }
    }

    /// Bytes of memory that cannot be freed at once: what all three call usage or working set.
    fn held(&self) -> f64 {
        let (file, inactive) = if self.unified {
            ("memory.current", "inactive_file")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file")
        };
        let usage: u64 = fs::read_to_string(self.memory.join(file))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        (usage - Self::keyed(&self.memory, "memory.stat", inactive)) as f64
    }
}

/// Demands that a counter of nanoseconds is the kernel's at the time of asking, twice, and that
/// the guest computes a fifth of a processor meanwhile.
fn assert_a_fifth(kernel: &Kernel, reported: impl Fn() -> u64) {
    let sample = || {
        let (before, value, after) = (kernel.computed(), reported(), kernel.computed());
        // cgroup v2 counts in microseconds, which the CRI has in nanoseconds.
        assert!(
            (before..=after + 1000).contains(&value),
            "{value} is not between the kernel's {before} and {after}"
        );
        value
    };
    let (first, start) = (sample(), Instant::now());
    std::thread::sleep(TIME);
    let computed = (sample() - first) as f64 / 1e9;
    let share = computed / start.elapsed().as_secs_f64();
    println!("reported share of a processor with a quota of 0.2: {share:.3}");
    assert!((0.17..0.23).contains(&share), "{share}");
}

/// Demands that a guest that holds so many MiB has the usage that the kernel says, within 2 %.
fn assert_held(kernel: &Kernel, mebibytes: f64, reported: f64) {
    let held = kernel.held();
    println!("a guest of {mebibytes} MiB: reported {reported}, kernel {held}");
    assert!((reported - held).abs() < 0.02 * held, "{reported} {held}");
    assert!(
        (mebibytes * MIB..mebibytes * MIB + OVERHEAD).contains(&reported),
        "{reported}"
    );
}

/// A number, or a text of one; nothing is zero to Go's encoder.
fn number(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        Value::String(text) => text.parse().unwrap(),
        other => other.as_u64().unwrap(),
    }
}

#[test]
fn ctr_shows_what_a_guest_uses() {
    let image = Image::wasm("busy").guest("/grow.wasm", "grow");
    let containerd = containerd_with(&image);
    let metrics = |id: &str| -> Value {
        let metrics = ["tasks", "metrics", "--format", "json", id];
        serde_json::from_str(&containerd.ctr(metrics).ok()).unwrap()
    };
    let id = containerd.run(&image).flags(["--cpus", "0.2"]).detach();
    let kernel = Kernel::of(init(&containerd, &id));
    eventually("it computes", || kernel.computed() > 100_000_000);
    assert_a_fifth(&kernel, || {
        let metrics = metrics(&id);
        if kernel.unified {
            1000 * number(&metrics["cpu"]["usage_usec"])
        } else {
            number(&metrics["cpu"]["usage"]["total"])
        }
    });
    containerd.remove(&id);

    let grown = containerd
        .run(&image)
        .arguments(["/grow.wasm", "40", "1000"]);
    let id = grown.detach();
    let kernel = Kernel::of(init(&containerd, &id));
    eventually("it has grown", || kernel.held() > 40.0 * MIB);
    let memory = metrics(&id)["memory"].clone();
    let reported = if kernel.unified {
        number(&memory["usage"]) - number(&memory["inactive_file"])
    } else {
        number(&memory["usage"]["usage"]) - number(&memory["total_inactive_file"])
    };
    assert_held(&kernel, 40.0, reported as f64);
    containerd.remove(&id);
}

#[test]
fn crictl_shows_what_a_guest_uses() {
    let image = Image::wasm("busy").guest("/grow.wasm", "grow");
    let cri = Cri::start(Version::V2);
    cri.import(&image);
    let pod = cri.pod(&json!({}));
    let start = |command: &[&str], linux: Value| {
        let image = json!({ "image": image.reference() });
        let container = json!({ "image": image, "command": command, "linux": linux });
        let id = pod.start(&container).unwrap();
        let text = cri.crictl(&["inspect", "--output", "json", &id]).ok();
        let status: Value = serde_json::from_str(&text).unwrap();
        let pid = status["info"]["pid"].as_i64().unwrap();
        (id, Kernel::of(i32::try_from(pid).unwrap()))
    };
    let stats = |id: &str| -> Value {
        let text = cri.crictl(&["stats", "--id", id, "--output", "json"]).ok();
        serde_json::from_str::<Value>(&text).unwrap()["stats"][0].clone()
    };
    let quota = json!({ "resources": { "cpu_quota": 20_000, "cpu_period": 100_000 } });
    let (id, kernel) = start(&["/busy.wasm"], quota);
    eventually("it computes", || kernel.computed() > 100_000_000);
    assert_a_fifth(&kernel, || {
        number(&stats(&id)["cpu"]["usageCoreNanoSeconds"]["value"])
    });
    let (id, kernel) = start(&["/grow.wasm", "40", "1000"], json!({}));
    eventually("it has grown", || kernel.held() > 40.0 * MIB);
    let reported = number(&stats(&id)["memory"]["workingSetBytes"]["value"]);
    assert_held(&kernel, 40.0, reported as f64);
}

/// Starts a guest in the engine, and answers its counters.
fn run(docker: &Docker, more: &[&str], command: &[&str]) -> Kernel {
    docker.load(&Image::wasm("busy").guest("/grow.wasm", "grow"));
    let first = [
        "run",
        "-d",
        "--name",
        "guest",
        "--runtime=io.containerd.wasmtime.v1",
    ];
    let all = first.iter().chain(more).chain(&["lighter/busy"]);
    docker.docker(all.chain(command)).output().exits(0);
    let pid = ["inspect", "-f", "{{.State.Pid}}", "guest"];
    Kernel::of(docker.docker(pid).ok().trim().parse().unwrap())
}

fn shown(docker: &Docker, what: &str) -> String {
    let stats = ["stats", "--no-stream", "--format", what, "guest"];
    docker.docker(stats).ok().trim().to_owned()
}

/// It looks at one second, and divides by the time of `/proc/stat`.
#[test]
fn docker_shows_the_share_that_a_guest_gets() {
    let docker = Docker::start();
    let kernel = run(&docker, &["--cpus", "0.2"], &[]);
    eventually("it computes", || kernel.computed() > 100_000_000);
    let share = shown(&docker, "{{.CPUPerc}}");
    println!("docker's share of a processor with a quota of 0.2: {share}");
    let share: f64 = share.trim_end_matches('%').parse().unwrap();
    assert!((15.0..25.0).contains(&share), "{share}");
}

#[test]
fn the_engine_shows_the_memory_that_a_guest_holds() {
    let docker = Docker::start();
    let entrypoint = ["--entrypoint", "/grow.wasm"];
    let kernel = run(&docker, &entrypoint, &["40", "1000"]);
    eventually("it has grown", || kernel.held() > 40.0 * MIB);
    let usage = shown(&docker, "{{.MemUsage}}");
    let reported: f64 = usage.split("MiB").next().unwrap().parse().unwrap();
    assert_held(&kernel, 40.0, reported * MIB);
}
