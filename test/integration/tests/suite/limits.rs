//! Pause, new limits, counters, and containers that run out of memory.

mod bad_values;
mod io;
mod kills;
mod memory;
mod systemd;
mod usage;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lighter_testkit::{Containerd, Docker, Driver, Image, Process, guest};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{containerd_with, init};
use lighter_testkit::shim::{Shim, eventually};

const LIMIT: Duration = Duration::from_secs(20);

/// The time a process has computed, in ticks: fields 14 and 15 of /proc/PID/stat.
pub(crate) fn computed(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_paused_guest_stands_still_and_goes_on() {
    let image = Image::wasm("busy");
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let id = containerd.run(&image).detach();
    let pid = init(&containerd, &id);
    eventually("it computes", || computed(pid) > 5);
    containerd.ctr(["tasks", "pause", &id]).output().exits(0);
    assert_eq!(containerd.status(&id).as_deref(), Some("PAUSED"));
    let before = computed(pid);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(computed(pid), before);
    containerd
        .ctr(["tasks", "pause", &id])
        .output()
        .fails_with(&["paused already"]);
    containerd.ctr(["tasks", "resume", &id]).output().exits(0);
    assert_eq!(containerd.status(&id).as_deref(), Some("RUNNING"));
    eventually("it goes on", || computed(pid) > before + 5);
    containerd
        .ctr(["tasks", "resume", &id])
        .output()
        .fails_with(&["not paused"]);
    containerd.remove(&id);
    leaks.assert_none_since();
}

/// A frozen process of cgroup v1 does not die before it is thawed.
#[test]
fn a_paused_container_can_be_killed_and_removed() {
    let shim = Shim::start();
    for (round, all) in [false, true].into_iter().enumerate() {
        let id = format!("a{round}");
        shim.create(&id, &shim.spec(&id, &["/sleep.wasm", "100"]))
            .unwrap();
        shim.start_task(&id).unwrap();
        shim.pause(&id).unwrap();
        // A signal that it may handle waits, as for a stopped process.
        shim.kill(&id, Signal::SIGTERM).unwrap();
        assert!(
            shim.delete(&id)
                .unwrap_err()
                .contains("FAILED_PRECONDITION")
        );
        if all {
            shim.kill_all(&id, Signal::SIGKILL).unwrap();
        } else {
            shim.kill(&id, Signal::SIGKILL).unwrap();
        }
        assert_eq!(shim.wait(&id), 137);
        shim.delete(&id).unwrap();
    }
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// As systemd in a container does: cgroups of its own go with the container.
#[test]
fn cgroups_below_the_containers_own_are_removed() {
    let shim = Shim::start();
    let pid = shim
        .create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let mut folders = shim.cgroups("a");
    folders.retain(|folder| folder.join("cgroup.procs").exists());
    assert!(!folders.is_empty());
    for folder in folders {
        fs::create_dir_all(folder.join("inner/most")).unwrap();
    }
    assert!(pid > 0);
    shim.remove("a");
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// The file of a container's cgroup with one of these names, on cgroup v1 or v2.
fn limit(shim: &Shim, id: &str, controller: &str, names: [&str; 2]) -> String {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = Driver::of_tests().folder(&shim.namespace, id);
    let legacy = root.join(controller).join(&below).join(names[0]);
    let text = fs::read_to_string(&legacy)
        .or_else(|_| fs::read_to_string(root.join(below).join(names[1])));
    text.unwrap_or_else(|error| panic!("{names:?}: {error}"))
        .trim()
        .to_owned()
}

#[test]
fn an_update_changes_each_limit_while_the_guest_runs() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
    spec["linux"]["resources"] = json!({
        "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
        "memory": { "limit": 64 << 20 },
        "pids": { "limit": 50 },
    });
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    let memory = || {
        limit(
            &shim,
            "a",
            "memory",
            ["memory.limit_in_bytes", "memory.max"],
        )
    };
    let pids = || limit(&shim, "a", "pids", ["pids.max", "pids.max"]);
    let quota = || limit(&shim, "a", "cpu", ["cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(memory(), (64u64 << 20).to_string());
    shim.update(
        "a",
        &json!({
            "cpu": { "quota": 20_000, "period": 100_000 },
            "memory": { "limit": 128 << 20 },
            "pids": { "limit": 30 },
        }),
    )
    .unwrap();
    assert_eq!(memory(), (128u64 << 20).to_string());
    assert_eq!(pids(), "30");
    assert_eq!(quota().split(' ').next(), Some("20000"));
    // What is not named stays.
    shim.update("a", &json!({ "pids": { "limit": 31 } }))
        .unwrap();
    shim.update("a", &json!({ "cpu": { "cpus": "0" } }))
        .unwrap();
    assert_eq!(quota().split(' ').next(), Some("20000"));
    assert_eq!(
        (memory(), pids()),
        ((128u64 << 20).to_string(), "31".into())
    );
    shim.remove("a");
}

#[test]
fn a_refused_update_changes_nothing() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
    spec["linux"]["resources"] = json!({
        "cpu": { "quota": 50_000, "period": 100_000 },
        "memory": { "limit": 64 << 20 },
        "pids": { "limit": 50 },
    });
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    let all = || {
        [
            limit(
                &shim,
                "a",
                "memory",
                ["memory.limit_in_bytes", "memory.max"],
            ),
            limit(&shim, "a", "pids", ["pids.max", "pids.max"]),
            limit(&shim, "a", "cpu", ["cpu.cfs_quota_us", "cpu.max"]),
            limit(&shim, "a", "cpuset", ["cpuset.cpus", "cpuset.cpus"]),
        ]
    };
    let before = all();
    for refused in [
        // There is no such processor.
        json!({ "cpu": { "cpus": "4000", "quota": 20_000 }, "pids": { "limit": 30 },
                "memory": { "limit": 128 << 20 } }),
        // Below the kernel's least.
        json!({ "cpu": { "quota": 1 }, "pids": { "limit": 30 }, "memory": { "limit": 32 << 20 } }),
    ] {
        let error = shim.update("a", &refused).unwrap_err();
        assert!(error.contains("INVALID_ARGUMENT"), "{error}");
        assert_eq!(all(), before, "{refused}");
    }
    assert!(
        shim.update("a", &json!("text"))
            .unwrap_err()
            .contains("INVALID_ARGUMENT")
    );
    shim.kill("a", Signal::SIGKILL).unwrap();
    shim.wait("a");
    let stopped = shim.update("a", &json!({})).unwrap_err();
    assert!(stopped.contains("FAILED_PRECONDITION"), "{stopped}");
    shim.delete("a").unwrap();
}

#[test]
fn running_out_of_memory_is_an_event() {
    let image = Image::busybox();
    let containerd = containerd_with(&image);
    // A shell that doubles a text until there is no memory for it.
    let script = "x=xxxxxxxx; while :; do x=$x$x; done";
    let flags = ["--memory-limit", "16777216"];
    assert_killed_for_memory(&containerd, &image, &flags, &["/bin/sh", "-c", script]);
}

/// Runs a container that the kernel kills: that is told as what it was, before the exit.
fn assert_killed_for_memory(
    containerd: &Containerd,
    image: &Image,
    flags: &[&str],
    arguments: &[&str],
) {
    let events = containerd.ctr(["events"]).limit(LIMIT * 3).spawn();
    std::thread::sleep(Duration::from_millis(300));
    let id = containerd.next_id();
    let output = containerd
        .run(image)
        .id(&id)
        .flags(flags)
        .arguments(arguments)
        .output();
    assert_eq!(output.code(), 137, "{}", output.stderr);
    let topics = || -> Vec<String> {
        let printed = events.stdout();
        let own = printed.lines().filter(|line| line.contains(&id));
        own.filter_map(|line| {
            let topic = line
                .split_whitespace()
                .find(|word| word.starts_with("/tasks/"))?;
            Some(topic.to_owned())
        })
        .collect()
    };
    eventually("the events", || {
        topics().last().map(String::as_str) == Some("/tasks/delete")
    });
    let mut seen = topics();
    seen.dedup();
    // It may run out before Start is answered.
    let out_of_memory = seen.iter().position(|topic| topic == "/tasks/oom");
    let out_of_memory = out_of_memory.unwrap_or_else(|| panic!("no event: {seen:?}"));
    seen.remove(out_of_memory);
    assert!((1..3).contains(&out_of_memory), "{out_of_memory}");
    assert_eq!(
        seen,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exit",
            "/tasks/delete"
        ]
    );
    events.signal(Signal::SIGKILL);
    events.wait(LIMIT);
}

#[test]
fn docker_pauses_updates_and_counts() {
    let docker = Docker::start();
    let image = Image::wasm("busy");
    docker.load(&image);
    let name = image.reference();
    docker
        .docker([
            "run",
            "-d",
            "--name",
            "wasm",
            "--memory",
            "64m",
            "--memory-swap",
            "64m",
            "--runtime=io.containerd.wasmtime.v1",
            &name,
        ])
        .output()
        .exits(0);
    let inspect = |what: &str| docker.docker(["inspect", "-f", what, "wasm"]).ok();
    docker.docker(["pause", "wasm"]).output().exits(0);
    assert_eq!(inspect("{{.State.Status}}").trim(), "paused");
    docker.docker(["unpause", "wasm"]).output().exits(0);
    assert_eq!(inspect("{{.State.Status}}").trim(), "running");
    docker
        .docker([
            "update",
            "--memory",
            "96m",
            "--memory-swap",
            "96m",
            "--cpus",
            "0.5",
            "wasm",
        ])
        .output()
        .exits(0);
    std::thread::sleep(Duration::from_millis(1500));
    let stats = docker
        .docker([
            "stats",
            "--no-stream",
            "--format",
            "{{.CPUPerc}} {{.MemUsage}} {{.PIDs}}",
            "wasm",
        ])
        .ok();
    assert!(stats.contains("96MiB"), "{stats}");
    let share: f64 = stats.split('%').next().unwrap().parse().unwrap();
    assert!((20.0..80.0).contains(&share), "half a processor: {stats}");
    let top = docker.docker(["top", "wasm"]).ok();
    assert!(top.contains("/busy.wasm"), "{top}");
    docker.docker(["rm", "-f", "wasm"]).output().exits(0);
    assert!(Process::all().iter().all(|process| {
        process.comm != "busy.wasm"
            || !docker
                .scope()
                .processes()
                .iter()
                .any(|own| own.pid == process.pid)
    }));
}

/// The cgroup of a small pod is enough, and growth over its limit fails instead of a kill.
#[test]
fn a_small_limit_is_enough_and_growth_ends_below_it() {
    let image = Image::wasm("grow").guest("/hello.wasm", "hello");
    let containerd = containerd_with(&image);
    let limit = (32 << 20).to_string();
    let run = |arguments: &[&str]| {
        containerd
            .run(&image)
            .flags(["--memory-limit", &limit])
            .arguments(arguments)
            .output()
    };
    assert_eq!(run(&["/hello.wasm"]).ok(), "Hello from Wasm\n");
    run(&["/grow.wasm", "20", "0"]).exits(0);
    // 137 would be a kill.
    let refused = run(&["/grow.wasm", "40", "0"]);
    refused.exits(1);
    assert!(
        refused.stdout.contains("refused at 2"),
        "{}",
        refused.stdout
    );
}

/// A guest's process has few threads: one that waits, the guest's, and one for name look-ups.
#[test]
fn a_guest_needs_few_processes() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/hello.wasm"]);
    spec["linux"]["resources"] = json!({ "pids": { "limit": 4 } });
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    assert_eq!(shim.wait("a"), 0);
    shim.delete("a").unwrap();
    let pid = shim
        .create("b", &shim.spec("b", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("b").unwrap();
    eventually("the guest runs", || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() >= 2
    });
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    assert!(threads <= 3, "{threads}");
    shim.remove("b");
}

/// A service needs a thread beside its first one, and as many processes has init while it is made.
#[test]
fn a_service_needs_two_processes() {
    let docker = Docker::start();
    docker.load(&Image::wasm("http-hello"));
    let run = |name: &str, limit: &str| {
        let flags = [
            "run",
            "-d",
            "--name",
            name,
            "--runtime=io.containerd.wasmtime.v1",
            "--pids-limit",
            limit,
            "lighter/http-hello",
        ];
        docker.docker(flags).output()
    };
    run("one", "1").fails_with(&["failed to clone process"]);
    run("two", "2").exits(0);
    eventually("the service listens", || {
        let log = docker.docker(["logs", "two"]).output();
        log.stderr.contains("serves HTTP at")
    });
}

/// The limit that growth ends at follows an update.
#[test]
fn growth_follows_a_docker_update_of_the_limit() {
    let docker = Docker::start();
    docker.load(&Image::wasm("http-hello"));
    let run = [
        "run",
        "-d",
        "--rm",
        "--name",
        "web",
        "--runtime=io.containerd.wasmtime.v1",
        "--memory=48m",
        "--memory-swap=48m",
        "-p",
        "8080:8080",
        "lighter/http-hello",
    ];
    docker.docker(run).output().exits(0);
    let status = |path: &str| {
        let url = format!("http://127.0.0.1:8080{path}");
        let all = [
            "curl",
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            &url,
        ];
        docker.inside(all).output().stdout
    };
    eventually("the service answers", || status("/") == "200");
    assert_eq!(status("/grow?80"), "500");
    docker
        .docker(["update", "--memory=256m", "--memory-swap=256m", "web"])
        .output()
        .exits(0);
    assert_eq!(status("/grow?80"), "200");
}

/// A limit as the spec has it, at first and after an update, and what the kernel says it is.
struct Limit {
    resources: [Value; 2],
    /// Controller and file of cgroup v1; a kernel may lack a file whose name ends with `?`.
    v1: (&'static str, &'static str),
    v2: &'static str,
    /// On v1 and v2, at first and after the update.
    expected: [[String; 2]; 2],
}

/// Most limits are the same numbers in both versions.
fn same(name: [&'static str; 3], resources: [Value; 2], expected: [u64; 2]) -> Limit {
    let expected = expected.map(|number| number.to_string());
    Limit {
        resources,
        v1: (name[0], name[1]),
        v2: name[2],
        expected: [expected.clone(), expected],
    }
}

fn table() -> Vec<Limit> {
    let text = |texts: [&str; 2]| texts.map(str::to_owned);
    let memory = |name: &str, mib: u64| json!({ "memory": { name: mib << 20 } });
    let unified = |name: &str, bytes: u64| json!({ "unified": { name: bytes.to_string() } });
    vec![
        Limit {
            resources: [20_000, 40_000]
                .map(|quota| json!({ "cpu": { "quota": quota, "period": 100_000 } })),
            v1: ("cpu", "cpu.cfs_quota_us"),
            v2: "cpu.max",
            expected: [
                text(["20000", "40000"]),
                text(["20000 100000", "40000 100000"]),
            ],
        },
        Limit {
            resources: [512, 2048].map(|shares| json!({ "cpu": { "shares": shares } })),
            v1: ("cpu", "cpu.shares"),
            v2: "cpu.weight",
            expected: [text(["512", "2048"]), text(["59", "174"])],
        },
        Limit {
            resources: ["0", "0-1"].map(|cpus| json!({ "cpu": { "cpus": cpus } })),
            v1: ("cpuset", "cpuset.cpus"),
            v2: "cpuset.cpus",
            expected: [text(["0", "0-1"]), text(["0", "0-1"])],
        },
        same(
            ["memory", "memory.limit_in_bytes", "memory.max"],
            [64, 96].map(|mib| memory("limit", mib)),
            [64 << 20, 96 << 20],
        ),
        same(
            ["memory", "memory.soft_limit_in_bytes", "memory.low"],
            [16, 24].map(|mib| memory("reservation", mib)),
            [16 << 20, 24 << 20],
        ),
        Limit {
            resources: [96, 128]
                .map(|swap: u64| json!({ "memory": { "limit": 64 << 20, "swap": swap << 20 } })),
            v1: ("memory", "memory.memsw.limit_in_bytes?"),
            // Without the memory, which v1 counts in.
            v2: "memory.swap.max",
            expected: [
                [96u64 << 20, 128 << 20].map(|bytes| bytes.to_string()),
                [32u64 << 20, 64 << 20].map(|bytes| bytes.to_string()),
            ],
        },
        same(
            ["pids", "pids.max", "pids.max"],
            [50, 60].map(|limit| json!({ "pids": { "limit": limit } })),
            [50, 60],
        ),
        same(
            ["", "", "memory.high"],
            [48, 56].map(|mib| unified("memory.high", mib << 20)),
            [48 << 20, 56 << 20],
        ),
        same(
            ["", "", "memory.min"],
            [4, 8].map(|mib| unified("memory.min", mib << 20)),
            [4 << 20, 8 << 20],
        ),
        Limit {
            resources: ["30000 100000", "60000 100000"]
                .map(|max| json!({ "unified": { "cpu.max": max } })),
            v1: ("", ""),
            v2: "cpu.max",
            expected: [text(["", ""]), text(["30000 100000", "60000 100000"])],
        },
    ]
}

#[test]
fn each_limit_of_a_guest_is_the_kernels_and_follows_an_update() {
    let shim = Shim::start();
    let legacy = !PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    for (number, row) in table().into_iter().enumerate() {
        let (controller, name) = row.v1;
        if legacy && controller.is_empty() {
            continue;
        }
        let id = format!("a{number}");
        let mut spec = shim.spec(&id, &["/sleep.wasm", "100"]);
        spec["linux"]["resources"] = row.resources[0].clone();
        shim.create(&id, &spec).unwrap();
        shim.start_task(&id).unwrap();
        let name = match name.strip_suffix('?') {
            Some(name)
                if legacy
                    && !shim
                        .cgroups(&id)
                        .iter()
                        .any(|path| path.join(name).exists()) =>
            {
                shim.remove(&id);
                continue;
            }
            Some(name) => name,
            None => name,
        };
        let read = || limit(&shim, &id, controller, [name, row.v2]);
        let expected = &row.expected[usize::from(!legacy)];
        assert_eq!(read(), expected[0], "{}", row.resources[0]);
        shim.update(&id, &row.resources[1]).unwrap();
        assert_eq!(read(), expected[1], "{}", row.resources[1]);
        shim.remove(&id);
    }
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// The CRI limits huge pages of each size whether anybody uses them or not.
#[test]
fn limits_of_huge_pages_are_none_where_there_is_no_controller() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/hello.wasm"]);
    let limits = json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }] });
    spec["linux"]["resources"] = limits.clone();
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    shim.wait("a");
    shim.delete("a").unwrap();
    let error = {
        spec["linux"]["resources"] = json!({ "unified": { "../memory.max": "1" } });
        shim.create("a", &spec).unwrap_err()
    };
    assert!(
        error.contains("INVALID_ARGUMENT") && error.contains("../memory.max"),
        "{error}"
    );
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// Guests that compute without end, on one processor if they are several.
fn computing(shim: &Shim, limits: &[Value]) -> Vec<i32> {
    fs::copy(guest("busy"), shim.rootfs().join("busy.wasm")).unwrap();
    let start = |(number, limit): (usize, &Value)| {
        let id = format!("busy{number}");
        let mut spec = shim.spec(&id, &["/busy.wasm"]);
        spec["linux"]["resources"] = json!({ "cpu": limit });
        let pid = shim.create(&id, &spec).unwrap();
        shim.start_task(&id).unwrap();
        pid
    };
    let pids: Vec<i32> = limits.iter().enumerate().map(start).collect();
    eventually("they compute", || {
        pids.iter().all(|pid| computed(*pid) > 10)
    });
    pids
}

