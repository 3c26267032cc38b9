//! Exec: one process more in a container that runs.

use std::path::PathBuf;
use std::time::Duration;

use lighter_testkit::{Call, Containerd, Docker, Image, Process, Version};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::process_model::{contains, memory};
use crate::{containerd_with, init};
use lighter_testkit::shim::{Shim, Stdio, eventually};

const LIMIT: Duration = Duration::from_secs(20);

/// Several guests and a Linux program.
fn tools() -> Image {
    Image::busybox()
        .guest("/sleep.wasm", "sleep")
        .guest("/hello.wasm", "hello")
        .guest("/cat.wasm", "cat")
        .guest("/exit.wasm", "exit")
        .guest("/env-args.wasm", "env-args")
        .entrypoint(["/sleep.wasm", "100"])
}

fn exec(containerd: &Containerd, id: &str, args: &[&str]) -> Call {
    let exec_id = containerd.next_id();
    let mut all = vec!["tasks", "exec", "--exec-id", &exec_id, id];
    all.extend(args);
    containerd.ctr(all)
}

#[test]
fn a_guest_runs_beside_the_guest() {
    let image = tools();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let id = containerd.run(&image).detach();
    let hello = exec(&containerd, &id, &["/hello.wasm"]).output();
    hello.exits(0);
    assert_eq!(hello.stdout, "Hello from Wasm\n");
    exec(&containerd, &id, &["/exit.wasm", "42"])
        .output()
        .exits(42);
    let shown = exec(&containerd, &id, &["/env-args.wasm", "one", "two words"]).ok();
    for part in ["one", "two words", "PATH="] {
        assert!(shown.contains(part), "{shown}");
    }
    containerd.remove(&id);
    leaks.assert_none_since();
}

/// The guest's container has no /proc, no /sys and no device; a Linux program that looks around
/// in it has them, as in a Linux container, and the guest gets nothing of that.
#[test]
fn a_linux_program_beside_a_guest_has_the_kernels_files() {
    let image = tools();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let guest = containerd.run(&image).detach();
    let linux = containerd
        .run(&image)
        .arguments(["/bin/sleep", "100"])
        .detach();
    let sh = |id: &str, script: &str| exec(&containerd, id, &["/bin/sh", "-c", script]).output();
    for script in [
        "echo lost >/dev/null; head -c 4 /dev/zero | wc -c; cat /proc/self/comm; ps >/dev/null && echo listed",
        "ls /dev | grep -v console; ls -l /dev/null /dev/fd | cut -c 1-10; test -w /dev/full",
        "ls /proc/sys /sys; cat /sys/class/net/lo/address; wc -c </proc/timer_list",
        "echo name >/proc/sys/kernel/domainname || mkdir /sys/folder",
        "mount -t tmpfs tmpfs /tmp",
    ] {
        let (beside, alone) = (sh(&guest, script), sh(&linux, script));
        assert_eq!(beside.stdout, alone.stdout, "{script}: {}", beside.stderr);
        assert_eq!(beside.stderr, alone.stderr, "{script}");
        assert_eq!(beside.status, alone.status, "{script}");
    }
    // The guest runs meanwhile and could lead paths astray: nothing depends on them.
    for mount in [" /proc ", " /sys "] {
        let shown = sh(
            &guest,
            &format!("grep '{mount}' /proc/self/mountinfo | head -n 1"),
        );
        assert!(
            shown.stdout.contains(&format!("{mount}ro,")),
            "{}",
            shown.stdout
        );
    }
    sh(&guest, "echo x >/proc/self/comm").fails_with(&["Read-only file system"]);
    // Volumes below /dev are the container's, not the program's own.
    sh(&guest, "echo kept >/dev/shm/file").exits(0);
    assert_eq!(sh(&guest, "cat /dev/shm/file").stdout, "kept\n");
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", init(&containerd, &guest)));
    for kind in [" - proc ", " - sysfs ", " - devpts ", " - mqueue "] {
        assert!(!mounts.as_ref().unwrap().contains(kind), "{mounts:?}");
    }
    containerd.remove(&guest);
    containerd.remove(&linux);
    leaks.assert_none_since();
}

