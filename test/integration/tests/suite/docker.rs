//! Docker Engine 28 with containerd 2.1: what people type first.

use std::fs;
use std::time::{Duration, Instant};

use lighter_testkit::{Docker, Image, Output, WASMTIME, guest};

/// `docker run` with Lighter's runtime.
fn run(docker: &Docker, arguments: &[&str]) -> Output {
    let runtime = format!("--runtime={WASMTIME}");
    let mut all = vec!["run", "--rm", runtime.as_str()];
    all.extend(arguments);
    docker.docker(all).output()
}

fn guests() -> Image {
    Image::wasm("hello")
        .guest("/env-args.wasm", "env-args")
        .guest("/exit.wasm", "exit")
        .guest("/files.wasm", "files")
        .guest("/sleep.wasm", "sleep")
        .guest("/trap.wasm", "trap")
        .guest("/cat.wasm", "cat")
        .guest("/grow.wasm", "grow")
        .guest("/busy.wasm", "busy")
        .folder("/work", 0o755, (0, 0))
        .file("/work/notes", "from work", 0o644)
}

/// One engine for all of it: starting one takes longer than most of the calls.
#[test]
fn docker_runs_wasm_as_it_runs_linux() {
    let docker = Docker::start();
    let image = guests();
    docker.load(&image);
    docker.load(&Image::busybox());
    docker.load(&Image::wasm("http-hello"));
    // dockerd keeps what it makes for the first container in the host's network.
    run(&docker, &["--network", "host", "lighter/hello"]).exits(0);
    let leaks = docker.leaks();
    prints_and_returns(&docker);
    process_options(&docker);
    volumes(&docker);
    exit_codes(&docker);
    limits(&docker);
    life(&docker);
    service(&docker);
    linux(&docker);
    leaks.assert_none_since();
}

fn prints_and_returns(docker: &Docker) {
    for network in ["bridge", "none", "host"] {
        let stdout = run(docker, &["--network", network, "lighter/hello"]).ok();
        assert_eq!(stdout, "Hello from Wasm\n", "{network}");
    }
    let runtime = format!("--runtime={WASMTIME}");
    let cat = [
        "run",
        "--rm",
        "-i",
        &runtime,
        "--entrypoint",
        "/cat.wasm",
        "lighter/hello",
    ];
    let stdout = docker.docker(cat).stdin("piped\n").output().ok();
    assert_eq!(stdout, "piped\n");
}

fn process_options(docker: &Docker) {
    let stdout = run(
        docker,
        &[
            "-e",
            "COLOUR=blue",
            "--entrypoint",
            "/env-args.wasm",
            "lighter/hello",
            "one",
            "two",
        ],
    )
    .ok();
    for line in ["arg: one\narg: two\n", "env: COLOUR=blue\n"] {
        assert!(stdout.contains(line), "{line} in {stdout}");
    }
    let read = [
        "--entrypoint",
        "/files.wasm",
        "lighter/hello",
        "read",
        "notes",
    ];
    let stdout = run(docker, &[&["-w", "/work"], &read[..]].concat()).ok();
    assert_eq!(stdout, "read notes: ok from work\n");
    let write = [
        "--entrypoint",
        "/files.wasm",
        "lighter/hello",
        "write",
        "/made",
        "x",
    ];
    let stdout = run(docker, &[&["--read-only"], &write[..]].concat()).ok();
    assert!(stdout.starts_with("write /made: error"), "{stdout}");
    let stdout = run(docker, &[&["--user", "1000:1000"], &write[..]].concat()).ok();
    assert!(
        stdout.starts_with("write /made: error PermissionDenied"),
        "{stdout}"
    );
    let stdout = run(docker, &write).ok();
    assert_eq!(stdout, "write /made: ok\n");
}

fn volumes(docker: &Docker) {
    let volume = docker.folder().join("app");
    fs::create_dir(&volume).unwrap();
    fs::copy(guest("hello"), volume.join("x.wasm")).unwrap();
    fs::copy(guest("files"), volume.join("files.wasm")).unwrap();
    let mount = format!("{}:/app", volume.display());
    let stdout = run(
        docker,
        &["-v", &mount, "--entrypoint", "/app/x.wasm", "lighter/hello"],
    )
    .ok();
    assert_eq!(stdout, "Hello from Wasm\n", "a module on a volume");
    let read_only = format!("{}:/app:ro", volume.display());
    for (mount, expected) in [(&mount, "ok"), (&read_only, "error")] {
        let call = [
            "-v",
            mount,
            "--entrypoint",
            "/app/files.wasm",
            "lighter/hello",
            "write",
            "/app/f",
            "x",
        ];
        let stdout = run(docker, &call).ok();
        assert!(
            stdout.starts_with(&format!("write /app/f: {expected}")),
            "{stdout}"
        );
    }
    let call = [
        "--tmpfs",
        "/scratch",
        "--entrypoint",
        "/files.wasm",
        "lighter/hello",
        "write",
        "/scratch/f",
        "x",
    ];
    assert_eq!(run(docker, &call).ok(), "write /scratch/f: ok\n");
}

