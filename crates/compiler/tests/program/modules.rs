//! Core modules: output, arguments, environment, stdin, exit status, entry points.

use std::io::Write;
use std::process::Stdio;

use crate::guests::{self, HELLO, start};
use crate::process::{NOT_LOADED, Node, finish};

crate::tests![
    a_module_prints_and_returns,
    a_module_exits_with_each_status,
    arguments_and_environment_arrive_in_order,
    stdin_reaches_its_end,
    output_is_not_held_back,
    a_function_is_chosen_by_name,
    a_library_is_initialised_first,
    a_missing_function_is_named,
    functions_of_sockets_answer_an_error,
];

fn a_module_prints_and_returns() {
    let outcome = Node::new().text(HELLO).run();
    assert_eq!(outcome.stdout, "hello\n");
    assert_eq!(outcome.stderr, "");
    assert_eq!(outcome.status, 0);
}

fn a_module_exits_with_each_status() {
    let node = Node::new();
    for status in [0, 1, 7, 125, 126, 200, 255] {
        let text = start(&format!("(call $proc_exit (i32.const {status}))"));
        let outcome = node.text(&text).run();
        assert_eq!(outcome.status, status);
        assert_eq!(outcome.stderr, "");
    }
}

fn arguments_and_environment_arrive_in_order() {
    let guest = guests::rust(
        r#"fn main() {
            for argument in std::env::args() { println!("{argument}"); }
            for (name, value) in std::env::vars() { println!("{name}={value}"); }
        }"#,
    );
    let outcome = Node::new()
        .program(&guest)
        .args(&["app.wasm", "one", "", "two words", "ü"])
        .env(&[("A", "1"), ("EMPTY", "")])
        .run();
    assert_eq!(
        outcome.stdout, "app.wasm\none\n\ntwo words\nü\nA=1\nEMPTY=\n",
        "{}",
        outcome.stderr
    );
}

fn stdin_reaches_its_end() {
    let guest = guests::rust(
        r#"use std::io::Read;
        fn main() {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            print!("{}", text.to_uppercase());
        }"#,
    );
    let node = Node::new();
    let mut child = node.program(&guest).spawn(Stdio::piped());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"first ").unwrap();
    stdin.write_all(b"second").unwrap();
    drop(stdin);
    let outcome = finish(child);
    assert_eq!(outcome.stdout, "FIRST SECOND");
    assert_eq!(outcome.status, 0);
}

fn output_is_not_held_back() {
    // No newline at the end, and it is ended by a signal: what was written has to be there.
    let node = Node::new();
    let mut child = node.text(guests::BUSY).spawn(Stdio::null());
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"x");
    child.kill().unwrap();
    child.wait().unwrap();
}

const SEVERAL: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call $proc_exit (i32.const 1)))
    (func (export "two") (call $proc_exit (i32.const 2)))
    (func (export "nothing"))
    (func (export "adds") (param i32 i32) (result i32) i32.const 0))"#;

fn a_function_is_chosen_by_name() {
    let node = Node::new();
    assert_eq!(node.text(SEVERAL).run().status, 1);
    assert_eq!(node.text(SEVERAL).export("two").run().status, 2);
    assert_eq!(node.text(SEVERAL).export("nothing").run().status, 0);
}

fn a_library_is_initialised_first() {
    let outcome = Node::new()
        .text(
            r#"(module
                (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
                (memory (export "memory") 1)
                (global $status (mut i32) (i32.const 1))
                (func (export "_initialize") (global.set $status (i32.const 42)))
                (func (export "work") (call $proc_exit (global.get $status))))"#,
        )
        .export("work")
        .run();
    assert_eq!(outcome.status, 42, "{}", outcome.stderr);
}

fn a_missing_function_is_named() {
    let node = Node::new();
    let outcome = node.text(SEVERAL).export("three").run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(outcome.stderr.contains("`three`"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("app.wasm#two"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("#adds"), "{}", outcome.stderr);

    let outcome = node.text(SEVERAL).export("adds").run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(outcome.stderr.contains("parameters"), "{}", outcome.stderr);

    let outcome = node.text(SEVERAL).export("memory").run();
    assert!(outcome.stderr.contains("no function"), "{}", outcome.stderr);

    let outcome = node.text("(module)").run();
    assert!(outcome.stderr.contains("`_start`"), "{}", outcome.stderr);
}

/// Each says which of its calls, with a descriptor that is not there and with the folder `/`, did not
/// answer EBADF and ENOTSOCK; its number is the exit status.
fn functions_of_sockets_answer_an_error() {
    const BADF: u32 = 8;
    const NOTSOCK: u32 = 57;
    let calls: String = [
        ("sock_accept", "(i32.const 0) (i32.const 16)"),
        (
            "sock_recv",
            "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 20)",
        ),
        (
            "sock_send",
            "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16)",
        ),
        ("sock_shutdown", "(i32.const 3)"),
    ]
    .iter()
    .flat_map(|(name, rest)| [(name, rest, 99, BADF), (name, rest, 3, NOTSOCK)])
    .enumerate()
    .map(|(number, (name, rest, descriptor, errno))| {
        let status = number + 1;
        format!(
            "(if (i32.ne (call ${name} (i32.const {descriptor}) {rest}) (i32.const {errno}))
                (then (call $proc_exit (i32.const {status}))))"
        )
    })
    .collect();
    let import = |name: &str, parameters: usize| {
        let parameters = "i32 ".repeat(parameters);
        format!(
            r#"(import "wasi_snapshot_preview1" "{name}"
                (func ${name} (param {parameters}) (result i32)))"#
        )
    };
    let imports = [
        import("sock_accept", 3),
        import("sock_recv", 6),
        import("sock_send", 5),
        import("sock_shutdown", 2),
    ]
    .concat();
    let text = format!(
        r#"(module {imports}
            (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") {calls}))"#
    );
    let outcome = Node::new().text(&text).run();
    assert_eq!(outcome.stderr, "");
    assert_eq!(outcome.status, 0);
}
