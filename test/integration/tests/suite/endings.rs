//! Endings that can be told apart.

use std::time::Duration;

use lighter_testkit::{Containerd, Image};

use crate::containerd_with;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn exit_codes_are_the_guests() {
    let image = Image::wasm("exit").guest("/c.wasm", "exit-component");
    let containerd = containerd_with(&image);
    for code in [0, 1, 42, 255] {
        let code_text = code.to_string();
        containerd
            .run(&image)
            .arguments(["/exit.wasm", &code_text])
            .output()
            .exits(code);
    }
    containerd
        .run(&image)
        .arguments(["/c.wasm", "0"])
        .output()
        .exits(0);
    // wasi:cli 0.2 knows success and failure only.
    containerd
        .run(&image)
        .arguments(["/c.wasm", "3"])
        .output()
        .exits(1);
}

#[test]
fn a_trap_is_134_and_says_where() {
    let image = Image::wasm("trap")
        .guest("/oob.wasm", "oob")
        .guest("/component.wasm", "trap-component");
    let containerd = containerd_with(&image);
    for path in ["/trap.wasm", "/component.wasm"] {
        let output = containerd.run(&image).arguments([path]).output();
        output.exits(134);
        for text in ["unreachable", "inner_that_traps", "middle_caller"] {
            assert!(
                output.stderr.contains(text),
                "{path}: {text} in {}",
                output.stderr
            );
        }
    }
    let output = containerd.run(&image).arguments(["/oob.wasm"]).output();
    output.exits(134);
    assert!(
        output.stderr.contains("out of bounds memory access"),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("read_outside"), "{}", output.stderr);
}

/// In the container's log and, as the kubelet mounts a file for it, in its termination log.
#[test]
fn a_full_stack_is_134_and_says_where() {
    let image = Image::wasm("overflow").guest("/component.wasm", "overflow-component");
    let containerd = containerd_with(&image);
    let file = containerd.folder().join("termination");
    let mount = format!(
        "type=bind,src={},dst=/dev/termination-log,options=rbind:rw",
        file.display()
    );
    for path in ["/overflow.wasm", "/component.wasm"] {
        std::fs::write(&file, "").unwrap();
        let output = containerd
            .run(&image)
            .flags(["--mount", &mount])
            .arguments([path])
            .output();
        output.exits(134);
        let termination = std::fs::read_to_string(&file).unwrap();
        for text in [&output.stderr, &termination] {
            for part in [
                &format!("{path} trapped: "),
                "call stack exhausted",
                "wasm backtrace:",
                "endless_recursion",
            ] {
                assert!(text.contains(part), "{path}: no {part} in {text:?}");
            }
        }
        // The kubelet shows so much of it.
        assert!(termination.len() <= 4096, "{}", termination.len());
    }
}

fn ends_with(containerd: &Containerd, image: &Image, signal: &str, status: i32) {
    let id = containerd.next_id();
    let mut running = containerd.run(image).id(&id).spawn();
    running.await_stdout(
        if image.reference().contains("busy") {
            "busy"
        } else {
            "ready"
        },
        LIMIT,
    );
    containerd
        .ctr(["tasks", "kill", "--signal", signal, &id])
        .output()
        .exits(0);
    running.wait(LIMIT).exits(status);
}

/// PID 1 ignores signals that it does not handle; a guest that computes for ever handles none.
#[test]
fn every_signal_that_ends_a_process_ends_a_busy_guest() {
    let image = Image::wasm("busy");
    let containerd = containerd_with(&image);
    for (signal, number) in [
        ("SIGTERM", 15),
        ("SIGINT", 2),
        ("SIGHUP", 1),
        ("SIGQUIT", 3),
        ("SIGUSR1", 10),
        ("SIGUSR2", 12),
        ("SIGABRT", 6),
        ("SIGSEGV", 11),
        ("SIGPIPE", 13),
        ("SIGALRM", 14),
        ("SIGKILL", 9),
        ("SIGILL", 4),
        ("SIGFPE", 8),
        ("SIGBUS", 7),
        ("SIGXCPU", 24),
    ] {
        ends_with(&containerd, &image, signal, 128 + number);
    }
}

#[test]
fn a_sleeping_guest_ends_too() {
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "100"]);
    let containerd = containerd_with(&image);
    ends_with(&containerd, &image, "SIGTERM", 143);
    ends_with(&containerd, &image, "SIGKILL", 137);
    let component = Image::new("sleep-component")
        .guest("/c.wasm", "sleep-component")
        .entrypoint(["/c.wasm", "100"]);
    containerd.import(&component);
    ends_with(&containerd, &component, "SIGTERM", 143);
}

#[test]
fn ignored_signals_leave_a_guest_alone() {
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "1"]);
    let containerd = containerd_with(&image);
    let id = containerd.next_id();
    let mut running = containerd.run(&image).id(&id).spawn();
    running.await_stdout("ready", LIMIT);
    for signal in ["SIGCHLD", "SIGURG", "SIGWINCH", "SIGCONT"] {
        containerd
            .ctr(["tasks", "kill", "--signal", signal, &id])
            .output()
            .exits(0);
    }
    running.wait(LIMIT).exits(0);
}

#[test]
fn stdin_ends_when_its_writer_does() {
    let image = Image::wasm("cat");
    let containerd = containerd_with(&image);
    let mut running = containerd.run(&image).spawn();
    running.write("first\n");
    running.await_stdout("first", LIMIT);
    running.write("second\n");
    running.await_stdout("second", LIMIT);
    running.close_stdin();
    running.wait(LIMIT).exits(0);
}

/// What `kubectl describe` shows of a container that failed: the kubelet mounts a file.
#[test]
fn the_termination_log_says_why() {
    let image = Image::wasm("trap");
    let containerd = containerd_with(&image);
    let file = containerd.folder().join("termination");
    std::fs::write(&file, "").unwrap();
    let mount = format!(
        "type=bind,src={},dst=/dev/termination-log,options=rbind:rw",
        file.display()
    );
    let output = containerd.run(&image).flags(["--mount", &mount]).output();
    output.exits(134);
    let text = std::fs::read_to_string(&file).unwrap();
    for part in ["/trap.wasm trapped: ", "unreachable", "middle_caller"] {
        assert!(text.contains(part), "no {part} in {text:?}");
    }
}
