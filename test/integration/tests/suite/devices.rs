//! Device rules: what a container may open, on cgroup v1 and v2, in each of its processes.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use lighter_testkit::{Docker, Driver, Image, RUNC, WASMTIME};
use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

use crate::containerd_with;
use lighter_testkit::shim::Shim;

/// A device of this machine that no container may open by itself: a disk, if possible. It is
/// opened and closed, no more.
struct Device {
    kind: &'static str,
    major: u64,
    minor: u64,
}

fn device() -> Device {
    let candidates = ["/dev/vda", "/dev/loop0", "/dev/cpu_dma_latency"];
    let is_usable = |path: &&str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    let path = candidates
        .into_iter()
        .find(is_usable)
        .expect("a device to try");
    let metadata = fs::metadata(path).unwrap();
    Device {
        kind: if metadata.file_type().is_block_device() {
            "b"
        } else {
            "c"
        },
        major: major(metadata.rdev()),
        minor: minor(metadata.rdev()),
    }
}

/// Ends with one of the codes below, or another for what has to work always.
fn probe() -> String {
    let Device { kind, major, minor } = device();
    format!(
        "rm -f /dev/disk; mknod /dev/disk {kind} {major} {minor} || exit {MAKING_FAILS}
         for name in null zero full random urandom; do (: <>/dev/$name) || exit 9; done
         (: </dev/disk) 2>/dev/null || exit {READING_FAILS}
         (: <>/dev/disk) 2>/dev/null || exit {WRITING_FAILS}"
    )
}

const MAKING_FAILS: u32 = 10;
const READING_FAILS: u32 = 11;
const WRITING_FAILS: u32 = 12;
const ALL_WORKS: u32 = 0;

/// A process that may make device nodes.
fn process(shim: &Shim, script: &str) -> Value {
    let mut process = shim.process(&["/bin/sh", "-c", script]);
    let sets = ["bounding", "effective", "permitted"];
    let capabilities = sets.map(|set| (set.to_owned(), json!(["CAP_MKNOD"])));
    process["capabilities"] = Value::Object(capabilities.into_iter().collect());
    process
}

fn start() -> Shim {
    let shim = Shim::start();
    for applet in ["mknod", "rm", "sleep"] {
        let path = shim.rootfs().join("bin").join(applet);
        fs::hard_link(shim.rootfs().join("bin/sh"), path).unwrap();
    }
    shim
}

/// A rule about the disk.
fn rule(allow: bool, access: &str) -> Value {
    let Device { kind, major, minor } = device();
    json!({ "allow": allow, "type": kind, "major": major, "minor": minor, "access": access })
}

fn deny_all() -> Value {
    json!({ "allow": false, "access": "rwm" })
}

