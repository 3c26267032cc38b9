//! Invariant 8: after the end nothing is left, however the end came.

use std::time::{Duration, Instant};

use lighter_testkit::{Image, Process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{containerd_with, init, shims};

#[test]
fn a_hundred_containers_leave_nothing() {
    let image = Image::wasm("hello").guest("/trap.wasm", "trap");
    let busybox = Image::busybox();
    let containerd = containerd_with(&image);
    containerd.import(&busybox);
    let leaks = containerd.leaks();
    for round in 0..100 {
        match round % 4 {
            0 => containerd
                .run(&busybox)
                .arguments(["true"])
                .output()
                .exits(0),
            1 => containerd
                .run(&image)
                .arguments(["/trap.wasm"])
                .output()
                .exits(134),
            2 => containerd
                .run(&image)
                .arguments(["/missing"])
                .output()
                .fails_with(&["/missing"]),
            _ => containerd.run(&image).output().exits(0),
        };
    }
    leaks.assert_none_since();
}

/// containerd notices that the shim is gone and calls the delete binary.
#[test]
fn a_killed_shim_leaves_nothing() {
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "100"]);
    let busybox = Image::busybox();
    let containerd = containerd_with(&image);
    containerd.import(&busybox);
    let leaks = containerd.leaks();
    let guest = containerd.run(&image).detach();
    let native = containerd
        .run(&busybox)
        .arguments(["sh", "-c", "sleep 100 & sleep 100"])
        .detach();
    let inits = [init(&containerd, &guest), init(&containerd, &native)];
    for shim in shims(&containerd) {
        kill(Pid::from_raw(shim.pid), Signal::SIGKILL).unwrap();
    }
    for id in [&guest, &native] {
        // containerd forgets a task whose shim has died.
        let end = Instant::now() + Duration::from_secs(15);
        while containerd.status(id).is_some() {
            assert!(Instant::now() < end, "task {id} is still known");
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
            .ctr(["containers", "delete", id])
            .output()
            .exits(0);
    }
    for init in inits {
        let process = Process::read(init).filter(|process| process.state != 'Z');
        assert_eq!(process, None, "it lives on");
    }
    leaks.assert_none_since();
}
