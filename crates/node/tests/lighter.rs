//! The program `lighter`, with the compile worker that Cargo built beside it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

/// A node of one test.
struct Node(TempDir);

/// What a run of `lighter` has said.
struct Said {
    stdout: String,
    stderr: String,
    status: i32,
}

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("artifacts")
    }

    /// A Wasm file with these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn command(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lighter"))
            .args(arguments)
            .arg("--cache")
            .arg(self.cache())
            .output()
            .unwrap()
    }

    fn lighter(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments);
        Said {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            status: output.status.code().unwrap(),
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_is_compiled_is_listed_and_removed() {
    let node = Node::new();
    let file = node.file("app.wasm", EMPTY);
    let said = node.lighter(&["precompile", text(&file)]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert!(said.stdout.starts_with(text(&file)), "{}", said.stdout);
    assert!(
        said.stdout.contains("module, compiled in"),
        "{}",
        said.stdout
    );
    // SHA-256 of the eight bytes of an empty module.
    let digest = "93a44bbb96c751218e4c00d479e4c14358122a389acca16205b1e4d0dc5f9476";
    assert!(said.stdout.contains(digest), "{}", said.stdout);

    let said = node.lighter(&["precompile", text(&file)]);
    assert!(
        said.stdout.contains("was compiled before"),
        "{}",
        said.stdout
    );
    let said = node.lighter(&["precompile", "--variant", "debug", text(&file)]);
    assert!(said.stdout.contains("for debug"), "{}", said.stdout);

    let said = node.lighter(&["cache", "ls"]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", said.stdout);
    assert!(lines[0].starts_with("SOURCE"));
    assert!(lines[1].starts_with(&digest[..12]));
    assert!(lines[1].contains("module") && lines[1].contains("command"));
    assert!(
        lines[1].contains(" now ") && lines[1].ends_with("no"),
        "{}",
        lines[1]
    );

    let said = node.lighter(&["cache", "ls", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(rows[0]["source"], digest);
    assert_eq!(rows[0]["source_bytes"], 8);
    assert_eq!(rows[0]["world"], "module");
    assert_eq!(rows[1]["compilation"], "debug");

    assert!(
        node.lighter(&["cache", "verify"])
            .stdout
            .contains("0 damaged")
    );
    let said = node.lighter(&["cache", "rm", "ffff"]);
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("ffff"), "{}", said.stderr);
    let said = node.lighter(&["cache", "rm", &digest[..6]]);
    assert_eq!(said.stdout.lines().count(), 2, "{}", said.stdout);
    assert_eq!(node.lighter(&["cache", "ls"]).stdout.lines().count(), 1);
}

#[test]
fn pruning_keeps_as_much_as_is_asked_for() {
    let node = Node::new();
    let file = node.file("app.wasm", EMPTY);
    node.lighter(&["precompile", text(&file)]);
    let said = node.lighter(&["cache", "prune"]);
    assert!(!said.stdout.contains("removed"), "{}", said.stdout);
    let said = node.lighter(&["cache", "prune", "--max-bytes", "1K"]);
    assert!(said.stdout.starts_with("removed"), "{}", said.stdout);
    assert!(said.stdout.ends_with("0 B left\n"), "{}", said.stdout);
}

#[test]
fn one_file_that_cannot_be_compiled_does_not_keep_the_others_from_it() {
    let node = Node::new();
    let bad = node.file("bad.wasm", b"#!/bin/sh\n");
    let good = node.file("good.wasm", EMPTY);
    let missing = node.0.path().join("missing.wasm");
    let said = node.lighter(&["precompile", text(&bad), text(&missing), text(&good)]);
    assert_eq!(said.status, 1);
    assert_eq!(said.stdout.lines().count(), 1);
    assert!(
        said.stderr.contains("bad.wasm is not a Wasm binary"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("missing.wasm cannot be read"),
        "{}",
        said.stderr
    );
}

#[test]
fn the_doctor_finds_a_healthy_node_and_a_missing_worker() {
    let node = Node::new();
    let said = node.lighter(&["doctor"]);
    // What it says of containerd is tested where there is one.
    let own: Vec<&str> = said.stdout.lines().take(6).collect();
    assert!(own.iter().all(|line| line.starts_with("ok ")), "{own:?}");
    assert!(own[5].contains("compiling"), "{own:?}");

    let said = node.lighter(&["doctor", "--compiler", "/no/lighter-compiler"]);
    assert_eq!(said.status, 1);
    let worker = said
        .stdout
        .lines()
        .find(|line| line.contains("compile worker:"));
    assert!(worker.unwrap().starts_with("FAIL"), "{}", said.stdout);
    assert!(said.stdout.contains("install"), "{}", said.stdout);

    let said = node.lighter(&["doctor", "--compiler", "/bin/echo"]);
    let worker = said
        .stdout
        .lines()
        .find(|line| line.contains("compile worker:"));
    assert!(
        worker.unwrap().contains("of this release"),
        "{}",
        said.stdout
    );
}

#[test]
fn the_doctor_names_a_folder_that_code_cannot_run_from() {
    let node = Node::new();
    fs::create_dir(node.cache()).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o noexec,mode=700 tmpfs \"$0\" && exec \"$@\"")
        .arg(node.cache())
        .args([env!("CARGO_BIN_EXE_lighter"), "doctor", "--cache"])
        .arg(node.cache())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let folder = text.lines().find(|line| line.contains("cache folder:"));
    assert!(folder.unwrap().contains("mounted noexec"), "{text}");
}

#[test]
fn completions_and_pages_are_made_of_the_arguments() {
    let node = Node::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let said = node.lighter(&["completions", shell]);
        assert_eq!(said.status, 0, "{}", said.stderr);
        for word in ["precompile", "uninstall", "--max-bytes"] {
            let word = if shell == "fish" {
                word.trim_start_matches('-')
            } else {
                word
            };
            assert!(said.stdout.contains(word), "{shell} lacks {word}");
        }
    }
    // A shell reads what is for it.
    let script = node.lighter(&["completions", "bash"]).stdout;
    let file = node.file("completions", script.as_bytes());
    let ask = format!(
        "source {}; COMP_WORDS=(lighter cache pr); COMP_CWORD=2; _lighter lighter pr cache; echo \"${{COMPREPLY[*]}}\"",
        text(&file)
    );
    let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "prune\n");

    let folder = node.0.path().join("man");
    let said = node.lighter(&["man", text(&folder)]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(page("lighter.1").contains("lighter\\-install(1)"));
    assert!(page("lighter-install.1").contains("no\\-restart"));
    assert!(page("lighter-cache-prune.1").contains(".SH SYNOPSIS"));
}

#[test]
fn a_wrong_command_line_is_explained() {
    let node = Node::new();
    for arguments in [
        &["precompile"][..],
        &["cache", "rm"],
        &["precompile", "--variant", "fast", "x"],
    ] {
        let said = node.lighter(arguments);
        assert_eq!(said.status, 2, "{arguments:?}");
        assert!(said.stderr.contains("error"), "{}", said.stderr);
    }
}

#[test]
fn an_archive_and_a_folder_hold_the_same_image() {
    let node = Node::new();
    let file = node.file("app.wasm", EMPTY);
    let pack = |output: &str| {
        let output = node.0.path().join(output);
        let said = node.lighter(&[
            "pack",
            text(&file),
            "--output",
            text(&output),
            "--name",
            "me/app",
            "--label",
            "a=b",
        ]);
        assert_eq!(said.status, 0, "{}", said.stderr);
        (output, said.stdout)
    };
    let (archive, said) = pack("app.tar");
    for part in ["docker.io/me/app:latest", "module", "linux/", "sha256:"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let (folder, said_of_folder) = pack("app");
    assert_eq!(said.rsplit(' ').next(), said_of_folder.rsplit(' ').next());
    let unpacked = node.0.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = ["-xf", text(&archive), "-C", text(&unpacked)];
    assert!(Command::new("tar").args(tar).status().unwrap().success());
    // Only an archive has what an older Docker reads.
    fs::remove_file(unpacked.join("manifest.json")).unwrap();
    let diff = ["-r", text(&folder), text(&unpacked)];
    assert!(Command::new("diff").args(diff).status().unwrap().success());

    let first = fs::read(&archive).unwrap();
    pack("app.tar");
    assert_eq!(first, fs::read(&archive).unwrap());
    let left: Vec<_> = fs::read_dir(node.0.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn nothing_of_the_machine_is_in_an_image() {
    let node = Node::new();
    let file = node.file("app.wasm", EMPTY);
    let (one, other) = (node.file("one", b"x"), node.file("other", b"x"));
    let set = |mode: &str, owner: &str, path: &Path| {
        for (program, argument) in [("chmod", mode), ("chown", owner)] {
            let status = Command::new(program).arg(argument).arg(path).status();
            assert!(status.unwrap().success());
        }
    };
    set("0600", "0:0", &one);
    set("0664", "1000:1000", &other);
    let pack = |added: &Path, output: &str, epoch: Option<&str>, umask: &str| {
        let output = node.0.path().join(output);
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_lighter"))
            .args(["pack", text(&file), "-o", text(&output), "--file"])
            .arg(format!("{}:/data", added.display()))
            .env("TZ", if epoch.is_none() { "UTC" } else { "Asia/Tokyo" });
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
        fs::read(output).unwrap()
    };
    let first = pack(&one, "1.tar", None, "022");
    assert_eq!(first, pack(&other, "2.tar", Some("0"), "077"));
    assert_ne!(first, pack(&one, "3.tar", Some("1"), "022"));
}

#[test]
fn what_is_no_program_is_not_packed() {
    let node = Node::new();
    let output = node.0.path().join("app.tar");
    let refuse = |bytes: &[u8], more: &[&str], reason: &str| {
        let file = node.file("app.wasm", bytes);
        let said = node.lighter(&[&["pack", text(&file), "-o", text(&output)], more].concat());
        assert_eq!(said.status, 1, "{reason}");
        assert!(said.stderr.contains(reason), "{reason} in {}", said.stderr);
        assert!(!output.exists());
    };
    let mut precompiled = b"\x7fELF\x02\x01\x01\xc8\0".to_vec();
    precompiled.resize(64, 0);
    refuse(&precompiled, &[], "precompiled");
    refuse(b"#!/bin/sh\n", &[], "is not a Wasm binary");
    refuse(b"(module)", &[], "WebAssembly text");
    refuse(EMPTY, &["--aot"], "lighter precompile");
    refuse(EMPTY, &["--file", "/:/x"], "no regular file");
    refuse(EMPTY, &["--file", "/etc/hostname:/app.wasm"], "/app.wasm");
    let file = ["--form", "artifact", "--file", "/etc/hostname:/name"];
    refuse(EMPTY, &file, "--file is for --form linux, wasi and native");
    let arm = ["--form", "wasi", "--architecture", "arm64"];
    refuse(EMPTY, &arm, "--architecture is for --form linux");
    refuse(EMPTY, &["--entrypoint", "/other.wasm"], "/other.wasm");

    let file = node.file("app.wasm", EMPTY);
    let folder = node.0.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let pack = || node.lighter(&["pack", text(&file), "-o", text(&folder)]);
    assert_eq!(pack().status, 0, "an empty folder is filled");
    let said = pack();
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("not empty"), "{}", said.stderr);
}

#[test]
fn who_packs_a_component_of_no_world_is_told_how_to_call_it() {
    let node = Node::new();
    let file = node.file("app.wasm", b"\0asm\x0d\0\x01\0");
    let output = node.0.path().join("app.tar");
    let pack = ["pack", text(&file), "-o", text(&output)];
    let said = node.lighter(&pack);
    assert_eq!(said.status, 0);
    assert!(
        said.stderr.contains("--entrypoint '/app.wasm#NAME'"),
        "{}",
        said.stderr
    );
    let said = node.lighter(&[&pack[..], &["--entrypoint", "/app.wasm#f"]].concat());
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
}

#[test]
fn records_of_guests_are_looked_for_where_they_are_said_to_be() {
    let node = Node::new();
    let records = node.0.path().join("debug");
    let folder = ["--records", text(&records)];
    let debug = |arguments: &[&str]| node.lighter(&[&["debug"], &folder[..], arguments].concat());
    // No container of this node has ever asked for any.
    let said = debug(&["ls", "--json"]);
    assert_eq!(
        (said.status, said.stdout.as_str()),
        (0, "[]\n"),
        "{}",
        said.stderr
    );
    let said = debug(&["show", "0123"]);
    assert_eq!(said.status, 1);
    assert!(
        said.stderr
            .contains("nothing was recorded of a container 0123"),
        "{}",
        said.stderr
    );

    for container in ["0123abcd", "0123ffff"] {
        let start = records.join("k8s.io").join(container).join("1");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&start)
            .unwrap();
        let subject =
            format!(r#"{{"namespace":"k8s.io","id":"{container}","pod":null,"program":"/a"}}"#);
        fs::write(start.join("container.json"), subject).unwrap();
        fs::write(
            start.join("profile.folded"),
            "main;work 3\nmain;\x1b[2J 1\n",
        )
        .unwrap();
    }
    let said = debug(&["show", "0123"]);
    assert!(
        said.stderr.contains("0123 is not one container"),
        "{}",
        said.stderr
    );
    let said = debug(&["show", "k8s.io/0123a"]);
    assert!(
        said.stdout.contains("75.0 %  75.0 %   work"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains('\x1b'), "a guest steers the terminal");
    assert_eq!(debug(&["rm", "0123a", "0123f"]).status, 0);
    assert_eq!(debug(&["ls", "--json"]).stdout, "[]\n");
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
}