#[test]
fn what_is_not_there_is_named() {
    let image = tools();
    let containerd = containerd_with(&image);
    let id = containerd.run(&image).detach();
    for (args, texts) in [
        (
            &["/missing.wasm"][..],
            &[
                "no such file or directory",
                "/missing.wasm",
                "a Wasm container",
            ][..],
        ),
        (
            &["missing"],
            &["executable file not found in $PATH", "a Wasm container"],
        ),
        (&["/etc/passwd"], &["permission denied", "/etc/passwd"]),
    ] {
        exec(&containerd, &id, args).output().fails_with(texts);
    }
    containerd.remove(&id);
    // In a Linux container a guest could reach the kernel's files.
    let linux = containerd
        .run(&image)
        .arguments(["/bin/sleep", "100"])
        .detach();
    let refused = exec(&containerd, &linux, &["/hello.wasm"]).output();
    refused.fails_with(&["exec format error", "Linux container"]);
    containerd.remove(&linux);
}

/// `docker exec` makes its exit codes from the wording.
#[test]
fn docker_exec_has_the_exit_codes_of_a_shell() {
    let docker = Docker::start();
    let image = tools();
    docker.load(&image);
    let name = image.reference();
    docker
        .docker([
            "run",
            "-d",
            "--name",
            "wasm",
            "--runtime=io.containerd.wasmtime.v1",
            &name,
        ])
        .output()
        .exits(0);
    let exec = |args: &[&str]| {
        let mut all = vec!["exec", "wasm"];
        all.extend(args);
        docker.docker(all).output()
    };
    let output = exec(&["/hello.wasm"]);
    output.exits(0);
    assert_eq!(output.stdout, "Hello from Wasm\n");
    exec(&["/exit.wasm", "9"]).exits(9);
    exec(&["/missing.wasm"]).exits(127);
    exec(&["missing"]).exits(127);
    exec(&["/etc/passwd"]).exits(126);
    let environment = docker
        .docker([
            "exec",
            "-e",
            "COLOUR=blue",
            "-w",
            "/tmp",
            "wasm",
            "/env-args.wasm",
        ])
        .ok();
    assert!(environment.contains("COLOUR=blue"), "{environment}");
    let typed = docker
        .docker(["exec", "-i", "wasm", "/cat.wasm"])
        .stdin("from the client\n")
        .output();
    typed.exits(0);
    assert!(typed.stdout.contains("from the client"), "{}", typed.stdout);
    docker.docker(["rm", "-f", "wasm"]).output().exits(0);
}

/// The text of a file of /proc of a process.
fn proc_file(pid: i32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

fn namespaces(pid: i32) -> Vec<PathBuf> {
    ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
        .map(|name| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap())
        .into()
}

/// Lines of /proc/PID/status that say what a process may do.
fn confinement(pid: i32) -> Vec<String> {
    let wanted = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp"];
    proc_file(pid, "status")
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .map(|line| line.trim().to_owned())
        .collect()
}

/// An exec is confined as init is: namespaces, cgroup, user, capabilities, seccomp.
#[test]
fn an_exec_is_confined_as_init_is() {
    for program in [
        ["/bin/sh", "-c", "/bin/sh sleep 100"],
        ["/sleep.wasm", "100", ""],
    ] {
        for no_new_privileges in [true, false] {
            let shim = Shim::start();
            let native = program[0] == "/bin/sh";
            let args: &[&str] = if native {
                &["/bin/sleep", "100"]
            } else {
                &["/sleep.wasm", "100"]
            };
            std::fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
            let mut spec = shim.spec("a", args);
            let set = json!(["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]);
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8] });
            spec["process"]["capabilities"] =
                json!({ "bounding": set, "effective": set, "permitted": set });
            if no_new_privileges {
                spec["process"]["noNewPrivileges"] = json!(true);
            }
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{ "names": ["swapon"], "action": "SCMP_ACT_ERRNO" }],
            });
            let pid = shim.create("a", &spec).unwrap();
            shim.start_task("a").unwrap();
            shim.exec("a", "e", &spec["process"], Stdio::default())
                .unwrap();
            let added = shim.start_exec("a", "e").unwrap();
            eventually("init runs its program", || {
                proc_file(pid, "comm").contains("sleep")
            });
            eventually("the exec runs its program", || {
                proc_file(added, "comm").contains("sleep")
            });
            let what = format!("{args:?}, no new privileges: {no_new_privileges}");
            assert_eq!(confinement(added), confinement(pid), "{what}");
            assert!(
                confinement(added).contains(&"Seccomp:\t2".to_owned()),
                "{what}: {:?}",
                confinement(added)
            );
            assert_eq!(namespaces(added), namespaces(pid), "{what}");
            assert_eq!(
                proc_file(added, "cgroup"),
                proc_file(pid, "cgroup"),
                "{what}"
            );
            assert_eq!(
                Process::read(added).map(|process| process.parent),
                Some(shim.pid),
                "{what}"
            );
            assert!(shim.pids("a").contains(&added), "{what}");
            let open = std::fs::read_dir(format!("/proc/{added}/fd")).unwrap();
            if native {
                assert_eq!(open.count(), 3, "{what}: stdio and nothing else");
            }
            shim.kill_number("a", "e", 9).unwrap();
            assert_eq!(shim.wait_for("a", "e"), Ok(137));
            shim.delete_exec("a", "e").unwrap();
            shim.remove("a");
        }
    }
}

