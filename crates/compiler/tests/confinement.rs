//! What the compile worker has given up by the time it reads its input.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs; the ban is for the shim"
)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a worker and waits until it is ready for its input.
fn waiting_worker() -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_lighter-compiler"))
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    // The last thing that it gives up.
    while status_of(child.id())["NoNewPrivs"] != "1" {
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
    assert_eq!(status["CapEff"], "0000000000000000");
    assert_eq!(status["CapPrm"], "0000000000000000");
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
    assert_eq!(of("Max cpu time"), both("300"));
    assert_eq!(of("Max core file size"), both("0"));
    assert_eq!(of("Max open files"), both("16"));
    assert_eq!(of("Max data size"), both("4294967296"));
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
fn the_worker_compiles_and_refuses() {
    for (input, success) in [("(module)", true), ("(component)", true)] {
        assert_eq!(compile(&wat::parse_str(input).unwrap()).0, success);
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
