//! Descriptors and process file systems of the host, as a container could reach them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use lighter_testkit::guest;
use lighter_testkit::shim::{DEFAULT_CAPABILITIES, Shim, Stdio, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// More than a process of a container ever has open.
const NUMBERS: std::ops::RangeInclusive<i32> = 3..=40;
/// Climbs to the root of the file system from wherever it starts.
const CLIMB: &str = "../../../../../../../..";

/// The descriptors of a process above stdio, with what they point to.
fn descriptors(pid: i32) -> Vec<(i32, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut found: Vec<(i32, PathBuf)> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .filter(|(number, _)| *number > 2)
        .collect();
    found.sort();
    found
}

/// Major 1, minor 3: `/dev/null`, whatever mount it was opened through.
const NULL: u64 = 0x103;

/// Major of the terminals of a devpts.
const TERMINALS: u64 = 136;

/// The files of the artifact cache, by device and inode.
fn artifacts() -> BTreeSet<(u64, u64)> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![PathBuf::from("/var/lib/lighter/artifacts")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => dirs.push(entry.path()),
                Ok(metadata) => {
                    found.insert((metadata.dev(), metadata.ino()));
                }
                Err(_) => {}
            }
        }
    }
    found
}

/// Whether a descriptor is of a mount that the container has: it leads nowhere else (the root that a
/// guest's paths begin at, its `/dev/null`).
fn is_of_container(pid: i32, number: i32) -> bool {
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let info = read(format!("/proc/{pid}/fdinfo/{number}"));
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let table = read(format!("/proc/{pid}/mountinfo"));
    id.is_some_and(|id| {
        let mut lines = table.lines();
        lines.any(|line| line.split(' ').next() == Some(id.trim()))
    })
}

/// Asserts that process `pid` holds nothing that leads to the host: sockets, pipes, memory files,
/// and, for a guest, the code that it runs.
#[track_caller]
fn assert_harmless(what: &str, pid: i32) {
    let artifacts = artifacts();
    for (number, target) in descriptors(pid) {
        let text = target.to_string_lossy();
        let is_nameless = ["socket:", "pipe:", "/memfd:", "anon_inode:"]
            .iter()
            .any(|kind| text.starts_with(kind));
        // A guest that has its page map has it of itself.
        let is_own = text == format!("/proc/{pid}/pagemap") || text == format!("/proc/{pid}/maps");
        // Eight bytes that it may read, and no directory.
        let is_limit = text.ends_with("/guest/memory-limit");
        // The terminal of a guest is the host's, as its stdio is; and the host's /dev/null leads nowhere.
        // In a user namespace both are open by mounts that have no path for us.
        let device = fs::metadata(format!("/proc/{pid}/fd/{number}"))
            .ok()
            .filter(|file| file.file_type().is_char_device())
            .map(|file| file.rdev());
        let is_terminal = device.is_some_and(|device| device >> 8 == TERMINALS);
        let is_null = device == Some(NULL);
        let is_inside = is_of_container(pid, number);
        let is_artifact = fs::metadata(format!("/proc/{pid}/fd/{number}"))
            .is_ok_and(|file| artifacts.contains(&(file.dev(), file.ino())));
        let is_harmless =
            is_nameless || is_limit || is_terminal || is_null || is_own || is_inside || is_artifact;
        // A guest that starts may have closed it meanwhile.
        let is_there = || descriptors(pid).contains(&(number, target.clone()));
        assert!(
            is_harmless || !is_there(),
            "{what}: descriptor {number} is {text}"
        );
    }
}

/// A shim whose containers have `/bin/sleep`.
fn shim_with_sleep() -> Shim {
    let shim = Shim::start();
    std::os::unix::fs::symlink("sh", shim.rootfs().join("bin/sleep")).unwrap();
    shim
}

/// Processes of a container that wait.
fn programs() -> [(&'static str, Vec<&'static str>); 2] {
    [
        ("linux", vec!["/bin/sleep", "100"]),
        ("wasm", vec!["/sleep.wasm", "100"]),
    ]
}

