//! The node's daemons end, and the node itself: pods live on, or come back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lighter_kubernetes::{
    Guest, Holding, LIMIT, Space, daemon, deployment, get, linux, pod, restart, until, wasm,
};
use lighter_testkit::{Call, Process};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A guest that serves, with a Linux neighbour.
fn hello() -> Value {
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    hello["readinessProbe"] = json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1 });
    pod("hello", &[hello, linux("tools", "exec sleep 1d")])
}

fn ctr_answers() {
    until("containerd answers", LIMIT, || {
        let output = Call::new("ctr", ["version"]).output();
        output.status.success().then_some(()).ok_or(output.stderr)
    });
}

/// The pod has its processes and does what it did before.
fn lives_on(space: &Space, before: &Value) {
    let containers = ["hello", "tools"];
    let guests = containers.map(|name| Guest::of(before, name));
    until("an exec works", LIMIT, || {
        let output = space.exec("hello", ["/hello.wasm"]);
        if output.stdout == "Hello from Wasm\n" {
            Ok(())
        } else {
            Err(output.stdout + &output.stderr)
        }
    });
    let after = space.await_ready("hello");
    assert_eq!(
        containers.map(|name| Guest::of(&after, name)),
        guests,
        "not the same processes"
    );
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
    let address = after["status"]["podIP"]
        .as_str()
        .expect("it has an address");
    let text = format!("after-{}", Process::all().len());
    until("it answers", LIMIT, || {
        get(address, 8080, &format!("/print?{text}"))
    });
    until("its output is logged", LIMIT, || {
        let output = space.kubectl(["logs", "hello", "-c", "hello"]).output();
        if output.stdout.contains(&text) {
            Ok(())
        } else {
            Err(output.stdout + &output.stderr)
        }
    });
}

#[test]
fn pods_outlive_kubelet_and_containerd() {
    let space = Space::alone("restarts");
    let before = space.start(&hello());
    restart("kubelet", Signal::SIGTERM);
    lives_on(&space, &before);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        restart("containerd", signal);
        ctr_answers();
        lives_on(&space, &before);
    }
    // What they start and end afterwards is complete.
    space.kubectl(["delete", "pod", "hello"]).ok();
    space.start(&hello());
}

/// Shims, and everything in the pods' cgroups.
fn pods_processes() -> Vec<Process> {
    let is = |process: &Process| {
        process.state != 'Z'
            && (process.cgroups.contains("/kubepods")
                || process.command_line.contains("containerd-shim-"))
    };
    Process::all().into_iter().filter(is).collect()
}

/// What is mounted where containerd and kubelet do it, the last one first.
fn mounts_of_pods() -> Vec<String> {
    let folders = ["/run/", "/var/lib/kubelet/pods/", "/var/lib/containerd/"];
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let paths = text.lines().rev().filter_map(|line| line.split(' ').nth(4));
    paths
        .filter(|path| folders.iter().any(|folder| path.starts_with(folder)))
        .map(str::to_owned)
        .collect()
}

/// What the power going and coming does to the node: no process, no mount and no file in /run is
/// left, no network and no cgroup. The cluster's own processes are as if on another machine.
fn reboot() {
    let holding = Holding::start();
    for name in ["kubelet", "containerd"] {
        let process = daemon(name).expect("it runs");
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).expect("it runs");
        until("it has ended", LIMIT, || {
            daemon(name).map_or(Ok(()), |_| Err(name.to_owned()))
        });
    }
    until("no process of a pod is left", LIMIT, || {
        let left = pods_processes();
        for process in &left {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    // Those that fail went with one before, or are hidden: this machine's own, below the node's.
    while mounts_of_pods()
        .iter()
        .any(|path| umount2(path.as_str(), MntFlags::MNT_DETACH).is_ok())
    {}
    for entry in fs::read_dir("/run").expect("/run is there").flatten() {
        let removed = if entry.path().is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        removed.unwrap_or_else(|error| panic!("remove {}: {error}", entry.path().display()));
    }
    fs::create_dir("/run/lock").expect("make a folder in /run");
    // Its ports, whose other ends went with their namespaces, are gone already.
    let _ = Call::new("ip", ["link", "delete", "cni0"]).output();
    let script =
        "find /sys/fs/cgroup -mindepth 2 -depth -type d -path '*/kubepods*' -exec rmdir {} +";
    until("the pods' cgroups are removed", LIMIT, || {
        let output = Call::new("sh", ["-c", script]).output();
        output.status.success().then_some(()).ok_or(output.stderr)
    });
    drop(holding);
}

#[test]
fn pods_come_back_when_the_node_does() {
    let space = Space::alone("reboot");
    space.apply(&deployment(&hello(), 2));
    space.await_rollout("hello");
    let mut ended = pod("ended", &[wasm("hello", &["/hello.wasm"])]);
    ended["spec"]["restartPolicy"] = json!("Never");
    space.apply(&ended);
    space.await_value("pod/ended", "/status/phase", &json!("Succeeded"));
    let before: Vec<String> = ids(&space);

    reboot();
    ctr_answers();
    until("both pods run again", LIMIT * 2, || {
        let pods = space.pods("app=hello");
        let again = |pod: &Value| {
            let statuses = pod["status"]["containerStatuses"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            !statuses.is_empty()
                && statuses
                    .iter()
                    .all(|status| status["ready"] == true && status["restartCount"] == 1)
        };
        if pods.len() == 2 && pods.iter().all(again) {
            Ok(())
        } else {
            Err(format!(
                "{:#}",
                pods.iter()
                    .map(|pod| pod["status"].clone())
                    .collect::<Value>()
            ))
        }
    });
    for pod in space.pods("app=hello") {
        let name = pod["metadata"]["name"]
            .as_str()
            .expect("a pod has a name")
            .to_owned();
        let address = pod["status"]["podIP"].as_str().expect("it has an address");
        assert_eq!(
            get(address, 8080, "/").expect("it answers").body,
            "Hello from Wasm\n"
        );
        assert_eq!(space.exec(&name, ["/hello.wasm"]).ok(), "Hello from Wasm\n");
    }
    assert_eq!(
        space.get("pod/ended")["status"]["phase"],
        "Succeeded",
        "it ran a second time"
    );

    nothing_stale(&before);
}

/// The containers of the namespace's pods.
fn ids(space: &Space) -> Vec<String> {
    let pods = space.pods("app=hello");
    let statuses = pods
        .iter()
        .filter_map(|pod| pod["status"]["containerStatuses"].as_array())
        .flatten();
    statuses
        .filter_map(|status| {
            Some(
                status["containerID"]
                    .as_str()?
                    .strip_prefix("containerd://")?
                    .to_owned(),
            )
        })
        .collect()
}

/// Of containers from before nothing is left that a node keeps for one that runs.
fn nothing_stale(before: &[String]) {
    assert_eq!(before.len(), 4);
    let folders = [
        "/run/lighter",
        "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
        "/sys/fs/cgroup",
    ];
    until("nothing is left of before", Duration::from_secs(60), || {
        let stale: Vec<String> = folders
            .iter()
            .filter(|folder| Path::new(folder).exists())
            .flat_map(|folder| {
                before.iter().map(move |id| {
                    Call::new("find", [*folder, "-name", &format!("*{id}*")])
                        .output()
                        .stdout
                })
            })
            .filter(|text| !text.is_empty())
            .collect();
        if stale.is_empty() {
            Ok(())
        } else {
            Err(stale.concat())
        }
    });
}
