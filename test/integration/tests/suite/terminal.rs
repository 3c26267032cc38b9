//! Terminals: of init and of execs, of guests and of Linux programs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lighter_testkit::{Call, Docker, Image, Output, Running};
use serde_json::json;

use crate::containerd_with;
use lighter_testkit::shim::{Shim, Stdio, eventually};

const LIMIT: Duration = Duration::from_secs(20);

fn tools() -> Image {
    Image::busybox()
        .guest("/sleep.wasm", "sleep")
        .guest("/cat.wasm", "cat")
        .entrypoint(["/sleep.wasm", "100"])
}

/// `call` on a terminal of 99 columns and 33 lines.
fn on_terminal(call: Call) -> Running {
    call.on_terminal(99, 33).limit(LIMIT * 2).spawn()
}

fn type_and_wait(mut client: Running, ready: &str, keys: &str) -> Output {
    client.await_stdout(ready, LIMIT);
    client.write(keys);
    client.wait(LIMIT)
}

#[test]
fn a_shell_on_a_terminal() {
    let image = tools();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let reference = image.reference();
    let run = [
        "run",
        "--rm",
        "-t",
        "--runtime",
        "io.containerd.wasmtime.v1",
        &reference,
        "t",
        "/bin/sh",
    ];
    let keys = "tty; stty size; ls -l /dev/console; exit 5\n";
    let output = type_and_wait(on_terminal(containerd.ctr(run)), "#", keys);
    assert_eq!(output.code(), 5, "{}", output.stdout);
    for text in ["/dev/pts/0", "33 99", "136,"] {
        assert!(output.stdout.contains(text), "{text}: {}", output.stdout);
    }
    leaks.assert_none_since();
}

#[test]
fn a_guest_on_a_terminal_reads_lines_and_is_interrupted() {
    let image = tools();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let reference = image.reference();
    let run = |args: &[&'static str]| {
        let id = containerd.next_id();
        let mut all = vec![
            "run",
            "--rm",
            "-t",
            "--runtime",
            "io.containerd.wasmtime.v1",
            &reference,
            &id,
        ];
        all.extend(args);
        on_terminal(containerd.ctr(all))
    };
    let mut cat = run(&["/cat.wasm"]);
    std::thread::sleep(Duration::from_millis(500));
    cat.write("hello\n");
    // Once by the terminal's echo, once by the guest.
    let end = Instant::now() + LIMIT;
    while cat.stdout().matches("hello").count() < 2 {
        assert!(Instant::now() < end, "{}", cat.stdout());
        std::thread::sleep(Duration::from_millis(20));
    }
    cat.write([4]);
    assert_eq!(cat.wait(LIMIT).code(), 0);
    // Ctrl-C.
    let output = type_and_wait(run(&["/sleep.wasm", "100"]), "ready", "\u{3}");
    assert_eq!(output.code(), 130, "{}", output.stdout);
    leaks.assert_none_since();
}

#[test]
fn execs_have_terminals_of_their_own() {
    let image = tools();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let linux = containerd
        .run(&image)
        .arguments(["/bin/sleep", "100"])
        .detach();
    let guest = containerd.run(&image).detach();
    let exec = |id: &str, args: &[&str]| {
        let exec_id = containerd.next_id();
        let mut all = vec!["tasks", "exec", "-t", "--exec-id", &exec_id, id];
        all.extend(args);
        on_terminal(containerd.ctr(all))
    };
    let keys = "tty; stty size; exit 6\n";
    let output = type_and_wait(exec(&linux, &["/bin/sh"]), "#", keys);
    assert_eq!(output.code(), 6, "{}", output.stdout);
    assert!(output.stdout.contains("/dev/pts/0"), "{}", output.stdout);
    assert!(output.stdout.contains("33 99"), "{}", output.stdout);
    let output = type_and_wait(exec(&guest, &["/sleep.wasm", "100"]), "ready", "\u{3}");
    assert_eq!(output.code(), 130, "{}", output.stdout);
    containerd.remove(&linux);
    containerd.remove(&guest);
    leaks.assert_none_since();
}