fn exit_codes(docker: &Docker) {
    run(
        docker,
        &["--entrypoint", "/exit.wasm", "lighter/hello", "42"],
    )
    .exits(42);
    let trapped = run(docker, &["--entrypoint", "/trap.wasm", "lighter/hello"]);
    trapped.exits(134);
    assert!(
        trapped.stderr.contains("inner_that_traps"),
        "{}",
        trapped.stderr
    );
    let missing = run(docker, &["--entrypoint", "/missing.wasm", "lighter/hello"]);
    missing.exits(127);
    assert!(
        missing.stderr.contains("/missing.wasm"),
        "{}",
        missing.stderr
    );
    // docker-init is an ELF program; the Wasm file it should start is none.
    let init = run(docker, &["--init", "lighter/hello"]);
    assert_ne!(init.code(), 0);
    assert!(init.stderr.contains("--init"), "{}", init.stderr);
}

fn limits(docker: &Docker) {
    let limits = ["--memory", "64m", "--cpus", "0.5", "--pids-limit", "20"];
    assert_eq!(
        run(docker, &[&limits[..], &["lighter/hello"]].concat()).ok(),
        "Hello from Wasm\n"
    );
    let grow = [
        "--memory",
        "64m",
        "--entrypoint",
        "/grow.wasm",
        "lighter/hello",
        "200",
        "0",
    ];
    // Growth fails a little below the limit, at which the kernel would kill.
    let refused = run(docker, &grow);
    refused.exits(1);
    assert!(
        refused.stdout.contains("refused at 5"),
        "{}",
        refused.stdout
    );
    let runtime = format!("--runtime={WASMTIME}");
    let detached = [
        "run",
        "-d",
        "--cpus",
        "0.2",
        &runtime,
        "--entrypoint",
        "/busy.wasm",
        "lighter/hello",
    ];
    let id = docker.docker(detached).ok();
    let id = id.trim();
    let format = "{{.State.Pid}}";
    let pid = docker.docker(["inspect", "--format", format, id]).ok();
    let ticks = || -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(500));
    let (before, begin) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let share = (ticks() - before) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    docker.docker(["rm", "-f", id]).output().exits(0);
    assert!(
        (0.1..0.3).contains(&share),
        "a fifth of a processor, not {share}"
    );
}

fn life(docker: &Docker) {
    let runtime = format!("--runtime={WASMTIME}");
    let start = [
        "run",
        "-d",
        "--name",
        "life",
        &runtime,
        "--entrypoint",
        "/sleep.wasm",
        "lighter/hello",
        "100",
    ];
    docker.docker(start).output().exits(0);
    let end = Instant::now() + Duration::from_secs(10);
    while docker.docker(["logs", "life"]).ok() != "ready\n" {
        assert!(Instant::now() < end, "no log line");
        std::thread::sleep(Duration::from_millis(50));
    }
    let top = docker.docker(["top", "life"]).ok();
    assert!(top.contains("sleep.wasm"), "{top}");
    let begin = Instant::now();
    docker.docker(["stop", "life"]).output().exits(0);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "SIGTERM ends a guest at once"
    );
    let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}";
    let state = docker.docker(["inspect", "--format", format, "life"]).ok();
    assert_eq!(state, "exited 143 false\n");
    docker.docker(["start", "life"]).output().exits(0);
    docker.docker(["kill", "life"]).output().exits(0);
    let state = docker
        .docker(["inspect", "--format", "{{.State.ExitCode}}", "life"])
        .ok();
    assert_eq!(state, "137\n");
    docker.docker(["rm", "life"]).output().exits(0);
}

/// A sidecar or a pause container needs the same runtime.
fn linux(docker: &Docker) {
    let output = run(
        docker,
        &[
            "-e",
            "A=b",
            "lighter/busybox",
            "sh",
            "-c",
            "echo $A; id -u; exit 6",
        ],
    );
    output.exits(6);
    assert_eq!(output.stdout, "b\n0\n");
    let init = run(
        docker,
        &["--init", "lighter/busybox", "sh", "-c", "echo $$"],
    );
    assert_ne!(init.ok(), "1\n", "docker-init is process 1");
    run(docker, &["lighter/busybox", "nothing-like-this"]).exits(127);
    run(docker, &["lighter/busybox", "/etc/passwd"]).exits(126);
}

/// A published port leads to the service, by IPv4 and by name resolution between containers.
fn service(docker: &Docker) {
    let runtime = format!("--runtime={WASMTIME}");
    docker
        .docker([
            "run",
            "-d",
            "--rm",
            "--name",
            "web",
            &runtime,
            "-p",
            "8080:8080",
            "lighter/http-hello",
        ])
        .output()
        .exits(0);
    let get = || {
        docker
            .inside([
                "curl",
                "--silent",
                "--max-time",
                "10",
                "http://127.0.0.1:8080/",
            ])
            .output()
            .stdout
    };
    let end = Instant::now() + Duration::from_secs(20);
    while get() != "Hello from Wasm\n" {
        assert!(
            Instant::now() < end,
            "{:?}",
            docker.docker(["logs", "web"]).output()
        );
    }
    // SIGTERM and exit code 0, long before the ten seconds after which docker kills.
    let began = Instant::now();
    docker.docker(["stop", "web"]).output().exits(0);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
