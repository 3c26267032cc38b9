//! Callers that go away in the middle of a call, at any moment of it.
//!
//! Whatever becomes of a caller, its call ends by having been done or not, as a whole: afterwards
//! the container can be deleted, nothing is left, its id can be used again, and each process has its
//! own exit status.

mod containerd;
mod execs;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use lighter_testkit::guest;
use lighter_testkit::shim::{Shim, Stdio, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Longer than any call here takes.
const PATIENT: Duration = Duration::from_secs(100);

/// After this time a shim has read what a client has sent.
const ORDER: Duration = Duration::from_millis(5);

/// How a caller goes away.
#[derive(Clone, Copy, Debug)]
enum Departure {
    /// The deadline of its call passes.
    Deadline,
    /// Its connection closes, as when it is killed.
    Closed,
}

const DEPARTURES: [Departure; 2] = [Departure::Deadline, Departure::Closed];

/// The moments at which callers go away, from the begin of the call: one that takes `length` is cut in
/// `count` places.
fn moments(length: Duration, count: u32) -> impl Iterator<Item = (Departure, Duration)> {
    // No moment is 0, which would be no deadline.
    let moments = (0..count).map(move |step| length * step / count + Duration::from_micros(300));
    DEPARTURES
        .into_iter()
        .flat_map(move |departure| moments.clone().map(move |after| (departure, after)))
}

/// Does `call` as a client that goes away.
fn interrupt(
    shim: &Shim,
    (departure, after): (Departure, Duration),
    call: impl FnOnce(&Shim) + Send,
) {
    let limit = match departure {
        Departure::Deadline => after,
        Departure::Closed => PATIENT,
    };
    let caller = shim.caller(limit);
    // So that the call does not come after what another client asks for later.
    thread::sleep(ORDER);
    thread::scope(|scope| {
        scope.spawn(|| call(&caller));
        if let Departure::Closed = departure {
            thread::sleep(after);
            caller.leave();
        }
    });
    thread::sleep(ORDER);
}

/// Deletes a container as one who does not know what state it is in.
#[track_caller]
fn erase(shim: &Shim, id: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match shim.delete(id) {
            Ok(_) => return,
            Err(error) if error.contains("NOT_FOUND") => return,
            Err(error) => assert!(Instant::now() < end, "{id} cannot be deleted: {error}"),
        }
        let _ = shim.kill(id, Signal::SIGKILL);
        thread::sleep(Duration::from_millis(2));
    }
}

const SLEEP: [&str; 4] = ["/bin/sh", "-c", "sleep 1000 & wait", "sh"];

/// A container that runs.
#[track_caller]
fn run(shim: &Shim, id: &str) {
    shim.create(id, &shim.spec(id, &SLEEP)).unwrap();
    shim.start_task(id).unwrap();
}

/// An exec of a container that runs has its own exit status.
#[track_caller]
fn assert_exits(shim: &Shim, id: &str) {
    let exit = shim.process(&["/bin/sh", "-c", "exit 7"]);
    assert_eq!(shim.run_exec(id, "seven", &exit), Ok(7));
}

/// The id can be used again.
#[track_caller]
fn assert_works(shim: &Shim, id: &str) {
    run(shim, id);
    assert_exits(shim, id);
    shim.remove(id);
}

/// Nothing is left, and the shim ends when it is asked to.
#[track_caller]
fn assert_clean(shim: &Shim) {
    eventually("processes are left", || shim.children().is_empty());
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
    shim.shutdown();
    eventually("the shim did not end", || !shim.is_running());
}

