//! What the compile worker has given up by the time it reads its input.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs; the ban is for the shim"
)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lighter_wasm::report::{HOST_FAULT, Report};

/// Starts a worker and waits until it is ready for its input.
fn waiting_worker() -> Child {
    waiting_worker_in(&[])
}

fn waiting_worker_in(cgroups: &[PathBuf]) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_lighter-compiler"))
        .args(["command", "1073741824", "60", "1048576"])
        .args(cgroups)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // The last thing that it does are three filters.
    while status_of(child.id())["Seccomp_filters"] != "3" {
        assert!(
            Instant::now() < deadline,
            "the worker does not confine itself"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn status_of(pid: u32) -> HashMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().replace('\t', " ")))
        .collect()
}

#[test]
fn the_worker_has_no_privileges() {
    let child = waiting_worker();
    let status = status_of(child.id());
    let nobody = "65534 65534 65534 65534";
    assert_eq!(status["Uid"], nobody);
    assert_eq!(status["Gid"], nobody);
    assert_eq!(status["Groups"], "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(status["Seccomp"], "2");
    assert_eq!(status["NoNewPrivs"], "1");
    let network = |pid: String| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(child.id().to_string()), network("self".to_owned()));
    end(child);
}

#[test]
fn the_worker_has_limits() {
    let child = waiting_worker();
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let of = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<&str> = line[name.len()..].split_whitespace().collect();
        (words[0].to_owned(), words[1].to_owned())
    };
    let both = |value: &str| (value.to_owned(), value.to_owned());
    // SIGXCPU first, so that it can be said which limit it was; then SIGKILL.
    assert_eq!(of("Max cpu time"), ("60".to_owned(), "62".to_owned()));
    assert_eq!(of("Max core file size"), both("0"));
    assert_eq!(of("Max open files"), both("16"));
    assert_eq!(of("Max file size"), both("1048576"));
    assert_eq!(of("Max data size"), both("1073741824"));
    end(child);
}

#[test]
fn the_worker_keeps_only_its_three_streams() {
    // A descriptor that whoever starts the worker forgot to close.
    let secret = File::open("/etc/passwd").unwrap();
    let inherited = nix::unistd::dup(&secret).unwrap();
    let child = waiting_worker();
    let pid = child.id();
    let open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(inherited.as_raw_fd() > 2);
    assert_eq!(open.len(), 3, "{open:?}");
    end(child);
}

#[test]
fn the_worker_enters_its_cgroup() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchy = if root.join("cgroup.controllers").exists() {
        root.to_owned()
    } else {
        root.join("memory")
    };
    let name = format!("lighter-confinement-{}", std::process::id());
    let folder = hierarchy.join(&name);
    fs::create_dir(&folder).unwrap();
    let child = waiting_worker_in(std::slice::from_ref(&folder));
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    end(child);
    fs::remove_dir(&folder).unwrap();
    assert!(cgroups.contains(&format!(":/{name}\n")), "{cgroups}");
}

#[test]
fn without_its_cgroup_nothing_is_compiled() {
    let output = Command::new(env!("CARGO_BIN_EXE_lighter-compiler"))
        .args(["command", "1073741824", "60", "1048576", "/nonexistent"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    // The node's fault, not the module's: it is not remembered.
    assert_eq!(output.status.code(), Some(i32::from(HOST_FAULT)));
    assert!(error.contains("cannot enter its cgroup"), "{error}");
}

#[test]
fn the_worker_says_how_it_is_called() {
    for arguments in [
        &[][..],
        &["command"],
        &["fast", "1", "2", "3"],
        &["command", "1", "2", "x"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_lighter-compiler"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stderr.starts_with(b"usage: "));
    }
}

#[test]
fn the_worker_compiles_and_refuses() {
    for input in ["(module)", "(component)"] {
        let (success, artifact, text) = compile(&wat::parse_str(input).unwrap());
        assert!(success, "{text}");
        assert!(!artifact.is_empty());
        let report = Report::parse(text.trim()).unwrap();
        assert_eq!(report.version, lighter_wasm::engine::VERSION);
    }
    let (success, artifact, error) = compile(b"\0asm\x01\0\0\0\x01");
    assert!(!success);
    assert!(artifact.is_empty());
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("truncated"), "{error}");
}

fn compile(wasm: &[u8]) -> (bool, Vec<u8>, String) {
    let mut child = waiting_worker();
    child.stdin.take().unwrap().write_all(wasm).unwrap();
    let mut artifact = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut artifact)
        .unwrap();
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    (child.wait().unwrap().success(), artifact, error)
}

#[test]
fn the_worker_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_lighter-compiler"))
        .arg("--version")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        format!("lighter-compiler ({})\n", lighter_wasm::engine::VERSION)
    );
}
