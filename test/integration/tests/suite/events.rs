//! Invariant 4: events leave in order, each once, also across a restart of containerd.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{Empty, ForwardRequest};
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::{self, Server, TtrpcContext};
use containerd_shim_protos::{Events, create_events};
use lighter_testkit::{Containerd, Image, Version};
use nix::sys::signal::Signal;

use lighter_testkit::shim::{Shim, Stdio, eventually};

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

/// What was taken: by which life of containerd, the topic, and the process that it is about.
pub(crate) type Taken = Arc<Mutex<Vec<(u32, String, String)>>>;

/// A containerd that takes events and notes which of its lives took them. A real one cannot be
/// asked afterwards what it had got when it was killed.
struct Recorder {
    life: u32,
    taken: Taken,
}

impl Events for Recorder {
    fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = &request.envelope;
        let bytes = &envelope.event.value;
        let process = match envelope.topic.as_str() {
            "/tasks/exec-added" => TaskExecAdded::parse_from_bytes(bytes).unwrap().exec_id,
            "/tasks/exec-started" => TaskExecStarted::parse_from_bytes(bytes).unwrap().exec_id,
            "/tasks/exit" => TaskExit::parse_from_bytes(bytes).unwrap().id,
            "/tasks/oom" => TaskOOM::parse_from_bytes(bytes).unwrap().container_id,
            _ => String::new(),
        };
        let mut taken = self.taken.lock().unwrap();
        taken.push((self.life, envelope.topic.clone(), process));
        Ok(Empty::new())
    }
}

pub(crate) fn listen(path: &Path, life: u32, taken: &Taken) -> Server {
    let _ = std::fs::remove_file(path);
    let recorder = Recorder {
        life,
        taken: Arc::clone(taken),
    };
    let mut server = Server::new()
        .bind(&format!("unix://{}", path.display()))
        .unwrap()
        .register_service(create_events(Arc::new(recorder)));
    server.start().unwrap();
    server
}

/// containerd comes and goes while processes start and end: every event is taken, in order,
/// and none twice by the same containerd.
#[test]
fn no_event_is_lost_or_doubled_under_load() {
    const EXECS: usize = 150;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("events.sock");
    let taken = Taken::default();
    let shim = Shim::start_for(&socket);
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut life = 0;
            while !done.load(Ordering::SeqCst) {
                let server = listen(&socket, life, &taken);
                std::thread::sleep(Duration::from_millis(120));
                server.shutdown();
                std::thread::sleep(Duration::from_millis(60));
                life += 1;
            }
        });
        let process = shim.process(&["/hello.wasm"]);
        for round in 0..EXECS {
            let exec = format!("e{round}");
            shim.exec("a", &exec, &process, Stdio::default()).unwrap();
            shim.start_exec("a", &exec).unwrap();
        }
        shim.kill("a", Signal::SIGKILL).unwrap();
        shim.wait("a");
        done.store(true, Ordering::SeqCst);
    });
    let server = listen(&socket, u32::MAX, &taken);
    eventually("the exit of init", || {
        let taken = taken.lock().unwrap();
        taken
            .iter()
            .any(|(_, topic, process)| topic == "/tasks/exit" && process == "a")
    });
    shim.delete("a").unwrap();
    server.shutdown();
    let taken = taken.lock().unwrap();
    let mut unique = taken.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(
        unique.len(),
        taken.len(),
        "one was taken twice by one containerd"
    );
    assert!(
        taken.iter().map(|(life, ..)| life).max() > Some(&2),
        "it never restarted"
    );
    for round in 0..EXECS {
        let exec = format!("e{round}");
        let mut topics: Vec<&str> = taken
            .iter()
            .filter(|(_, _, process)| *process == exec)
            .map(|(_, topic, _)| topic.as_str())
            .collect();
        // Again to the next one when the answer of the last was lost with it.
        topics.dedup();
        let expected = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"];
        assert_eq!(topics, expected, "{exec}");
    }
    let last = taken.iter().rfind(|(_, topic, _)| topic == "/tasks/exit");
    assert_eq!(last.unwrap().2, "a", "init ends last");
}

/// Tasks answer every new containerd, and what ended meanwhile is known to have ended.
#[test]
fn tasks_answer_after_restarts_under_load() {
    let mut containerd = Containerd::start(Version::V2);
    let image = Image::busybox()
        .guest("/sleep.wasm", "sleep")
        .guest("/hello.wasm", "hello")
        .entrypoint(["/sleep.wasm", "100"]);
    containerd.import(&image);
    let leaks = containerd.leaks();
    let guest = containerd.run(&image).detach();
    let linux = containerd
        .run(&image)
        .arguments(["/bin/sleep", "100"])
        .detach();
    for round in 0..3 {
        let short = containerd
            .run(&image)
            .arguments(["/bin/sleep", "1"])
            .detach();
        for (id, program) in [(&guest, "/hello.wasm"), (&linux, "/bin/true")] {
            let exec = format!("before-{round}");
            containerd
                .ctr(["tasks", "exec", "--exec-id", &exec, id, program])
                .output()
                .exits(0);
        }
        // One more is under way when it is killed.
        let _interrupted = containerd
            .ctr([
                "tasks",
                "exec",
                "--exec-id",
                &format!("during-{round}"),
                &guest,
                "/sleep.wasm",
                "2",
            ])
            .spawn();
        containerd.stop(Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(1200));
        containerd.resume();
        // containerd removes a task that it finds ended when it starts; it may still be there.
        eventually("it has ended", || {
            containerd.status(&short).as_deref() != Some("RUNNING")
        });
        containerd.ctr(["tasks", "delete", &short]).output();
        containerd
            .ctr(["containers", "delete", &short])
            .output()
            .exits(0);
        for (id, program) in [(&guest, "/hello.wasm"), (&linux, "/bin/true")] {
            assert_eq!(containerd.status(id).as_deref(), Some("RUNNING"));
            let exec = format!("after-{round}");
            containerd
                .ctr(["tasks", "exec", "--exec-id", &exec, id, program])
                .output()
                .exits(0);
        }
    }
    containerd.remove(&guest);
    containerd.remove(&linux);
    leaks.assert_none_since();
}