#[test]
fn docker_run_and_exec_on_a_terminal() {
    let docker = Docker::start();
    let image = tools();
    docker.load(&image);
    let name = image.reference();
    let runtime = "--runtime=io.containerd.wasmtime.v1";
    let run = ["run", "-it", "--rm", runtime, &name, "/sleep.wasm", "100"];
    let run = on_terminal(docker.docker(run));
    let output = type_and_wait(run, "ready", "\u{3}");
    assert_eq!(output.code(), 130, "{}", output.stdout);
    docker
        .docker([
            "run",
            "-d",
            "--name",
            "wasm",
            runtime,
            "--entrypoint",
            "/bin/sleep",
            &name,
            "100",
        ])
        .output()
        .exits(0);
    let exec = on_terminal(docker.docker(["exec", "-it", "wasm", "/bin/sh"]));
    let output = type_and_wait(exec, "#", "tty; exit 7\n");
    assert_eq!(output.code(), 7, "{}", output.stdout);
    assert!(output.stdout.contains("/dev/pts/0"), "{}", output.stdout);
    docker.docker(["rm", "-f", "wasm"]).output().exits(0);
}

/// Reads what there is, without waiting.
fn read_all(file: &mut File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn open_reader(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path)
        .unwrap()
}

#[test]
fn a_terminal_is_resized_while_it_is_used() {
    let shim = Shim::start();
    std::fs::copy("/bin/busybox", shim.rootfs().join("bin/stty")).unwrap();
    std::fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.1; done";
    let mut spec = shim.spec("a", &["/bin/sh", "-c", script]);
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({ "height": 21, "width": 77 });
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
    }));
    let stdout = shim.fifo("a", "stdout");
    let mut client = open_reader(&stdout);
    shim.create_with_terminal("a", &spec).unwrap();
    assert!(shim.state("a", "").unwrap().terminal);
    shim.start_task("a").unwrap();
    let mut seen = String::new();
    let mut shows = |text: &str| {
        eventually(text, || {
            seen.push_str(&read_all(&mut client));
            seen.contains(text)
        });
    };
    shows("21 77");
    shim.resize("a", "", 45, 131).unwrap();
    shows("45 131");
    // What has no terminal has no size.
    shim.exec(
        "a",
        "e",
        &shim.process(&["/bin/sleep", "100"]),
        Stdio::default(),
    )
    .unwrap();
    let error = shim.resize("a", "e", 10, 10).unwrap_err();
    assert!(error.contains("FAILED_PRECONDITION"), "{error}");
    assert!(error.contains("no terminal"), "{error}");
    assert!(
        shim.resize("a", "missing", 1, 1)
            .unwrap_err()
            .contains("NOT_FOUND")
    );
    shim.remove("a");
}

/// A client that goes and comes back finds its terminal as it was.
#[test]
fn a_terminal_outlives_its_client() {
    let shim = Shim::start();
    let spec = {
        let mut spec = shim.spec("a", &["/cat.wasm"]);
        spec["process"]["terminal"] = json!(true);
        spec
    };
    let (stdin, stdout) = (shim.fifo("a", "stdin"), shim.fifo("a", "stdout"));
    let mut screen = open_reader(&stdout);
    shim.create_with_terminal("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    for word in ["first", "second"] {
        // Opens, types, and closes again.
        let mut keys = OpenOptions::new().write(true).open(&stdin).unwrap();
        keys.write_all(format!("{word}\n").as_bytes()).unwrap();
        drop(keys);
        let mut seen = String::new();
        eventually(word, || {
            seen.push_str(&read_all(&mut screen));
            seen.matches(word).count() == 2
        });
    }
    let mut keys = OpenOptions::new().write(true).open(&stdin).unwrap();
    keys.write_all(&[4]).unwrap();
    assert_eq!(shim.wait("a"), 0);
    shim.delete("a").unwrap();
}