/// What they compute in so long, in seconds.
fn computed_in(time: Duration, pids: &[i32]) -> Vec<f64> {
    let all = || pids.iter().map(|pid| computed(*pid)).collect::<Vec<_>>();
    let before = all();
    std::thread::sleep(time);
    let spent = all()
        .into_iter()
        .zip(before)
        .map(|(after, before)| after - before);
    // Ticks, of which a second has a hundred (time(7)).
    spent
        .map(|ticks| f64::from(u32::try_from(ticks).unwrap()) / 100.0)
        .collect()
}

#[test]
fn a_guest_gets_the_share_of_a_processor_that_its_quota_is() {
    let shim = Shim::start();
    let pids = computing(&shim, &[json!({ "quota": 20_000, "period": 100_000 })]);
    let share = |seconds: u64| computed_in(Duration::from_secs(seconds), &pids)[0] / seconds as f64;
    let first = share(10);
    assert!((0.17..0.23).contains(&first), "{first}");
    shim.update(
        "busy0",
        &json!({ "cpu": { "quota": 40_000, "period": 100_000 } }),
    )
    .unwrap();
    let second = share(10);
    assert!((0.36..0.44).contains(&second), "{second}");
    println!("shares of 0.2 and 0.4 processors: {first} {second}");
    shim.remove("busy0");
}

#[test]
fn guests_share_a_processor_by_their_weights() {
    let shim = Shim::start();
    let limits = [1024, 256].map(|shares| json!({ "shares": shares, "cpus": "0" }));
    let pids = computing(&shim, &limits);
    let ratio = || {
        let spent = computed_in(Duration::from_secs(8), &pids);
        spent[0] / spent[1]
    };
    // runc's conversion makes 100 and 35 of these shares on cgroup v2.
    let legacy = !PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    let expected = if legacy { 4.0 } else { 100.0 / 35.0 };
    let first = ratio();
    assert!((0.8..1.25).contains(&(first / expected)), "{first}");
    shim.update("busy1", &json!({ "cpu": { "shares": 1024 } }))
        .unwrap();
    let second = ratio();
    assert!((0.8..1.25).contains(&second), "{second}");
    println!("ratios of unequal and equal weights: {first} {second}");
    shim.remove("busy0");
    shim.remove("busy1");
}