fn with_terminal(mut process: Value) -> Value {
    process["terminal"] = json!(true);
    process
}

/// Gives a spec a user namespace, and a volume with its ids, which the operation mounts in front of it.
fn add_users(shim: &Shim, spec: &mut Value) {
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    spec["linux"]["uidMappings"] = map.clone();
    spec["linux"]["gidMappings"] = map;
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/tmp", "type": "bind", "source": shim.rootfs().join("tmp"),
        "options": ["rbind", "idmap"],
    }));
}

/// Creates the container, with a terminal and a user namespace if wanted, and returns its init.
fn create(shim: &Shim, id: &str, args: &[&str], terminal: bool, users: bool) -> i32 {
    let mut spec = shim.spec(id, args);
    if users {
        add_users(shim, &mut spec);
    }
    if !terminal {
        return shim.create(id, &spec).unwrap();
    }
    spec["process"] = with_terminal(spec["process"].clone());
    spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666"],
    }));
    shim.create_with_terminal(id, &spec).unwrap()
}

#[test]
fn a_created_container_holds_nothing_of_the_host() {
    let shim = shim_with_sleep();
    for (kind, args) in programs() {
        for (terminal, users) in [(false, false), (true, false), (false, true), (true, true)] {
            let id = format!("{kind}-{terminal}-{users}");
            let init = create(&shim, &id, &args, terminal, users);
            assert_harmless(&format!("{id}, created"), init);
            shim.start_task(&id).unwrap();
            let mut number = 0;
            for (kind, args) in programs() {
                if kind == "wasm" && id.starts_with("linux") {
                    continue;
                }
                number += 1;
                let exec = format!("exec{number}");
                let stdio = Stdio {
                    terminal,
                    ..Stdio::default()
                };
                let mut process = shim.process(&args);
                if terminal {
                    process = with_terminal(process);
                }
                shim.exec(&id, &exec, &process, stdio).unwrap();
                if let Ok(pid) = shim.start_exec(&id, &exec) {
                    assert_harmless(&format!("{exec} ({kind}) in {id}"), pid);
                }
            }
            assert_harmless(&format!("{id}, running"), init);
            shim.remove(&id);
        }
    }
}

