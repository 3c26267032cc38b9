//! Endings: traps, signals, and pipes that nobody reads.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::guests::{self, BUSY, start};
use crate::process::{Node, finish};

crate::tests![
    a_trap_is_told_on_stderr,
    every_kind_of_trap_is_a_trap,
    a_signal_ends_a_busy_loop,
    a_signal_ends_the_first_process_of_a_namespace,
    traps_work_with_either_order_of_handlers,
    a_closed_pipe_is_an_error_for_the_guest,
];

fn a_trap_is_told_on_stderr() {
    let outcome = Node::new().text(&start("unreachable")).run();
    assert_eq!(outcome.status, 134);
    assert!(
        outcome.stderr.contains("app.wasm trapped"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("`unreachable`"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("inner"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("outer"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
}

fn every_kind_of_trap_is_a_trap() {
    let node = Node::new();
    for (body, text) in [
        ("(drop (i32.load (i32.const -8)))", "out of bounds"),
        (
            "(drop (i32.div_s (i32.const 1) (i32.const 0)))",
            "divide by zero",
        ),
        ("(call $inner) (call $inner)", "call stack exhausted"),
    ] {
        let outcome = node.text(&start(body)).run();
        assert_eq!(outcome.status, 134, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    }
    let outcome = node
        .text(r#"(module (func $f unreachable) (start $f) (func (export "_start")))"#)
        .run();
    assert_eq!(outcome.status, 134, "{}", outcome.stderr);
}

/// Waits until the guest runs: it writes one byte first.
fn wait_for_output(child: &mut Child) {
    let mut first = [0];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
}

fn signal(pid: u32, number: i32) {
    let status = Command::new("/bin/kill")
        .args([format!("-{number}"), pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// All signals that end a process by default and that can be caught.
fn fatal_signals() -> impl Iterator<Item = i32> {
    const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];
    (1..=31)
        .chain(34..=64)
        .filter(|number| *number != 9 && !HARMLESS.contains(number))
}

fn a_signal_ends_a_busy_loop() {
    let node = Node::new();
    let program = node.text(BUSY);
    for number in fatal_signals() {
        let mut child = program.spawn(Stdio::null());
        wait_for_output(&mut child);
        signal(child.id(), number);
        let outcome = finish(child);
        assert_eq!(outcome.status, 128 + number, "{}", outcome.stderr);
    }
}

/// The process that the kernel numbers 1 in the namespace that `command` made.
fn first_process(command: &Child) -> u32 {
    let pid = command.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap()
}

fn a_signal_ends_the_first_process_of_a_namespace() {
    let node = Node::new();
    for order in ["before", "after"] {
        let program = node.text(BUSY).order(order);
        for number in [1, 2, 6, 10, 11, 13, 15, 34, 64] {
            let mut command = program.spawn_as_first();
            wait_for_output(&mut command);
            signal(first_process(&command), number);
            let outcome = finish(command);
            assert_eq!(outcome.status, 128 + number, "{order} {}", outcome.stderr);
        }
    }
}

fn traps_work_with_either_order_of_handlers() {
    let node = Node::new();
    for order in ["before", "after"] {
        let body = "(drop (i32.load (i32.const -8)))";
        let outcome = node.text(&start(body)).order(order).run();
        assert_eq!(outcome.status, 134, "{}", outcome.stderr);
        let first = node.text(&start(body)).order(order).spawn_as_first();
        let outcome = finish(first);
        assert_eq!(outcome.status, 134, "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains("out of bounds"),
            "{}",
            outcome.stderr
        );
    }
}

fn a_closed_pipe_is_an_error_for_the_guest() {
    let guest = guests::c(
        r#"
        #include <errno.h>
        #include <unistd.h>
        int main(void) {
            char byte;
            read(0, &byte, 1);
            return write(1, "x", 1) == -1 && errno == EPIPE ? 42 : 1;
        }"#,
    );
    for form in [guest.clone(), guests::component_of(&guest)] {
        let node = Node::new();
        let mut child = node.program(&form).spawn(Stdio::piped());
        drop(child.stdout.take());
        drop(child.stdin.take());
        let outcome = finish(child);
        // A component says only whether it succeeded: its exit has no number in WASI 0.2.0.
        let expected = if form == guest { 42 } else { 1 };
        assert_eq!(outcome.status, expected, "{}", outcome.stderr);
    }
}
