//! The rules of a fork and the invariants of the process model (docs/explanation/architecture.md).

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lighter_testkit::guest;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::json;

use lighter_testkit::shim::{Shim, eventually};

/// What the descriptors of a process point to.
fn descriptors(pid: i32) -> Vec<PathBuf> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    folder
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect()
}

/// Rule 1: an init holds nothing of the shim's and nothing of another container's. It is
/// looked at while it waits for Start, which is when it holds most.
#[test]
fn an_init_has_no_descriptor_of_shim_or_neighbour() {
    let shim = Shim::start();
    for (id, args) in [
        ("a", ["/bin/sh", "-i"]),
        ("b", ["/sleep.wasm", "100"]),
        ("c", ["/sleep.wasm", "100"]),
    ] {
        fs::create_dir(shim.bundle(id)).unwrap();
        mkfifo(
            &shim.bundle(id).join("stdout"),
            Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        mkfifo(
            &shim.bundle(id).join("stdin"),
            Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        let pid = shim.create(id, &shim.spec(id, &args)).unwrap();
        if id != "a" {
            shim.start_task(id).unwrap();
        }
        eventually("the init is set up", || {
            let open = descriptors(pid);
            let own = |path: &PathBuf| path.starts_with(shim.bundle(id));
            let foreign: Vec<_> = open
                .iter()
                .filter(|path| {
                    let text = path.to_string_lossy();
                    let fifo_of_other = text.contains("/stdout") || text.contains("/stdin");
                    (fifo_of_other && !own(path)) || text.contains("signalfd")
                })
                .collect();
            assert!(foreign.is_empty(), "{id}: {foreign:?}");
            open.iter().filter(|path| own(path)).count() >= 2
        });
        // The shim's connections and its listening socket are stream sockets with a path.
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
        assert!(
            !sockets.contains("/run/containerd/s/"),
            "{id} has its own network namespace"
        );
        if id != "a" {
            // The last thing that it does before it is its program.
            eventually("the program has no sockets", || {
                let open = descriptors(pid);
                let mut names = open.iter().map(|path| path.to_string_lossy());
                !names.any(|name| name.starts_with("socket:"))
            });
        }
    }
    for id in ["a", "b", "c"] {
        shim.remove(id);
    }
}

/// Invariant 2: each fork is made by a process of one thread.
#[test]
fn the_shim_has_one_thread() {
    let shim = Shim::start();
    let threads = || {
        fs::read_dir(format!("/proc/{}/task", shim.pid))
            .unwrap()
            .count()
    };
    for round in 0..3 {
        let id = format!("t{round}");
        assert_eq!(threads(), 1);
        shim.create(&id, &shim.spec(&id, &["/hello.wasm"])).unwrap();
        assert_eq!(threads(), 1);
        shim.start_task(&id).unwrap();
        assert_eq!(shim.wait(&id), 0);
        assert_eq!(threads(), 1);
        shim.delete(&id).unwrap();
    }
    assert_eq!(threads(), 1);
}

/// Invariant 3: whatever becomes a child of the shim is collected.
#[test]
fn no_zombie_stays() {
    let shim = Shim::start();
    for round in 0..5 {
        let id = format!("z{round}");
        // Leaves orphans behind when it ends.
        let script = "sleep 0.01 & (sleep 0.02 & sleep 100 &) & exit 0";
        let args = if round % 2 == 0 {
            vec!["/bin/sh", "-c", script]
        } else {
            vec!["/hello.wasm"]
        };
        shim.create(&id, &shim.spec(&id, &args)).unwrap();
        shim.start_task(&id).unwrap();
        shim.wait(&id);
        shim.delete(&id).unwrap();
        assert!(shim.create(&id, &shim.spec(&id, &["/missing"])).is_err());
    }
    eventually("children are left", || shim.children().is_empty());
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
    shim.shutdown();
    eventually("the shim did not end", || !shim.is_running());
}

/// A fork that is killed in the middle of create is an error, and leaves nothing.
#[test]
fn a_killed_create_leaves_nothing() {
    let shim = Shim::start();
    let hook = shim.rootfs().join("hook");
    fs::write(&hook, "#!/bin/sh\nsleep 100\n").unwrap();
    fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
    for args in [["/bin/sh", "-i"], ["/sleep.wasm", "100"]] {
        let mut spec = shim.spec("killed", &args);
        spec["hooks"] = json!({ "createRuntime": [{ "path": hook.to_str().unwrap() }] });
        let result = std::thread::scope(|scope| {
            let create = scope.spawn(|| shim.create("killed", &spec));
            // The hook runs now; the fork is the shim's child that is not the container's init.
            let mut operation = None;
            eventually("no operation is seen", || {
                let children = shim.children();
                let is_set_up = children
                    .iter()
                    .any(|child| child.comm.starts_with("youki:[2"));
                operation = children
                    .into_iter()
                    .find(|child| child.comm == "containerd-shim");
                is_set_up && operation.is_some()
            });
            let pid = operation.map(|operation| operation.pid).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            create.join().unwrap()
        });
        let error = result.unwrap_err();
        assert!(error.contains("killed"), "{error}");
        eventually("processes are left", || shim.children().is_empty());
        assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
        // The shim still works, and the id is free.
        shim.create("killed", &shim.spec("killed", &["/hello.wasm"]))
            .unwrap();
        shim.start_task("killed").unwrap();
        assert_eq!(shim.wait("killed"), 0);
        shim.delete("killed").unwrap();
    }
}

/// All readable memory of a process.
pub fn memory(pid: i32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut file = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut memory = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let range = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let length = number(range.1) - number(range.0);
        if length > 256 << 20 {
            continue;
        }
        let mut part = vec![0; usize::try_from(length).unwrap()];
        file.seek(SeekFrom::Start(number(range.0))).unwrap();
        if file.read_exact(&mut part).is_ok() {
            memory.extend(part);
        }
    }
    memory
}

pub fn contains(memory: &[u8], text: &str) -> bool {
    memory
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Rule 5: a guest's process is a copy of the shim, so the shim may not know anything.
#[test]
fn a_guests_memory_has_no_secret_of_a_neighbour() {
    let shim = Shim::start();
    let mut secret = shim.spec("first", &["/sleep.wasm", "100"]);
    secret["process"]["env"] = json!(["PATH=/bin", "PASSWORD=correct-horse-battery"]);
    secret["annotations"] = json!({ "token": "annotation-of-the-first" });
    let first = shim.create("first", &secret).unwrap();
    shim.start_task("first").unwrap();
    let second = shim
        .create("second", &shim.spec("second", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("second").unwrap();
    eventually("the first guest has its environment", || {
        contains(&memory(first), "correct-horse-battery")
    });
    for pid in [second, shim.pid] {
        let memory = memory(pid);
        for text in [
            "correct-horse-battery",
            "annotation-of-the-first",
            "secret-of-containerd",
            "secret-of-the-sandbox",
        ] {
            assert!(!contains(&memory, text), "{text} is in the memory of {pid}");
        }
    }
    shim.remove("first");
    shim.remove("second");
}

/// Rule 7: a name look-up in the container loads no library of the image.
#[test]
fn the_images_nss_modules_are_not_loaded() {
    let shim = Shim::start();
    let rootfs = shim.rootfs();
    let libraries = rootfs.join("lib/x86_64-linux-gnu");
    fs::create_dir_all(&libraries).unwrap();
    fs::create_dir_all(rootfs.join("lib64")).unwrap();
    fs::create_dir_all(rootfs.join("etc")).unwrap();
    fs::copy(
        guest("libnss_evil.so.2"),
        libraries.join("libnss_evil.so.2"),
    )
    .unwrap();
    fs::copy(guest("nsswitch.conf"), rootfs.join("etc/nsswitch.conf")).unwrap();
    fs::copy(
        "/lib/x86_64-linux-gnu/libc.so.6",
        libraries.join("libc.so.6"),
    )
    .unwrap();
    let loader = "lib64/ld-linux-x86-64.so.2";
    fs::copy(format!("/{loader}"), rootfs.join(loader)).unwrap();
    fs::copy(guest("nss-probe"), rootfs.join("nss-probe")).unwrap();
    let mark = rootfs.join("nss-was-loaded");

    // HOME is not set, which makes libcontainer look the user up.
    for args in [["/hello.wasm", ""], ["/bin/sh", "-i"]] {
        let mut spec = shim.spec("nss", &args);
        spec["process"]["user"] = json!({ "uid": 4321, "gid": 4321 });
        shim.create("nss", &spec).unwrap();
        shim.start_task("nss").unwrap();
        shim.wait("nss");
        shim.delete("nss").unwrap();
        assert!(
            !mark.exists(),
            "the image's code ran in our process: {args:?}"
        );
    }
    // The counter-check: a program of the image that looks a user up does load it.
    shim.create("nss", &shim.spec("nss", &["/nss-probe"]))
        .unwrap();
    shim.start_task("nss").unwrap();
    shim.wait("nss");
    shim.delete("nss").unwrap();
    assert!(mark.exists(), "the trap itself does not work");
}

/// Invariant 9, from outside: a guest's process has what exec would have left it.
#[test]
fn a_guest_of_a_plain_user_has_no_capabilities() {
    let shim = Shim::start();
    let mut spec = shim.spec("plain", &["/sleep.wasm", "100"]);
    let capabilities = ["CAP_FOWNER", "CAP_NET_BIND_SERVICE"];
    spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["process"]["capabilities"] = json!({
        "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
    });
    let pid = shim.create("plain", &spec).unwrap();
    shim.start_task("plain").unwrap();
    let field = |name: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .to_owned();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    eventually("the guest runs", || field("Name:") == "sleep.wasm");
    eventually("capabilities stay", || {
        field("CapEff:") == "0000000000000000"
    });
    assert_eq!(field("CapPrm:"), "0000000000000000");
    assert_eq!(field("CapBnd:"), "0000000000000408");
    assert_eq!(field("Uid:"), "1000");
    assert_eq!(field("NoNewPrivs:"), "1");
    // The C library blocks all while it starts the guest's thread.
    eventually("no signal is blocked", || {
        field("SigBlk:") == "0000000000000000"
    });
    // 32 and 33 are the C library's own, and stay as whoever started the daemon left them.
    let ignored = u64::from_str_radix(&field("SigIgn:"), 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0);
    shim.remove("plain");
}

/// Whoever may trace a guest's process has what it has open, such as a debugger in the same
/// pod. The code is what all containers of the node run that have this program.
#[test]
fn a_guests_code_cannot_be_written_by_who_may_trace_it() {
    let shim = Shim::start();
    let pid = shim
        .create("traced", &shim.spec("traced", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("traced").unwrap();
    let code: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            fs::read_link(path).is_ok_and(|path| path.to_string_lossy().contains("-command-"))
        })
        .collect();
    assert!(code.len() >= 2, "{code:?}: the lock and what is mapped");
    for path in code {
        let error = fs::File::options().write(true).open(&path).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(nix::libc::EROFS),
            "{}",
            path.display()
        );
    }
    shim.remove("traced");
}

/// Create answers for a task only once, and a wrong id is refused before anything is done.
#[test]
fn ids_are_taken_once_and_are_no_paths() {
    let shim = Shim::start();
    shim.create("one", &shim.spec("one", &["/sleep.wasm", "100"]))
        .unwrap();
    let error = shim
        .create("one", &shim.spec("one", &["/hello.wasm"]))
        .unwrap_err();
    assert!(error.contains("exists"), "{error}");
    shim.start_task("one").unwrap();
    let error = shim
        .create("../escape", &shim.spec("x", &["/hello.wasm"]))
        .unwrap_err();
    assert!(error.contains("invalid container id"), "{error}");
    let error = shim.delete("one").unwrap_err();
    assert!(error.contains("running"), "{error}");
    let error = shim.kill("nobody", Signal::SIGTERM).unwrap_err();
    assert!(error.contains("no task"), "{error}");
    shim.remove("one");
}

/// A FIFO whose reader is gone must not end or block the shim, and its guest can be killed.
#[test]
fn an_output_that_nobody_reads_blocks_only_its_writer() {
    let shim = Shim::start();
    fs::create_dir(shim.bundle("full")).unwrap();
    mkfifo(
        &shim.bundle("full").join("stdout"),
        Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    let script = "while :; do echo 0123456789012345678901234567890123456789; done";
    shim.create("full", &shim.spec("full", &["/bin/sh", "-c", script]))
        .unwrap();
    shim.start_task("full").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    shim.create("next", &shim.spec("next", &["/hello.wasm"]))
        .unwrap();
    shim.start_task("next").unwrap();
    assert_eq!(shim.wait("next"), 0);
    shim.delete("next").unwrap();
    shim.kill("full", Signal::SIGTERM).unwrap();
    shim.kill("full", Signal::SIGKILL).ok();
    assert!(shim.wait("full") >= 137, "ended by a signal");
    shim.delete("full").unwrap();
}

/// The shim is executed by `start`, and what it ignored would be ignored in every program.
#[test]
fn the_c_librarys_signals_are_not_ignored() {
    let shim = Shim::start_with_default_signals();
    let ignored = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    let of_libc = 0b11 << 31;
    assert_eq!(ignored(shim.pid) & of_libc, 0, "the shim");
    for (id, args) in [
        (
            "linux",
            ["/bin/sh", "-c", "exec /bin/sh -c 'while :; do :; done'"].as_slice(),
        ),
        ("wasm", &["/sleep.wasm", "100"]),
    ] {
        let pid = shim.create(id, &shim.spec(id, args)).unwrap();
        shim.start_task(id).unwrap();
        eventually("the program runs", || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            name.starts_with("sh") || name.starts_with("sleep.wasm")
        });
        assert_eq!(ignored(pid) & of_libc, 0, "{id}");
        shim.remove(id);
    }
}
