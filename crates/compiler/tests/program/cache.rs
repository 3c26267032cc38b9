//! The artifact cache: one compilation for each program, and only by this node.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::guests::{HELLO, start};
use crate::process::{COMPILER, NOT_LOADED, Node, finish};

crate::tests![
    a_program_is_compiled_once,
    processes_that_start_together_share_one_compilation,
    a_damaged_artifact_is_compiled_again,
    an_artifact_of_another_program_is_compiled_again,
    what_is_known_of_a_program_can_be_lost,
    a_missing_compiler_is_named,
    a_shared_folder_is_refused,
    a_folder_of_another_user_is_refused,
    a_folder_without_execution_is_named,
    what_a_killed_compilation_left_is_harmless,
    no_cgroup_is_left,
];

/// A compiler that notes each of its runs, with its arguments, in the file `count` of the
/// node's folder.
pub fn counting_compiler(node: &Node) -> PathBuf {
    let folder = node.folder.path();
    let path = folder.join("compiler");
    let count = folder.join("count");
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> '{}'\nexec '{COMPILER}' \"$@\"\n",
        count.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

pub fn compilations(node: &Node) -> usize {
    let count = fs::read_to_string(node.folder.path().join("count"));
    count.unwrap_or_default().lines().count()
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

pub fn artifacts(node: &Node) -> Vec<PathBuf> {
    files(&node.cache().join("code"))
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
    assert_eq!(artifacts(&node).len(), 1);
    assert!(files(&node.cache().join("work")).is_empty());
    let mode = fs::metadata(&artifacts(&node)[0]).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

fn processes_that_start_together_share_one_compilation() {
    let node = Node::new();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    let children: Vec<_> = (0..20).map(|_| program.spawn(Stdio::null())).collect();
    for child in children {
        let outcome = finish(child);
        assert_eq!(outcome.stdout, "hello\n", "{}", outcome.stderr);
    }
    assert_eq!(compilations(&node), 1);
    assert_eq!(artifacts(&node).len(), 1);
    assert!(files(&node.cache().join("work")).is_empty());
}

fn a_damaged_artifact_is_compiled_again() {
    let node = Node::new();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    program.run();
    let artifact = artifacts(&node).remove(0);
    let whole = fs::read(&artifact).unwrap();
    // One bit of the code, which Wasmtime would not notice.
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let longer = [&whole[..], b"more"].concat();
    for damaged in [
        &b""[..],
        b"nonsense",
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 1],
        &changed,
        &longer,
    ] {
        let before = compilations(&node);
        fs::write(&artifact, damaged).unwrap();
        assert_eq!(program.run().stdout, "hello\n");
        assert_eq!(compilations(&node), before + 1);
        assert_eq!(fs::read(&artifact).unwrap().len(), whole.len());
    }
}

fn an_artifact_of_another_program_is_compiled_again() {
    let node = Node::new();
    let program = node.text(HELLO);
    program.run();
    let hello = artifacts(&node).remove(0);
    node.text(&start("nop")).run();
    let other = artifacts(&node)
        .into_iter()
        .find(|path| *path != hello)
        .unwrap();
    fs::copy(other, &hello).unwrap();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    assert_eq!(program.run().stdout, "hello\n");
    assert_eq!(compilations(&node), 1);
}

fn what_is_known_of_a_program_can_be_lost() {
    let node = Node::new();
    let program = node.text(HELLO).compiler(counting_compiler(&node));
    program.run();
    let known = files(&node.cache().join("sources")).remove(0);
    let text = fs::read(&known).unwrap();
    for damaged in [&b""[..], &text[..text.len() / 2], &[0; 100]] {
        fs::write(&known, damaged).unwrap();
        assert_eq!(program.run().stdout, "hello\n");
        assert_eq!(fs::read(&known).unwrap(), text);
    }
    assert_eq!(compilations(&node), 1);
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
    assert!(artifacts(&node).is_empty());
}

fn a_shared_folder_is_refused() {
    let node = Node::new();
    fs::create_dir(node.cache()).unwrap();
    fs::set_permissions(node.cache(), fs::Permissions::from_mode(0o755)).unwrap();
    let outcome = node.text(HELLO).run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(outcome.stderr.contains("mode 755"), "{}", outcome.stderr);
}

fn a_folder_of_another_user_is_refused() {
    let node = Node::new();
    let program = node.text(HELLO);
    program.run();
    // Complete, and once this node's own: but another user could have changed it.
    chown(node.cache(), Some(65534), None).unwrap();
    let outcome = program.run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(
        outcome.stderr.contains("belongs to user 65534"),
        "{}",
        outcome.stderr
    );
    chown(node.cache(), Some(0), None).unwrap();
    chown(&artifacts(&node)[0], Some(65534), None).unwrap();
    let outcome = program.compiler("/no/lighter-compiler").run();
    assert_eq!(
        outcome.status, NOT_LOADED,
        "the artifact of another user was run"
    );
}

fn a_folder_without_execution_is_named() {
    let node = Node::new();
    let program = node.text(HELLO);
    fs::create_dir(node.cache()).unwrap();
    let output = Command::new("/usr/bin/unshare")
        .args(["--mount", "/bin/sh", "-c"])
        .arg("mount -t tmpfs -o noexec,mode=700 tmpfs \"$0\" && exec \"$@\"")
        .arg(node.cache())
        .args(program.words())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(NOT_LOADED), "{error}");
    assert!(error.contains("mounted noexec"), "{error}");
    assert!(error.contains(node.cache().to_str().unwrap()), "{error}");
}

fn what_a_killed_compilation_left_is_harmless() {
    let node = Node::new();
    let program = node.text(HELLO);
    program.run();
    let artifact = artifacts(&node).remove(0);
    let known = files(&node.cache().join("sources")).remove(0);
    let work = node.cache().join("work").join(known.file_name().unwrap());
    fs::rename(&artifact, work.with_extension("partial")).unwrap();
    fs::rename(&known, work.with_extension("source")).unwrap();
    fs::write(work.with_extension("lock"), "").unwrap();
    fs::write(node.cache().join("work/other.partial"), "").unwrap();
    assert_eq!(program.run().stdout, "hello\n");
    assert_eq!(artifacts(&node), [artifact]);
    assert!(files(&node.cache().join("work")).is_empty());
}

fn no_cgroup_is_left() {
    let node = Node::new();
    let compiler = counting_compiler(&node);
    node.text(HELLO).compiler(&compiler).run();
    node.program(b"\0asm\x01\0\0\0\x05\x01\x09")
        .compiler(&compiler)
        .run();
    let runs = fs::read_to_string(node.folder.path().join("count")).unwrap();
    let cgroups: Vec<&str> = runs
        .lines()
        .flat_map(|line| line.split(' ').skip(4))
        .collect();
    assert!(cgroups.len() >= 2, "the worker had no cgroup: {runs}");
    for cgroup in cgroups {
        assert!(!Path::new(cgroup).exists(), "{cgroup}");
    }
}