#[test]
fn the_last_rule_about_an_access_decides() {
    let shim = start();
    let cases = [
        // Nothing but what every container may do is allowed where no rule says so.
        (Value::Null, READING_FAILS),
        (json!([deny_all()]), READING_FAILS),
        (json!([rule(true, "w"), deny_all()]), READING_FAILS),
        (json!([deny_all(), rule(true, "r")]), WRITING_FAILS),
        (json!([deny_all(), rule(true, "rw")]), ALL_WORKS),
        (
            json!([deny_all(), rule(true, "r"), rule(true, "w")]),
            ALL_WORKS,
        ),
        (
            json!([deny_all(), rule(true, "rwm"), rule(false, "w")]),
            WRITING_FAILS,
        ),
        (json!([{ "allow": true, "access": "rwm" }]), ALL_WORKS),
        (
            json!([{ "allow": true, "access": "rwm" }, rule(false, "w")]),
            WRITING_FAILS,
        ),
        // All of a major number, as `docker --device-cgroup-rule` writes it.
        (
            json!([deny_all(), { "allow": true, "type": device().kind, "major": device().major, "minor": -1, "access": "rw" }]),
            ALL_WORKS,
        ),
    ];
    for (number, (rules, expected)) in cases.into_iter().enumerate() {
        let id = format!("a{number}");
        let mut spec = shim.spec(&id, &[]);
        spec["process"] = process(&shim, &probe());
        if !rules.is_null() {
            spec["linux"]["resources"] = json!({ "devices": rules });
        }
        shim.create(&id, &spec).unwrap();
        shim.start_task(&id).unwrap();
        assert_eq!(shim.wait(&id), expected, "{rules}");
        shim.delete(&id).unwrap();
    }
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn rules_hold_for_each_process_and_follow_an_update() {
    let shim = start();
    let mut spec = shim.spec("a", &["/bin/sleep", "1000"]);
    spec["linux"]["resources"] = json!({ "devices": [deny_all()] });
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    let mut number = 0;
    let mut exec = || {
        number += 1;
        shim.run_exec("a", &format!("e{number}"), &process(&shim, &probe()))
            .unwrap()
    };
    let update = |rules: Value| shim.update("a", &json!({ "devices": rules }));
    assert_eq!(exec(), READING_FAILS);
    update(json!([deny_all(), rule(true, "rw")])).unwrap();
    assert_eq!(exec(), ALL_WORKS);
    // An update of something else leaves them.
    shim.update("a", &json!({ "pids": { "limit": 100 } }))
        .unwrap();
    assert_eq!(exec(), ALL_WORKS);
    update(json!([deny_all(), rule(true, "r")])).unwrap();
    assert_eq!(exec(), WRITING_FAILS);
    for malformed in [
        json!({ "allow": true, "type": "p", "access": "r" }),
        json!({ "allow": true, "type": "c", "major": -7, "access": "r" }),
        json!({ "allow": true, "type": "c", "access": "all" }),
    ] {
        let error = update(json!([deny_all(), malformed])).unwrap_err();
        assert!(
            error.contains("INVALID_ARGUMENT") && error.contains("the device rule"),
            "{error}"
        );
        assert_eq!(exec(), WRITING_FAILS);
    }
    if Driver::of_tests() == Driver::Systemd {
        // It sets its units up again then.
        let reload = Command::new("systemctl").arg("daemon-reload").status();
        assert!(reload.unwrap().success());
        assert_eq!(exec(), WRITING_FAILS);
    }
    update(json!([deny_all()])).unwrap();
    assert_eq!(exec(), READING_FAILS);
    shim.remove("a");
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// Of the test's own process in the cgroup of a guest: the guest itself has no way to try.
#[test]
fn rules_hold_in_the_cgroup_of_a_guest() {
    let shim = start();
    shim.create("a", &shim.spec("a", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let Device { kind, major, minor } = device();
    let node = shim.bundle("a").join("disk");
    let read = |cgroups: Vec<PathBuf>| {
        let files = cgroups
            .iter()
            .map(|folder| folder.join("cgroup.procs").display().to_string());
        let join: String = files
            .map(|file| format!("test ! -e {file} || echo $$ > {file}; "))
            .collect();
        let node = node.display();
        let script = format!(
            "test -e {node} || mknod {node} {kind} {major} {minor}; {join} (: <{node}) && echo opened"
        );
        let output = Command::new("/bin/busybox")
            .args(["sh", "-c", &script])
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    assert_eq!(read(Vec::new()), "opened\n");
    let inside = read(shim.cgroups("a"));
    assert!(inside.contains("Operation not permitted"), "{inside}");
    shim.remove("a");
}

#[test]
fn a_rule_that_cannot_be_applied_is_no_container() {
    let shim = start();
    for (rule, why) in [
        (
            json!({ "allow": true, "type": "u", "access": "r" }),
            "type has to be a, b or c",
        ),
        (
            json!({ "allow": true, "type": "b", "access": "rwx" }),
            "letters r, w and m",
        ),
        (
            json!({ "allow": true, "type": "b", "major": 1u64 << 40, "access": "r" }),
            "no device number",
        ),
    ] {
        let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
        spec["linux"]["resources"] = json!({ "devices": [rule] });
        let error = shim.create("a", &spec).unwrap_err();
        assert!(
            error.contains("INVALID_ARGUMENT") && error.contains(why),
            "{error}"
        );
    }
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// A sidecar with CAP_MKNOD can make the node of the disk and not open it, as with runc.
#[test]
fn a_sidecar_that_may_make_devices_opens_none_of_the_nodes() {
    let image = Image::busybox();
    let containerd = containerd_with(&image);
    let run = |runtime: &str, flags: &[&str]| {
        let run = containerd.run(&image).runtime(runtime).flags(flags);
        run.arguments(["sh", "-c", &probe()]).output().code()
    };
    for (flags, expected) in [
        (&["--cap-add", "CAP_MKNOD"][..], READING_FAILS),
        (&["--cap-drop", "CAP_MKNOD"], MAKING_FAILS),
        (&["--privileged"], ALL_WORKS),
    ] {
        assert_eq!(run(WASMTIME, flags), expected.cast_signed(), "{flags:?}");
        assert_eq!(run(RUNC, flags), expected.cast_signed(), "runc {flags:?}");
    }
}

#[test]
fn docker_gives_the_devices_that_it_is_asked_for() {
    let docker = Docker::start();
    docker.load(&Image::busybox());
    let Device { kind, major, minor } = device();
    let node = docker.folder().join("disk");
    let made = Command::new("/bin/busybox")
        .args([
            "mknod",
            node.to_str().unwrap(),
            kind,
            &major.to_string(),
            &minor.to_string(),
        ])
        .status();
    assert!(made.unwrap().success());
    let run = |flags: &[&str], script: &str| {
        let mut all = vec!["run", "--rm", "--runtime=io.containerd.wasmtime.v1"];
        all.extend(flags);
        all.extend(["lighter/busybox", "sh", "-c", script]);
        docker.docker(all).output().code()
    };
    let probe = probe();
    assert_eq!(
        run(&["--cap-add", "MKNOD"], &probe),
        READING_FAILS.cast_signed()
    );
    let device = format!("{}:/dev/given:r", node.display());
    let read = "(: </dev/given) && ! (: <>/dev/given)";
    assert_eq!(run(&["--device", &device], read), 0);
    let any = format!("{kind} {major}:* rw");
    assert_eq!(run(&["--device-cgroup-rule", &any], &probe), 0);
    assert_eq!(run(&["--privileged"], &probe), 0);
}
