//! Execs whose caller, or whose operation, goes away.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lighter_testkit::shim::{Shim, Stdio, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PATIENT, assert_clean, assert_exits, cold_module, erase, interrupt, moments, run};

/// Deletes an exec as containerd's client does (`WithProcessKill`).
#[track_caller]
fn erase_exec(shim: &Shim, id: &str, exec: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match shim.kill_number(id, exec, 9) {
            Ok(()) => drop(shim.wait_for(id, exec)),
            Err(error) => assert!(
                error.contains("NOT_FOUND") || error.contains("FAILED_PRECONDITION"),
                "{error}"
            ),
        }
        match shim.delete_exec(id, exec) {
            Ok(_) => return,
            Err(error) if error.contains("NOT_FOUND") => return,
            Err(error) => assert!(Instant::now() < end, "{exec} cannot be deleted: {error}"),
        }
    }
}

#[test]
fn an_exec_whose_caller_goes_away_can_be_deleted() {
    let shim = Shim::start();
    run(&shim, "a");
    let sleep = shim.process(&["/bin/sh", "-c", "exec sleep 1000"]);
    for when in moments(Duration::from_millis(40), 30) {
        shim.exec("a", "e", &sleep, Stdio::default()).unwrap();
        interrupt(&shim, when, |shim| drop(shim.start_exec("a", "e")));
        erase_exec(&shim, "a", "e");
        assert_exits(&shim, "a");
    }
    // Init and its child: nothing of an exec runs on.
    eventually("an exec runs on", || shim.pids("a").len() == 2);
    for number in 0..200 {
        let (command, status) = match number % 2 {
            0 => ("exit 7", 7),
            _ => ("kill -34 $$", 128 + 34),
        };
        let process = shim.process(&["/bin/sh", "-c", command]);
        let ended = shim.run_exec("a", &format!("e{number}"), &process);
        assert_eq!(ended, Ok(status), "exec {number}");
    }
    shim.remove("a");
    assert_clean(&shim);
}

/// As when kubelet's probe has its deadline of a second: nobody comes back for the exec.
#[test]
fn a_container_whose_exec_was_given_up_can_be_deleted() {
    let shim = Shim::start();
    let sleep = shim.process(&["/bin/sh", "-c", "exec sleep 1000"]);
    for when in moments(Duration::from_millis(40), 16) {
        run(&shim, "a");
        shim.exec("a", "e", &sleep, Stdio::default()).unwrap();
        interrupt(&shim, when, |shim| drop(shim.start_exec("a", "e")));
        erase(&shim, "a");
    }
    assert_clean(&shim);
}

/// An exec that compiles does not keep its container from ending.
#[test]
fn an_exec_that_compiles_ends_with_its_container() {
    let shim = Shim::start();
    for number in 0..4 {
        shim.create("a", &shim.spec("a", &["/sleep.wasm", "1000"]))
            .unwrap();
        shim.start_task("a").unwrap();
        let module = cold_module(&shim, 100 + number);
        let process = shim.process(&[&module, "1000"]);
        shim.exec("a", "e", &process, Stdio::default()).unwrap();
        thread::scope(|scope| {
            let caller = shim.caller(PATIENT);
            scope.spawn(move || caller.start_exec("a", "e"));
            thread::sleep(Duration::from_millis(30 * number as u64));
            erase(&shim, "a");
        });
    }
    assert_clean(&shim);
}

/// The shim's children, the oldest first. Quicker than to look through all processes.
fn children(shim: &Shim) -> Vec<i32> {
    let path = format!("/proc/{0}/task/{0}/children", shim.pid);
    match fs::read_to_string(path) {
        Ok(text) => text.split_whitespace().flat_map(str::parse).collect(),
        // A kernel may lack the file.
        Err(_) => shim.children().iter().map(|child| child.pid).collect(),
    }
}

/// The operation of an exec is killed at some moment, by the kernel for want of memory, say. A
/// process that it has made is either known, or there is none.
#[test]
fn a_killed_exec_operation_leaves_no_unknown_process() {
    let shim = Shim::start();
    run(&shim, "a");
    let log = shim.rootfs().join("tmp/ran");
    let process = shim.process(&["/bin/sh", "-c", "echo >> /tmp/ran; exec sleep 1000"]);
    let mut killed = 0;
    for step in 0..300 {
        if killed == 20 {
            break;
        }
        shim.exec("a", "e", &process, Stdio::default()).unwrap();
        let _ = fs::remove_file(&log);
        let before = children(&shim);
        let started = thread::scope(|scope| {
            let start = scope.spawn(|| shim.start_exec("a", "e"));
            let operation = loop {
                let new = |child: &i32| !before.contains(child);
                if let Some(operation) = children(&shim).into_iter().find(new) {
                    break Some(operation);
                }
                if start.is_finished() {
                    break None;
                }
            };
            if let Some(pid) = operation {
                thread::sleep(Duration::from_micros(step % 30 * 150));
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            start.join().unwrap()
        });
        if started.is_err() {
            killed += 1;
            eventually("an unknown process runs", || shim.pids("a").len() == 2);
            // Nor does it come later.
            thread::sleep(Duration::from_millis(20));
            assert_eq!(shim.pids("a").len(), 2);
            let _ = fs::remove_file(&log);
            thread::sleep(Duration::from_millis(10));
            assert!(!log.exists(), "it runs on");
        }
        erase_exec(&shim, "a", "e");
        assert_exits(&shim, "a");
    }
    assert!(killed > 2, "only {killed} operations were killed in time");
    shim.remove("a");
    assert_clean(&shim);
}
