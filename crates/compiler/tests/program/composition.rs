//! Several components become one: composed and compiled once, found by their digests later.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lighter_wasm::composition::head;

use crate::cache::{artifacts, compilations, counting_compiler, files};
use crate::examples::{library, program};
use crate::process::{COMPILER, NOT_LOADED, Node, Outcome, finish};

crate::tests![
    components_run_as_one,
    they_are_composed_and_fetched_once,
    damage_is_noticed,
    processes_that_start_together_share_one_composition,
    their_order_and_number_count,
    faults_are_named_and_leave_nothing,
    a_worker_that_composed_something_else_is_not_believed,
    what_is_no_list_of_components_is_refused,
];

const A: &str = "acme:lib/a@1.0.0";
const B: &str = "acme:lib/b";

/// A program, what it imports, and what that imports.
fn chain(expected: u32) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("app.wasm", program(&[A], expected)),
        ("a.wasm", library(&[B], &[A])),
        ("b.wasm", library(&[], &[B])),
    ]
}

fn components_run_as_one() {
    let node = Node::new();
    let outcome = node.composed(&chain(2)).run();
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    // It is the others' numbers that the program has got.
    assert_eq!(node.composed(&chain(3)).run().status, 1);
    let outcome = node.composed(&chain(2)).export("wasi:cli/run@0.2.0").run();
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
}

fn they_are_composed_and_fetched_once() {
    let node = Node::new();
    let run = node.composed(&chain(2)).compiler(counting_compiler(&node));
    assert_eq!(run.run().status, 0);
    // Once to compose and once to compile.
    assert_eq!(compilations(&node), 2);
    assert_eq!(artifacts(&node).len(), 1);
    for file in files(node.folder.path()) {
        if file.file_name().unwrap().len() == 64 {
            fs::remove_file(file).unwrap();
        }
    }
    let outcome = run.run();
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert_eq!(compilations(&node), 2);
    assert!(files(&node.cache().join("work")).is_empty());
}