/// A module of the rootfs that no cache knows.
fn cold_module(shim: &Shim, number: usize) -> String {
    let mut module = fs::read(guest("sleep")).unwrap();
    // A custom section of one byte name and eight bytes of content.
    module.extend([0, 10, 1, b'x']);
    let salt = std::process::id() as usize * 1000 + number;
    module.extend(salt.to_le_bytes());
    let path = format!("/cold-{number}.wasm");
    let file = shim.rootfs().join(&path[1..]);
    fs::write(&file, module).unwrap();
    fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn with_slow_hook(shim: &Shim, mut spec: Value) -> Value {
    let hook = shim.rootfs().join("slow-hook");
    fs::write(&hook, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    spec["hooks"] = json!({ "createRuntime": [{ "path": hook.to_str().unwrap() }] });
    spec
}

#[test]
fn a_create_whose_caller_goes_away_leaves_nothing() {
    let shim = Shim::start();
    for when in moments(Duration::from_millis(50), 20) {
        interrupt(&shim, when, |shim| {
            let _ = shim.create("a", &shim.spec("a", &SLEEP));
        });
        erase(&shim, "a");
        assert_works(&shim, "a");
    }
    // While the module is compiled.
    for (number, when) in moments(Duration::from_millis(600), 8).enumerate() {
        let module = cold_module(&shim, number);
        interrupt(&shim, when, |shim| {
            let _ = shim.create("a", &shim.spec("a", &[&module, "1000"]));
        });
        erase(&shim, "a");
        shim.create("a", &shim.spec("a", &[&module, "1000"]))
            .unwrap();
        shim.start_task("a").unwrap();
        shim.remove("a");
    }
    assert_clean(&shim);
}

/// As containerd does after a Create that took too long: Delete, and Shutdown if that takes too long,
/// too, without waiting any longer.
#[test]
fn a_create_that_is_given_up_ends_with_its_shim() {
    for shutdown_waits in [true, false] {
        let shim = Shim::start();
        let spec = with_slow_hook(&shim, shim.spec("a", &SLEEP));
        let caller = shim.caller(Duration::from_millis(300));
        caller.create("a", &spec).unwrap_err();
        let pending = shim.state("a", "").unwrap();
        assert_eq!(pending.pid, 0, "Create goes on");
        let hurried = (Departure::Deadline, Duration::from_micros(300));
        interrupt(&shim, hurried, |shim| drop(shim.delete("a")));
        if shutdown_waits {
            shim.shutdown();
        } else {
            interrupt(&shim, hurried, |shim| drop(shim.try_shutdown()));
        }
        eventually("the shim did not end", || !shim.is_running());
        assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_delete_cancels_a_create() {
    let shim = Shim::start();
    let spec = with_slow_hook(&shim, shim.spec("a", &SLEEP));
    for wasm in [false, true] {
        let mut spec = spec.clone();
        if wasm {
            spec["process"]["args"] = json!(["/sleep.wasm", "1000"]);
        }
        thread::scope(|scope| {
            let create = scope.spawn(|| shim.create("a", &spec));
            eventually("no create is seen", || shim.state("a", "").is_ok());
            thread::sleep(Duration::from_millis(if wasm { 300 } else { 0 }));
            let deleted = shim.delete("a").unwrap_err();
            assert!(deleted.contains("NOT_FOUND"), "{deleted}");
            // Nothing is left when Delete is answered, not some time later.
            assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
            let error = create.join().unwrap().unwrap_err();
            assert!(error.contains("deleted meanwhile"), "{error}");
        });
        assert_works(&shim, "a");
    }
    assert_clean(&shim);
}

/// A pod's shim is asked to shut down for each of its containers.
#[test]
fn a_shim_with_a_task_stays_while_another_is_given_up() {
    let shim = Shim::start();
    run(&shim, "sandbox");
    let spec = with_slow_hook(&shim, shim.spec("a", &SLEEP));
    let caller = shim.caller(Duration::from_millis(200));
    caller.create("a", &spec).unwrap_err();
    let begin = Instant::now();
    shim.shutdown();
    assert!(begin.elapsed() < Duration::from_secs(5), "Shutdown waits");
    erase(&shim, "a");
    shim.shutdown();
    assert_works(&shim, "a");
    shim.remove("sandbox");
    assert_clean(&shim);
}

#[test]
fn a_start_whose_caller_goes_away_leaves_nothing() {
    let shim = Shim::start();
    for args in [&SLEEP[..], &["/sleep.wasm", "1000"]] {
        for when in moments(Duration::from_millis(15), 12) {
            shim.create("a", &shim.spec("a", args)).unwrap();
            interrupt(&shim, when, |shim| drop(shim.start_task("a")));
            erase(&shim, "a");
        }
        assert_works(&shim, "a");
    }
    assert_clean(&shim);
}

#[test]
fn a_kill_whose_caller_goes_away_is_done() {
    let shim = Shim::start();
    for (number, when) in moments(Duration::from_millis(15), 12).enumerate() {
        run(&shim, "a");
        if number % 3 == 0 {
            shim.pause("a").unwrap();
        }
        interrupt(&shim, when, |shim| {
            let _ = match number % 2 {
                0 => shim.kill("a", Signal::SIGKILL),
                _ => shim.kill_all("a", Signal::SIGKILL),
            };
        });
        // The call may not have reached the shim at all.
        let _ = shim.kill("a", Signal::SIGKILL);
        assert_eq!(shim.wait("a"), 137);
        shim.delete("a").unwrap();
    }
    assert_works(&shim, "a");
    assert_clean(&shim);
}

#[test]
fn a_delete_whose_caller_goes_away_is_done() {
    let shim = Shim::start();
    for when in moments(Duration::from_millis(25), 14) {
        run(&shim, "a");
        shim.kill("a", Signal::SIGKILL).unwrap();
        shim.wait("a");
        interrupt(&shim, when, |shim| drop(shim.delete("a")));
        erase(&shim, "a");
        assert_works(&shim, "a");
    }
    assert_clean(&shim);
}

#[test]
fn a_change_whose_caller_goes_away_is_whole() {
    let shim = Shim::start();
    run(&shim, "a");
    for when in moments(Duration::from_millis(15), 12) {
        interrupt(&shim, when, |shim| drop(shim.pause("a")));
        // Whichever it is, the state is told as it is.
        eventually("the pause does not end", || {
            shim.state("a", "").unwrap().status.value() != PAUSING
        });
        let is_paused = shim.state("a", "").unwrap().status.value() == PAUSED;
        assert_eq!(shim.resume("a").is_ok(), is_paused);
        assert_exits(&shim, "a");
        shim.pause("a").unwrap();
        interrupt(&shim, when, |shim| drop(shim.resume("a")));
        eventually("it is not resumed", || {
            shim.state("a", "").unwrap().status.value() == RUNNING || shim.resume("a").is_ok()
        });
        assert_exits(&shim, "a");
        interrupt(&shim, when, |shim| {
            drop(shim.update("a", &json!({ "pids": { "limit": 50 } })));
        });
        shim.update("a", &json!({ "pids": { "limit": 60 } }))
            .unwrap();
        assert_exits(&shim, "a");
    }
    shim.remove("a");
    assert_clean(&shim);
}

/// As of containerd's `task.Status`.
const RUNNING: i32 = 2;
const PAUSED: i32 = 4;
const PAUSING: i32 = 5;

/// What only reads is dropped with its caller, and its process ends.
#[test]
fn a_question_whose_caller_goes_away_leaves_no_process() {
    let shim = Shim::start();
    run(&shim, "a");
    for when in moments(Duration::from_millis(6), 20) {
        interrupt(&shim, when, |shim| drop(shim.statistics("a")));
        interrupt(&shim, when, |shim| drop(shim.state("a", "")));
        interrupt(&shim, when, |shim| drop(shim.wait_for("a", "")));
    }
    eventually("processes are left", || shim.children().len() == 1);
    shim.remove("a");
    assert_clean(&shim);
}

/// A number that is no signal is refused, and nobody takes it for 0, which succeeds.
#[test]
fn what_is_no_signal_is_refused() {
    let shim = Shim::start();
    run(&shim, "a");
    let sleep = shim.process(&["/bin/sh", "-c", "sleep 1000"]);
    shim.exec("a", "e", &sleep, Stdio::default()).unwrap();
    shim.start_exec("a", "e").unwrap();
    for exec in ["", "e"] {
        shim.kill_number("a", exec, 0).unwrap();
        for number in [65, 1 << 16, 0x7fff_ffff, 0x8000_0000, 0x8000_0009, u32::MAX] {
            let error = shim.kill_number("a", exec, number).unwrap_err();
            assert!(error.contains("INVALID_ARGUMENT"), "{error}");
            let wording = format!("unknown signal: {number}");
            assert!(error.contains(&wording), "{error}");
        }
        assert_eq!(shim.state("a", exec).unwrap().status.value(), RUNNING);
    }
    shim.remove("a");
    let gone = shim.kill_number("a", "", 0).unwrap_err();
    assert!(gone.contains("NOT_FOUND"), "{gone}");
    assert_clean(&shim);
}

/// Real-time signals end a process as others do, and never the shim that collects it: an image may
/// have one as its STOPSIGNAL, and a process of a container may send itself one.
#[test]
fn a_process_that_a_real_time_signal_ends_takes_nobody_with_it() {
    let shim = Shim::start();
    run(&shim, "neighbour");
    // Of a PID namespace of its own init would ignore them.
    let mut spec = shim.spec("a", &SLEEP);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    for number in [34, 37, 64] {
        shim.create("a", &spec).unwrap();
        shim.start_task("a").unwrap();
        let suicide = shim.process(&["/bin/sh", "-c", &format!("kill -{number} $$")]);
        assert_eq!(shim.run_exec("a", "e", &suicide), Ok(128 + number));
        shim.kill_number("a", "", number).unwrap();
        assert_eq!(shim.wait("a"), 128 + number);
        assert_eq!(shim.delete("a"), Ok(128 + number));
        assert_exits(&shim, "neighbour");
    }
    shim.remove("neighbour");
    assert_clean(&shim);
}

/// A node's root has 128 inotify instances, for all pods and for itself.
#[test]
fn containers_with_stdin_do_not_use_up_inotify_instances() {
    let shim = Shim::start();
    let descriptors = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", shim.pid))
            .unwrap()
            .flatten();
        let targets = fds.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets
            .filter(|target| target.ends_with("anon_inode:inotify"))
            .count()
    };
    let ids: Vec<String> = (0..6).map(|number| format!("c{number}")).collect();
    for id in &ids {
        shim.fifo(id, "stdin");
        shim.create(id, &shim.spec(id, &["/bin/sh", "-c", "read line"]))
            .unwrap();
        shim.start_task(id).unwrap();
    }
    // Two of one instance: one to add watches, and one to wait at.
    assert_eq!(descriptors(), 2);
    for id in &ids {
        assert_eq!(shim.state(id, "").unwrap().status.value(), RUNNING);
        shim.close_stdin(id, "");
        assert_eq!(shim.wait(id), 1);
    }
    eventually("an instance is kept", || descriptors() == 0);
    for id in &ids {
        shim.delete(id).unwrap();
    }
    assert_clean(&shim);
}
