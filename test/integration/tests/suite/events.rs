//! Invariant 4: events leave in order, each once, also across a restart of containerd.

use std::time::{Duration, Instant};

use lighter_testkit::{Containerd, Image, Version};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(20);

/// The topics of the task events of `id`, in the order in which `ctr events` printed them.
fn topics(printed: &str, id: &str) -> Vec<String> {
    printed
        .lines()
        .filter(|line| line.contains(&format!("\"container_id\":\"{id}\"")))
        .filter_map(|line| {
            line.split_whitespace()
                .find(|word| word.starts_with("/tasks/"))
        })
        .map(|topic| topic.trim_start_matches("/tasks/").to_owned())
        .collect()
}

#[test]
fn the_four_events_come_in_order() {
    let containerd = Containerd::start(Version::V2);
    let (hello, busybox) = (Image::wasm("hello"), Image::busybox());
    containerd.import(&hello);
    containerd.import(&busybox);
    let events = containerd.ctr(["events"]).limit(LIMIT * 3).spawn();
    std::thread::sleep(Duration::from_millis(300));
    let mut ids = Vec::new();
    // Short-lived ones: their exit comes before Start has been answered.
    for round in 0..20 {
        let id = containerd.next_id();
        let image = if round % 2 == 0 { &hello } else { &busybox };
        let run = containerd.run(image).id(&id);
        let run = if round % 2 == 0 {
            run
        } else {
            run.arguments(["true"])
        };
        run.output().exits(0);
        ids.push(id);
    }
    let last = ids.last().unwrap().clone();
    await_deleted(&events, &last);
    for id in ids {
        assert_eq!(
            topics(&events.stdout(), &id),
            ["create", "start", "exit", "delete"],
            "{id}"
        );
    }
    // SIGINT may be ignored, as in a background job.
    events.signal(Signal::SIGKILL);
    events.wait(LIMIT);
}

fn await_deleted(events: &lighter_testkit::Running, id: &str) {
    let end = Instant::now() + LIMIT;
    while topics(&events.stdout(), id).last().map(String::as_str) != Some("delete") {
        assert!(
            Instant::now() < end,
            "no delete of {id} in {}",
            events.stdout()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The events of a task that outlives containerd reach the next one.
#[test]
fn events_reach_a_containerd_that_was_restarted() {
    let mut containerd = Containerd::start(Version::V2);
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "100"]);
    containerd.import(&image);
    let leaks = containerd.leaks();
    let id = containerd.run(&image).detach();
    containerd.restart(Signal::SIGKILL);
    let events = containerd.ctr(["events"]).limit(LIMIT * 3).spawn();
    std::thread::sleep(Duration::from_millis(300));
    containerd
        .ctr(["tasks", "kill", "--signal", "SIGKILL", &id])
        .output()
        .exits(0);
    containerd.await_status(&id, "STOPPED", LIMIT);
    containerd.ctr(["tasks", "delete", &id]).output();
    await_deleted(&events, &id);
    assert_eq!(topics(&events.stdout(), &id), ["exit", "delete"]);
    // SIGINT may be ignored, as in a background job.
    events.signal(Signal::SIGKILL);
    events.wait(LIMIT);
    containerd
        .ctr(["containers", "delete", &id])
        .output()
        .exits(0);
    leaks.assert_none_since();
}

/// A task that outlives containerd still answers, and still writes.
#[test]
fn a_running_task_survives_a_restart_of_containerd() {
    let mut containerd = Containerd::start(Version::V2);
    let busybox = Image::busybox();
    containerd.import(&busybox);
    let leaks = containerd.leaks();
    let script = "while :; do echo line; sleep 0.05; done";
    let id = containerd
        .run(&busybox)
        .arguments(["sh", "-c", script])
        .detach();
    containerd.restart(Signal::SIGKILL);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(containerd.status(&id).as_deref(), Some("RUNNING"));
    containerd.remove(&id);
    leaks.assert_none_since();
}
