//! The artifact cache: one compilation for each program, and only by this node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::guests::{HELLO, start};
use crate::process::{COMPILER, NOT_LOADED, Node, finish};

crate::tests![
    a_program_is_compiled_once,
    processes_that_start_together_share_one_compilation,
    a_damaged_artifact_is_compiled_again,
    a_missing_compiler_is_named,
    a_shared_folder_is_refused,
    what_a_killed_compilation_left_is_harmless,
];

/// A compiler that notes each of its runs in the file `count` of the node's folder.
fn counting_compiler(node: &Node) -> PathBuf {
    let folder = node.folder.path();
    let path = folder.join("compiler");
    let count = folder.join("count");
    let script = format!(
        "#!/bin/sh\necho x >> '{}'\nexec '{COMPILER}' \"$@\"\n",
        count.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn compilations(node: &Node) -> usize {
    let count = fs::read_to_string(node.folder.path().join("count"));
    count.unwrap_or_default().lines().count()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn a_program_is_compiled_once() {
    let node = Node::new();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    for _ in 0..3 {
        assert_eq!(program.run().stdout, "hello\n");
    }
    assert_eq!(compilations(&node), 1);
    // Neither its name nor its age counts: a new file with the same bytes is the same program.
    let again = node.text(HELLO).compiler("/nonexistent");
    assert_eq!(again.run().stdout, "hello\n");
    let other = node.text(&start("nop")).compiler("/nonexistent");
    assert_eq!(other.run().status, NOT_LOADED);
    assert_eq!(files(&node.cache()).len(), 1);
    let mode = fs::metadata(&files(&node.cache())[0])
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

fn processes_that_start_together_share_one_compilation() {
    let node = Node::new();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    let children: Vec<_> = (0..8).map(|_| program.spawn(Stdio::null())).collect();
    for child in children {
        let outcome = finish(child);
        assert_eq!(outcome.stdout, "hello\n", "{}", outcome.stderr);
    }
    assert_eq!(compilations(&node), 1);
    assert_eq!(files(&node.cache()).len(), 1);
}

fn a_damaged_artifact_is_compiled_again() {
    let node = Node::new();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    program.run();
    let artifact = files(&node.cache()).remove(0);
    let whole = fs::read(&artifact).unwrap();
    for damaged in [&b""[..], b"nonsense", &whole[..whole.len() / 2]] {
        let before = compilations(&node);
        fs::write(&artifact, damaged).unwrap();
        assert_eq!(program.run().stdout, "hello\n");
        assert_eq!(compilations(&node), before + 1);
        assert_eq!(fs::read(&artifact).unwrap().len(), whole.len());
    }
}

fn a_missing_compiler_is_named() {
    let node = Node::new();
    let outcome = node.text(HELLO).compiler("/no/lighter-compiler").run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(
        outcome.stderr.contains("/no/lighter-compiler"),
        "{}",
        outcome.stderr
    );
    assert!(files(&node.cache()).is_empty());
}

fn a_shared_folder_is_refused() {
    let node = Node::new();
    fs::create_dir(node.cache()).unwrap();
    fs::set_permissions(node.cache(), fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = node.text(HELLO).run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(outcome.stderr.contains("mode 755"), "{}", outcome.stderr);
}

fn what_a_killed_compilation_left_is_harmless() {
    let node = Node::new();
    let program = node.text(HELLO);
    program.run();
    let artifact = files(&node.cache()).remove(0);
    fs::rename(&artifact, artifact.with_extension("partial")).unwrap();
    fs::write(artifact.with_extension("lock"), "").unwrap();
    assert_eq!(program.run().stdout, "hello\n");
    assert_eq!(files(&node.cache()), [artifact]);
}
