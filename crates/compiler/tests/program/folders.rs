//! What paths of a guest mean, for the C library of guests and for Rust's standard library.

use std::fs;

use crate::guests::{self, component_of};
use crate::process::{Node, Outcome};

crate::tests![
    paths_count_from_the_root,
    relative_paths_count_from_the_current_folder,
    a_missing_current_folder_is_named,
    a_guest_cannot_write_where_the_process_cannot,
];

/// Prints the contents of each file that an argument names, or a dash.
const C: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char line[100] = "-\n";
        FILE *file = fopen(argv[i], "r");
        if (file && !fgets(line, sizeof line, file)) return 3;
        fputs(line, stdout);
    }
    return 0;
}"#;

const RUST: &str = r#"fn main() {
    for path in std::env::args().skip(1) {
        print!("{}", std::fs::read_to_string(path).unwrap_or("-\n".to_owned()));
    }
}"#;

/// Runs the guests in each form; all have to say the same.
fn read_files(node: &Node, cwd: &std::path::Path, paths: &[String]) -> String {
    let paths: Vec<&'static str> = paths
        .iter()
        .map(|path| &*Box::leak(path.clone().into_boxed_str()))
        .collect();
    let args = [&["app.wasm"], paths.as_slice()].concat();
    let c = guests::c(C);
    let rust = guests::rust(RUST);
    let forms = [
        c.clone(),
        rust.clone(),
        component_of(&c),
        component_of(&rust),
    ];
    let outcomes: Vec<Outcome> = forms
        .iter()
        .map(|form| node.program(form).cwd(cwd).args(&args).run())
        .collect();
    for outcome in &outcomes {
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
        assert_eq!(outcome.stdout, outcomes[0].stdout);
    }
    outcomes[0].stdout.clone()
}

fn paths_count_from_the_root() {
    let node = Node::new();
    let file = node.folder.path().join("file");
    fs::write(&file, "here\n").unwrap();
    let absolute = file.to_str().unwrap().to_owned();
    let relative = absolute.trim_start_matches('/').to_owned();
    let paths = [
        absolute,
        relative.clone(),
        format!("./{relative}"),
        "file".to_owned(),
    ];
    assert_eq!(
        read_files(&node, "/".as_ref(), &paths),
        "here\nhere\nhere\n-\n"
    );
}

fn relative_paths_count_from_the_current_folder() {
    let node = Node::new();
    let inner = node.folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("file"), "in the current folder\n").unwrap();
    fs::write(node.folder.path().join("outside"), "outside\n").unwrap();
    let outside = node.folder.path().join("outside");
    let paths = [
        "file".to_owned(),
        "./file".to_owned(),
        inner.join("file").to_str().unwrap().to_owned(),
        outside.to_str().unwrap().to_owned(),
        "outside".to_owned(),
        "/etc/hostname-that-does-not-exist".to_owned(),
    ];
    assert_eq!(
        read_files(&node, &inner, &paths),
        "in the current folder\n".repeat(3) + "outside\n-\n-\n"
    );
}

fn a_missing_current_folder_is_named() {
    let node = Node::new();
    let outcome = node
        .text(guests::HELLO)
        .cwd("/there/is/no/such".as_ref())
        .run();
    assert_eq!(outcome.status, 125);
    assert!(
        outcome.stderr.contains("/there/is/no/such"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stdout, "");
}

fn a_guest_cannot_write_where_the_process_cannot() {
    // The kernel enforces it; a file of /proc that even root cannot create stands for a
    // read-only mount here.
    let guest = guests::rust(
        r#"fn main() {
            for path in std::env::args().skip(1) {
                println!("{}", std::fs::write(path, "x").is_ok());
            }
        }"#,
    );
    let node = Node::new();
    let writable = node.folder.path().join("new");
    let writable: &'static str = Box::leak(writable.to_str().unwrap().to_owned().into());
    let outcome = node
        .program(&guest)
        .args(&["app.wasm", writable, "/proc/new"])
        .run();
    assert_eq!(outcome.stdout, "true\nfalse\n", "{}", outcome.stderr);
}