/// A user namespace is joined too: root of the container is no root of the host.
#[test]
fn an_exec_in_a_user_namespace_is_no_root_of_the_host() {
    let shim = Shim::start();
    std::fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
    let mut spec = shim.spec("a", &["/bin/sleep", "100"]);
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    let namespaces_of_spec = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces_of_spec.push(json!({ "type": "user" }));
    let pid = shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    shim.exec("a", "e", &spec["process"], Stdio::default())
        .unwrap();
    let added = shim.start_exec("a", "e").unwrap();
    assert_eq!(namespaces(added), namespaces(pid));
    assert!(
        proc_file(added, "status").contains("Uid:\t200000"),
        "{}",
        proc_file(added, "status")
    );
    shim.remove("a");
}

#[test]
fn an_exec_in_the_wrong_state_has_the_right_class() {
    let shim = Shim::start();
    let process = shim.process(&["/hello.wasm"]);
    let add = |exec: &str| shim.exec("a", exec, &process, Stdio::default());
    assert!(add("e").unwrap_err().contains("NOT_FOUND"));
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    add("e").unwrap();
    let twice = add("e").unwrap_err();
    assert!(twice.contains("ALREADY_EXISTS"), "{twice}");
    let not_started = shim.kill_number("a", "e", 15).unwrap_err();
    assert!(not_started.contains("FAILED_PRECONDITION"), "{not_started}");
    assert!(add("../e").unwrap_err().contains("INVALID_ARGUMENT"));
    shim.pause("a").unwrap();
    for error in [
        add("f").unwrap_err(),
        shim.start_exec("a", "e").unwrap_err(),
    ] {
        assert!(error.contains("FAILED_PRECONDITION"), "{error}");
        assert!(error.contains("paused"), "{error}");
    }
    shim.resume("a").unwrap();
    shim.start_exec("a", "e").unwrap();
    shim.wait_for("a", "e").unwrap();
    let ended = shim.kill_number("a", "e", 15).unwrap_err();
    assert!(ended.contains("NOT_FOUND"), "{ended}");
    let again = shim.start_exec("a", "e").unwrap_err();
    assert!(again.contains("FAILED_PRECONDITION"), "{again}");
    assert_eq!(shim.delete_exec("a", "e"), Ok(0));
    let unknown = shim.kill_number("a", "", 9999).unwrap_err();
    assert!(unknown.contains("INVALID_ARGUMENT"), "{unknown}");
    shim.kill("a", Signal::SIGKILL).unwrap();
    shim.wait("a");
    let stopped = add("g").unwrap_err();
    assert!(stopped.contains("FAILED_PRECONDITION"), "{stopped}");
    shim.delete("a").unwrap();
}

/// A failed start leaves nothing that runs, and the exec can be deleted.
#[test]
fn a_malformed_exec_fails_and_leaves_nothing() {
    let shim = Shim::start();
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    // The operation that started it may still be there.
    eventually("init is the only process", || shim.children().len() == 1);
    let mut process = shim.process(&["/hello.wasm"]);
    process["cwd"] = json!("/missing");
    for process in [
        json!({ "cwd": 3 }),
        json!("text"),
        shim.process(&[]),
        process,
    ] {
        let error = shim.run_exec("a", "e", &process).unwrap_err();
        assert!(error.contains("INVALID_ARGUMENT"), "{process}: {error}");
    }
    eventually("processes are left", || shim.children().len() == 1);
    assert!(!shim.bundle("a").join("exec-e.json").exists());
    shim.remove("a");
}