fn damage_is_noticed() {
    let node = Node::new();
    let run = node.composed(&chain(2)).compiler(counting_compiler(&node));
    run.run();
    let artifact = artifacts(&node).remove(0);
    let whole = fs::read(&artifact).unwrap();
    fs::write(&artifact, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(run.run().status, 0);
    assert_eq!(compilations(&node), 4);
    assert_eq!(fs::read(&artifact).unwrap().len(), whole.len());
    // What is known of the components, and of what they became.
    for record in files(&node.cache().join("sources")) {
        fs::write(record, "").unwrap();
    }
    assert_eq!(run.run().status, 0);
    assert_eq!(compilations(&node), 5, "the code is there");
    assert_eq!(run.run().status, 0);
    assert_eq!(compilations(&node), 5);
}

fn processes_that_start_together_share_one_composition() {
    let node = Node::new();
    let run = node.composed(&chain(2)).compiler(counting_compiler(&node));
    let children: Vec<_> = (0..10).map(|_| run.spawn(Stdio::null())).collect();
    for child in children {
        let outcome = finish(child);
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    }
    assert_eq!(compilations(&node), 2);
    assert_eq!(artifacts(&node).len(), 1);
    assert!(files(&node.cache().join("work")).is_empty());
}

fn their_order_and_number_count() {
    let node = Node::new();
    let (app, one, two) = (program(&[A], 1), library(&[], &[A]), library(&[B], &[A]));
    let status = |components: &[(&str, Vec<u8>)]| node.composed(components).run().status;
    assert_eq!(status(&[("app", app.clone()), ("lib", one.clone())]), 0);
    // The same program with another library.
    let base = library(&[], &[B]);
    let others = [("app", app.clone()), ("lib", two), ("base", base)];
    assert_eq!(status(&others), 1);
    // The library is not the program.
    assert_eq!(status(&[("lib", one), ("app", app)]), NOT_LOADED);
}

fn refused(node: &Node, components: &[(&str, Vec<u8>)], texts: &[&str]) {
    let outcome = node.composed(components).run();
    check(&outcome, texts);
    for part in ["code", "sources", "work"] {
        let left = files(&node.cache().join(part));
        assert!(left.is_empty(), "{left:?}");
    }
}

fn check(outcome: &Outcome, texts: &[&str]) {
    assert_eq!(outcome.status, NOT_LOADED, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    for text in texts {
        assert!(outcome.stderr.contains(text), "{text}: {}", outcome.stderr);
    }
}

fn faults_are_named_and_leave_nothing() {
    let node = Node::new();
    let app = || ("app.wasm", program(&[A], 1));
    let start = "app.wasm cannot be composed with the other Wasm layers of its image: ";
    let missing = [app(), ("lib.wasm", library(&["acme:lib/gone"], &[A]))];
    refused(
        &node,
        &missing,
        &[start, "provides `acme:lib/gone` (imported by lib.wasm)"],
    );
    let module = wat::parse_str("(module)").unwrap();
    refused(
        &node,
        &[app(), ("old.wasm", module)],
        &[start, "old.wasm is a core module"],
    );
    refused(
        &node,
        &[app(), ("text.wasm", b"nothing".to_vec())],
        &[start, "text.wasm is not a Wasm binary"],
    );
    let circle = [
        app(),
        ("a.wasm", library(&[B], &[A])),
        ("b.wasm", library(&[A], &[B])),
    ];
    refused(&node, &circle, &[start, "in a circle"]);
    let two = [
        app(),
        ("a.wasm", library(&[], &[A])),
        ("b.wasm", library(&[], &[A, B])),
    ];
    refused(&node, &two, &[start, "both a.wasm and b.wasm"]);
    // Of the host's packages, but not there: the component is compiled and then linked, as any.
    let host = [app(), ("lib.wasm", library(&["wasi:cli/gone@0.2.0"], &[A]))];
    check(
        &node.composed(&host).run(),
        &["app.wasm cannot be linked", "wasi:cli/gone@0.2.0"],
    );
}

/// A worker that writes what it likes: here it composes all but the last component.
fn a_worker_that_composed_something_else_is_not_believed() {
    let node = Node::new();
    let path = node.folder.path().join("compiler");
    let other = node.folder.path().join("other");
    let mut input = input_of(&[("app", &library(&[], &[A]))]);
    fs::write(&other, &mut input).unwrap();
    let script = format!(
        "#!/bin/sh\n[ $1 = compose ] && exec <'{}'\nexec '{COMPILER}' \"$@\"\n",
        other.display()
    );
    fs::write(&path, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&path, mode).unwrap();
    let outcome = node
        .composed(&chain(2))
        .compiler(PathBuf::from(&path))
        .run();
    check(&outcome, &["something else"]);
    assert!(artifacts(&node).is_empty());
}

fn input_of(components: &[(&str, &[u8])]) -> Vec<u8> {
    let described = components
        .iter()
        .map(|(name, bytes)| (*name, bytes.len() as u64));
    let mut input = head(described).unwrap().into_bytes();
    for (_, bytes) in components {
        input.extend_from_slice(bytes);
    }
    input
}

fn what_is_no_list_of_components_is_refused() {
    for (input, text) in [
        (&b""[..], "does not end"),
        (b"\0asm\x01\0\0\0", "does not end"),
        (b"lighter components 1\n", "does not end"),
        (b"lighter components 1\n\n", "there is no component"),
        (b"lighter components 1\n5 a\n\n\0asm", "too early"),
        (b"lighter components 1\n4 a\n\n\0asmx", "follows"),
        (
            b"lighter components 1\n18446744073709551615 a\n\n",
            "too early",
        ),
    ] {
        let output = tempfile::tempfile().unwrap();
        let mut child = Command::new(Path::new(COMPILER))
            .args(["compose", "1073741824", "10", "1048576"])
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end before it has read all.
        let _ = child.stdin.take().unwrap().write_all(input);
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(text), "{said}");
        assert_eq!(output.metadata().unwrap().len(), 0);
    }
}
