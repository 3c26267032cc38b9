//! A real containerd, and clients of it, that go away in the middle of a call.

use std::thread;
use std::time::{Duration, Instant};

use lighter_testkit::{Containerd, Image, Output, Version, guest};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

fn image() -> Image {
    Image::busybox().entrypoint(["sh", "-c", "sleep 1000 & wait"])
}

fn containerd_with(image: &Image) -> Containerd {
    let containerd = Containerd::start(Version::V2);
    containerd.import(image);
    containerd
}

/// Removes a container of which it is not known how far it got.
#[track_caller]
fn erase(containerd: &Containerd, id: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let task = containerd.ctr(["tasks", "delete", "--force", id]).output();
        let container = containerd.ctr(["containers", "delete", id]).output();
        // A client that was cut off between the two has made a snapshot and no container.
        let snapshot = containerd.ctr(["snapshots", "rm", id]).output();
        let has_gone =
            |output: &Output| output.status.success() || output.stderr.contains("not found");
        if has_gone(&container) && has_gone(&snapshot) {
            return;
        }
        let why = format!("{}{}{}", task.stderr, container.stderr, snapshot.stderr);
        assert!(Instant::now() < end, "{id} cannot be deleted: {why}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A client with a deadline: kubelet's probes have one of a second.
#[test]
fn a_task_whose_exec_had_a_deadline_can_be_deleted() {
    let image = image();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    for step in 0..24 {
        let id = containerd.run(&image).detach();
        let timeout = format!("{}ms", 12 + 2 * step);
        for exec in ["e", "f"] {
            containerd
                .ctr([
                    "--timeout",
                    &timeout,
                    "tasks",
                    "exec",
                    "--exec-id",
                    exec,
                    &id,
                    "sleep",
                    "1000",
                ])
                .limit(LIMIT)
                .output();
        }
        containerd.remove(&id);
    }
    leaks.assert_none_since();
}

/// containerd is killed while it waits for the shim, and comes back.
#[test]
fn a_containerd_that_is_killed_during_a_call_leaves_nothing() {
    let image = image();
    let mut containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let calls: [(&str, &[&str], u64); 7] = [
        ("start", &["tasks", "start", "--detach"], 15),
        ("exec", &["tasks", "exec", "--exec-id", "e"], 15),
        ("kill", &["tasks", "kill", "--signal", "SIGKILL"], 5),
        ("delete", &["tasks", "delete", "--force"], 10),
        ("pause", &["tasks", "pause"], 8),
        ("resume", &["tasks", "resume"], 8),
        ("update", &["tasks", "update"], 8),
    ];
    for (name, arguments, step) in calls {
        for moment in 1..4 {
            let id = if name == "start" {
                let id = containerd.next_id();
                let create = containerd.ctr([
                    "containers",
                    "create",
                    "--runtime",
                    lighter_testkit::WASMTIME,
                    &image.reference(),
                    &id,
                ]);
                create.output().exits(0);
                id
            } else {
                containerd.run(&image).detach()
            };
            if name == "resume" {
                containerd.ctr(["tasks", "pause", &id]).output().exits(0);
            }
            let mut all: Vec<&str> = arguments.to_vec();
            if name == "update" {
                all.extend(["--memory-limit", "100000000"]);
            }
            all.push(&id);
            if name == "exec" {
                all.extend(["sleep", "1000"]);
            }
            let call = containerd.ctr(all).spawn();
            thread::sleep(Duration::from_millis(step * moment + 5));
            containerd.restart(Signal::SIGKILL);
            drop(call);
            erase(&containerd, &id);
        }
    }
    leaks.assert_none_since();
}

/// The same while the shim creates a container, for as long as a module compiles.
#[test]
fn a_containerd_that_is_killed_during_create_leaves_nothing() {
    let mut module = std::fs::read(guest("sleep")).unwrap();
    module.extend([0, 10, 1, b'x']);
    let salt = u64::from(std::process::id()) << 32 | u64::from(u16::MAX);
    module.extend(salt.to_le_bytes());
    let mut image = Image::busybox();
    for number in 0..12u8 {
        *module.last_mut().unwrap() = number;
        image = image.file(&format!("/cold-{number}.wasm"), module.clone(), 0o755);
    }
    let mut containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    for number in 0..12 {
        // Half of them run natively.
        let program = match number % 2 {
            0 => format!("/cold-{number}.wasm"),
            _ => "/bin/sleep".to_owned(),
        };
        let id = containerd.next_id();
        let run = containerd.run(&image).id(&id);
        let call = run.arguments([&program, "1000"]).call("--detach").spawn();
        thread::sleep(Duration::from_millis(40 + 25 * number));
        containerd.restart(Signal::SIGKILL);
        drop(call);
        erase(&containerd, &id);
        // The id can be used again.
        let run = containerd.run(&image).id(&id);
        run.arguments(["sh", "-c", "exit 7"]).output().exits(7);
    }
    leaks.assert_none_since();
}