/// A script whose interpreter is a program of the host, by descriptor `number`; it makes `mark`.
fn script(file: &Path, number: i32, way: &str, tool: &Path, mark: &str) {
    let interpreter = format!("/proc/self/fd/{number}/{way}{}", tool.display());
    fs::write(file, format!("#!{interpreter} {mark}\n")).unwrap();
    fs::set_permissions(file, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The class of CVE-2024-21626: what the kernel finds by a descriptor of the host before execve
/// closes it.
#[test]
fn no_interpreter_is_found_through_a_descriptor() {
    let shim = shim_with_sleep();
    let rootfs = shim.rootfs();
    // Named like the applet, which makes the file that it is given.
    let tool = rootfs.parent().unwrap().join("touch");
    fs::copy("/bin/busybox", &tool).unwrap();
    let attack = rootfs.join("attack");

    // It works in a process that has a directory of the host open.
    let shown = rootfs.join("shown");
    script(&attack, 9, CLIMB, &tool, shown.to_str().unwrap());
    let command = format!("exec 9<{}; exec {}", rootfs.display(), attack.display());
    Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(shown.exists(), "the attack itself does not work");

    let ways = [
        CLIMB.to_owned(),
        // By a procfs of the host.
        format!("{}/root", shim.pid),
        "self/root".to_owned(),
        format!("proc/{}/root", shim.pid),
    ];
    let mark = rootfs.join("reached");
    shim.create("beside", &shim.spec("beside", &["/bin/sleep", "100"]))
        .unwrap();
    shim.start_task("beside").unwrap();
    for number in NUMBERS {
        for (index, way) in ways.iter().enumerate() {
            script(&attack, number, way, &tool, "/reached");
            // Both ways for each number would take minutes on the emulated machine.
            let terminal = (number as usize + index).is_multiple_of(2);
            let id = format!("n{number}-{index}");
            create(&shim, &id, &["/attack"], terminal, false);
            shim.start_task(&id).unwrap();
            let status = shim.wait(&id);
            assert!(!mark.exists(), "descriptor {number} by {way} ran {status}");
            // 127 where there is no such file, 126 where it is none that leads on.
            assert!(
                matches!(status, 126 | 127),
                "descriptor {number} by {way}: {status}"
            );
            shim.delete(&id).unwrap();
            if way == CLIMB {
                let process = shim.process(&["/attack"]);
                let error = shim.run_exec("beside", &id, &process).unwrap_err();
                assert!(!mark.exists(), "descriptor {number} by {way} in an exec");
                assert!(error.contains("exec /attack"), "{error}");
            }
        }
    }
    shim.remove("beside");
}

/// A pod whose containers share their processes: one of them looks at the descriptors of the other
/// while it starts.
#[test]
fn a_neighbour_finds_nothing_in_a_service_that_starts() {
    let shim = Shim::start();
    let rootfs = shim.rootfs();
    fs::copy(guest("http-hello"), rootfs.join("http-hello.wasm")).unwrap();
    fs::copy(guest("proc-thief"), rootfs.join("thief")).unwrap();
    let secret = rootfs.parent().unwrap().join("config.json");
    // Compiled once, before anybody looks.
    let service = |id: &str, init: Option<i32>| {
        let mut spec = shim.spec(id, &["/http-hello.wasm"]);
        if let Some(init) = init {
            spec["linux"]["namespaces"][0]["path"] = json!(format!("/proc/{init}/ns/pid"));
        }
        spec
    };
    shim.create("first", &service("first", None)).unwrap();
    shim.remove("first");

    let mut thief = shim.spec("thief", &["/thief", "/stolen", secret.to_str().unwrap()]);
    thief["process"]["capabilities"] = json!({
        "bounding": DEFAULT_CAPABILITIES,
        "effective": DEFAULT_CAPABILITIES,
        "permitted": DEFAULT_CAPABILITIES,
    });
    let init = shim.create("thief", &thief).unwrap();
    shim.start_task("thief").unwrap();
    for round in 0..200 {
        let id = format!("s{round}");
        let pid = shim.create(&id, &service(&id, Some(init))).unwrap();
        shim.start_task(&id).unwrap();
        eventually("the service runs", || {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("http-hello"))
        });
        // On cgroup v1 the kernel may keep a cgroup for a moment after its last process.
        shim.kill(&id, Signal::SIGKILL).unwrap();
        shim.wait(&id);
        eventually("the service is gone", || shim.delete(&id).is_ok());
        let stolen = fs::read_to_string(rootfs.join("stolen")).unwrap_or_default();
        assert_eq!(stolen, "", "start {round}");
    }
    shim.remove("thief");
}

/// Hooks run between Start and the program, when nearly everything is closed already.
#[test]
fn start_container_hooks_still_run() {
    let shim = Shim::start();
    let mut spec = shim.spec("hooked", &["/bin/sh", "-c", "cat /hook >/seen"]);
    std::os::unix::fs::symlink("sh", shim.rootfs().join("bin/cat")).unwrap();
    spec["hooks"] = json!({ "startContainer": [{
        "path": "/bin/sh", "args": ["sh", "-c", "cat >/hook"],
    }]});
    shim.create("hooked", &spec).unwrap();
    shim.start_task("hooked").unwrap();
    assert_eq!(shim.wait("hooked"), 0);
    shim.delete("hooked").unwrap();
    let seen = fs::read_to_string(shim.rootfs().join("seen")).unwrap();
    assert!(
        seen.contains("\"id\":\"hooked\""),
        "the hook gets the state: {seen}"
    );
}
