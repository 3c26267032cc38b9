//! Which errors of the kernel a guest sees, as a module and as a component.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::guests::{self, component_of};
use crate::process::{Node, Outcome, Run, finish};

crate::tests![
    a_rename_to_another_volume_is_what_it_is,
    a_read_only_volume_is_what_it_is,
    too_many_open_files_are_what_they_are,
    a_program_that_runs_is_busy,
];

/// Does what its first argument says with the others, and prints the number of the error.
const GUEST: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int failed = 0;
    if (argc == 4 && !strcmp(argv[1], "rename")) failed = rename(argv[2], argv[3]);
    if (argc == 4 && !strcmp(argv[1], "link")) failed = link(argv[2], argv[3]);
    if (argc == 3 && !strcmp(argv[1], "mkdir")) failed = mkdir(argv[2], 0777);
    if (argc == 3 && !strcmp(argv[1], "create")) failed = open(argv[2], O_WRONLY | O_CREAT, 0666);
    if (argc == 3 && !strcmp(argv[1], "write")) failed = open(argv[2], O_WRONLY);
    if (argc == 3 && !strcmp(argv[1], "exhaust"))
        while ((failed = open(argv[2], O_RDONLY)) >= 0) {}
    printf("%d\n", failed < 0 ? errno : 0);
    return 0;
}"#;

const XDEV: i32 = 75;
const ROFS: i32 = 69;
const MFILE: i32 = 33;
const NOMEM: i32 = 48;
const TXTBSY: i32 = 74;

/// Runs the guest in each form, behind `wrapper`, a command that executes its arguments; returns
/// the error of each form.
fn errors(node: &Node, wrapper: &[&str], args: &[&str]) -> [i32; 2] {
    let module = guests::c(GUEST);
    let component = component_of(&module);
    let args: Vec<&'static str> = args
        .iter()
        .map(|arg| &*Box::leak((*arg).to_owned().into_boxed_str()))
        .collect();
    let args = [&["app.wasm"], args.as_slice()].concat();
    [module, component].map(|program| {
        // It is compiled before anything is taken from it.
        node.program(&program).args(&["app.wasm"]).run();
        let outcome = behind(wrapper, &node.program(&program).args(&args));
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
        outcome.stdout.trim().parse().unwrap()
    })
}

fn behind(wrapper: &[&str], run: &Run) -> Outcome {
    let words = wrapper.iter().map(|word| (*word).to_owned());
    let words: Vec<String> = words.chain(run.words()).collect();
    let child = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish(child.unwrap())
}

/// A command that mounts a tmpfs with these options at `folder` and executes the rest.
fn with_volume<'a>(options: &'a str, folder: &'a str) -> [&'a str; 7] {
    const SCRIPT: &str = "mount -t tmpfs -o \"$0\" none \"$1\" && shift && exec \"$@\"";
    ["unshare", "--mount", "sh", "-c", SCRIPT, options, folder]
}

fn path(node: &Node, name: &str) -> String {
    node.folder.path().join(name).to_str().unwrap().to_owned()
}

fn a_rename_to_another_volume_is_what_it_is() {
    let node = Node::new();
    let (file, volume) = (path(&node, "file"), path(&node, "volume"));
    fs::write(&file, "x").unwrap();
    fs::create_dir(&volume).unwrap();
    let other = format!("{volume}/file");
    for command in ["rename", "link"] {
        let errors = errors(
            &node,
            &with_volume("rw", &volume),
            &[command, &file, &other],
        );
        assert_eq!(errors, [XDEV; 2], "{command}");
    }
    assert!(Path::new(&file).exists());
}

fn a_read_only_volume_is_what_it_is() {
    let node = Node::new();
    let volume = path(&node, "volume");
    fs::create_dir(&volume).unwrap();
    let new = format!("{volume}/new");
    for command in ["create", "mkdir"] {
        let errors = errors(&node, &with_volume("ro", &volume), &[command, &new]);
        assert_eq!(errors, [ROFS; 2], "{command}");
    }
}

fn too_many_open_files_are_what_they_are() {
    let node = Node::new();
    let file = path(&node, "file");
    fs::write(&file, "x").unwrap();
    let limited = ["sh", "-c", "ulimit -n 64 && exec \"$0\" \"$@\""];
    // WASI 0.2 has no code of its own for it.
    assert_eq!(errors(&node, &limited, &["exhaust", &file]), [MFILE, NOMEM]);
}

fn a_program_that_runs_is_busy() {
    let node = Node::new();
    let program = path(&node, "sleep");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut running = Command::new(&program).arg("60").spawn().unwrap();
    let errors = errors(&node, &["env"], &["write", &program]);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(errors, [TXTBSY; 2]);
}