/// The environment of an exec is nobody else's: neither in the shim nor in the next container.
#[test]
fn the_shim_keeps_no_secret_of_an_exec() {
    let shim = Shim::start();
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let mut process = shim.process(&["/hello.wasm"]);
    process["env"] = json!(["TOKEN=secret-of-an-exec"]);
    for round in 0..5 {
        shim.run_exec("a", &format!("e{round}"), &process).unwrap();
    }
    assert!(!contains(&memory(shim.pid), "secret-of-an-exec"));
    shim.remove("a");
}

#[test]
fn thousands_of_execs_leave_nothing_behind() {
    // One that takes the events: the shim keeps those that have not been taken.
    let containerd = Containerd::start(Version::V2);
    let shim = Shim::start_for(&containerd.folder().join("containerd.sock.ttrpc"));
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "1000"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let process = shim.process(&["/hello.wasm"]);
    let count = || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", shim.pid)).unwrap();
        let files = std::fs::read_dir(shim.bundle("a")).unwrap();
        (descriptors.count(), files.count(), shim.children().len())
    };
    let run = |range: std::ops::Range<u32>| {
        for round in range {
            assert_eq!(shim.run_exec("a", &format!("e{round}"), &process), Ok(0));
        }
    };
    run(0..100);
    // An operation ends a little after it has answered.
    eventually("the last operation has ended", || {
        shim.children().len() == 1
    });
    let before = (count(), resident(shim.pid));
    run(100..2100);
    eventually("something is left", || count() == before.0);
    let grown = resident(shim.pid).saturating_sub(before.1);
    assert!(grown < 256, "the shim has grown by {grown} kB");
    shim.remove("a");
}

/// Memory that is a process's own, in kB.
fn resident(pid: i32) -> u64 {
    let status = proc_file(pid, "status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_else(|| panic!("no RssAnon in {status}"))
}

/// When init ends, its execs end first: in a PID namespace of its own by the kernel's hand, in a
/// shared one by the shim's.
#[test]
fn the_end_of_init_ends_its_execs() {
    for shared in [false, true] {
        let shim = Shim::start();
        std::fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
        let mut spec = shim.spec("a", &["/bin/sleep", "100"]);
        if shared {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
        shim.create("a", &spec).unwrap();
        shim.start_task("a").unwrap();
        shim.exec("a", "e", &spec["process"], Stdio::default())
            .unwrap();
        shim.start_exec("a", "e").unwrap();
        shim.kill("a", Signal::SIGKILL).unwrap();
        assert_eq!(shim.wait_for("a", "e"), Ok(137), "shared: {shared}");
        assert_eq!(shim.wait("a"), 137, "shared: {shared}");
        shim.delete_exec("a", "e").unwrap();
        shim.delete("a").unwrap();
    }
}

/// CloseIO is the end of file of an exec whose client never comes.
#[test]
fn stdin_of_an_exec_is_held_and_closed() {
    let shim = Shim::start();
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let stdin = shim.fifo("a", "exec-stdin");
    let stdio = Stdio {
        stdin: stdin.to_str().unwrap().to_owned(),
        ..Stdio::default()
    };
    shim.exec("a", "e", &shim.process(&["/cat.wasm"]), stdio)
        .unwrap();
    shim.start_exec("a", "e").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(shim.state("a", "e").unwrap().exit_status, 0);
    assert_eq!(shim.state("a", "e").unwrap().exec_id, "e");
    assert!(
        shim.kill_number("a", "e", 0).is_ok(),
        "it waits for its client"
    );
    shim.close_stdin("a", "e");
    assert_eq!(shim.wait_for("a", "e"), Ok(0));
    shim.delete_exec("a", "e").unwrap();
    shim.remove("a");
}

#[test]
fn ctr_lists_the_processes_of_execs() {
    let image = tools();
    let containerd = containerd_with(&image);
    let id = containerd.run(&image).detach();
    let mut added = containerd
        .ctr([
            "tasks",
            "exec",
            "--exec-id",
            "visible",
            &id,
            "/sleep.wasm",
            "100",
        ])
        .limit(LIMIT)
        .spawn();
    added.await_stdout("ready", LIMIT);
    let ps = containerd.ctr(["tasks", "ps", &id]).ok();
    assert!(ps.contains("visible"), "{ps}");
    assert!(ps.contains(&init(&containerd, &id).to_string()), "{ps}");
    containerd
        .ctr(["tasks", "kill", "--exec-id", "visible", &id])
        .output()
        .exits(0);
    assert_eq!(added.wait(LIMIT).code(), 143);
    containerd.remove(&id);
}
