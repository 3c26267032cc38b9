//! A bundle means what it means to runc. test/conformance compares more of it with runc itself.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use lighter_testkit::shim::{Shim, Stdio, eventually};
use serde_json::{Value, json};

/// A shim whose containers have all of busybox.
fn shim() -> Shim {
    let shim = Shim::start();
    let busybox = shim.rootfs().join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).unwrap();
    let installed = Command::new("chroot")
        .arg(shim.rootfs())
        .args(["/bin/busybox", "--install", "-s", "/bin"])
        .status()
        .unwrap();
    assert!(installed.success());
    shim
}

/// The spec of a container that runs a script, whose output is [`output`].
fn script(shim: &Shim, id: &str, text: &str) -> Value {
    keep_output(shim, id);
    shim.spec(id, &["/bin/sh", "-c", &format!("exec 2>&1\n{text}")])
}

/// The spec of a container that runs a guest, whose output is [`output`].
fn guest(shim: &Shim, id: &str, program: &str) -> Value {
    keep_output(shim, id);
    shim.spec(id, &[program])
}

/// The shim gives a container the files of this name in its bundle.
fn keep_output(shim: &Shim, id: &str) {
    fs::create_dir_all(shim.bundle(id)).unwrap();
    fs::write(shim.bundle(id).join("stdout"), "").unwrap();
}

fn output(shim: &Shim, id: &str) -> String {
    fs::read_to_string(shim.bundle(id).join("stdout")).unwrap()
}

/// Runs an exec to its end; returns its output.
#[track_caller]
fn exec(shim: &Shim, id: &str, process: &Value) -> String {
    let path = shim.bundle(id).join("exec");
    fs::write(&path, "").unwrap();
    let stdio = Stdio {
        stdout: path.to_str().unwrap().to_owned(),
        ..Stdio::default()
    };
    shim.exec(id, "exec", process, stdio).unwrap();
    shim.start_exec(id, "exec").unwrap();
    assert_eq!(shim.wait_for(id, "exec"), Ok(0));
    shim.delete_exec(id, "exec").unwrap();
    fs::read_to_string(path).unwrap()
}

/// What a container waits for that runs [`UNTIL_TOLD`].
fn tell_to_end(shim: &Shim) {
    fs::write(shim.rootfs().join("tmp/end"), "").unwrap();
}

const UNTIL_TOLD: &str = "while [ ! -e /tmp/end ]; do sleep 0.1; done";

/// Runs a container to its end; returns its output.
#[track_caller]
fn run(shim: &Shim, id: &str, spec: &Value) -> String {
    shim.create(id, spec).unwrap();
    shim.start_task(id).unwrap();
    let status = shim.wait(id);
    let output = output(shim, id);
    assert_eq!(status, 0, "{id}: {output}");
    shim.remove(id);
    output
}

fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().unwrap().push(mount);
}

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options })
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn host_dir(shim: &Shim, name: &str) -> PathBuf {
    let dir = shim.rootfs().parent().unwrap().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn home_is_that_of_the_user() {
    let shim = shim();
    let etc = shim.rootfs().join("etc");
    fs::create_dir_all(&etc).unwrap();
    let cases: [(&str, u32, &[&str], &str); 5] = [
        ("known", 1000, &[], "/home/known\n"),
        ("unknown", 4321, &[], "/\n"),
        ("root", 0, &[], "/root\n"),
        ("given", 1000, &["HOME=/given"], "/given\n"),
        ("empty", 1000, &["HOME="], "/home/known\n"),
    ];
    fs::write(
        etc.join("passwd"),
        "root:x:0:0::/root:/bin/sh\nknown:x:1000:1000::/home/known:/bin/sh\n",
    )
    .unwrap();
    for (id, user, env, home) in cases {
        let set = |process: &mut Value| {
            process["user"] = json!({ "uid": user, "gid": user });
            let all: Vec<&str> = ["PATH=/bin"].iter().chain(env).copied().collect();
            process["env"] = json!(all);
        };
        let mut spec = script(&shim, id, &format!("echo $HOME; {UNTIL_TOLD}"));
        set(&mut spec["process"]);
        shim.create(id, &spec).unwrap();
        shim.start_task(id).unwrap();
        let mut process = shim.process(&["/bin/sh", "-c", "echo $HOME"]);
        set(&mut process);
        assert_eq!(exec(&shim, id, &process), home, "exec: {id}");
        tell_to_end(&shim);
        assert_eq!(shim.wait(id), 0);
        assert_eq!(output(&shim, id), home, "{id}");
        shim.remove(id);
        fs::remove_file(shim.rootfs().join("tmp/end")).unwrap();
    }
    fs::remove_file(etc.join("passwd")).unwrap();
    let spec = script(&shim, "scratch", "echo $HOME");
    assert_eq!(run(&shim, "scratch", &spec), "/\n");
    let guest = guest(&shim, "guest", "/env-args.wasm");
    let seen = run(&shim, "guest", &guest);
    assert!(seen.contains("HOME=/\n"), "{seen}");
}

#[test]
fn a_missing_working_directory_is_created_in_the_container() {
    let shim = shim();
    for (id, cwd, mount) in [
        ("tmpfs", "/work/a/b", Some(tmpfs("/work", &["mode=755"]))),
        (
            "shm",
            "/dev/shm/sub",
            Some(tmpfs("/dev/shm", &["mode=1777"])),
        ),
        ("dev", "/dev/sub", None),
    ] {
        for user in [0, 1000] {
            let id = format!("{id}{user}");
            let text = "pwd; stat -c '%u:%g %a' .";
            let mut spec = script(&shim, &id, text);
            spec["process"]["cwd"] = json!(cwd);
            spec["process"]["user"] = json!({ "uid": user, "gid": user });
            if let Some(mount) = mount.clone() {
                add_mount(&mut spec, mount);
            }
            assert_eq!(run(&shim, &id, &spec), format!("{cwd}\n0:0 755\n"), "{id}");
        }
    }
    let mut spec = guest(&shim, "guest", "/hello.wasm");
    spec["process"]["cwd"] = json!("/work/sub");
    add_mount(&mut spec, tmpfs("/work", &[]));
    run(&shim, "guest", &spec);
    let mut spec = script(&shim, "ro", "pwd");
    spec["process"]["cwd"] = json!("/work/sub");
    add_mount(&mut spec, tmpfs("/work", &["ro"]));
    let error = shim.create("ro", &spec).unwrap_err();
    assert!(
        error.contains("/work/sub") && error.contains("INVALID_ARGUMENT"),
        "{error}"
    );
}

/// Prints the optional fields of the mount at `/v`, without the numbers of the peer groups.
const PROPAGATION: &str =
    r"sed -n 's|.* / /v [^ ]* \(.*\)- .*|[\1]|p' /proc/self/mountinfo | tr -d 0-9";

#[test]
fn each_mount_has_its_own_propagation() {
    let shim = shim();
    let volume = host_dir(&shim, "volume");
    // Shared, as the mounts of a host with systemd are.
    host_mount(&["-t", "tmpfs", "volume"], &volume);
    host_mount(&["--make-shared"], &volume);
    let cases: [(&str, &[&str], Option<&str>, &str); 5] = [
        ("private", &["rbind", "rprivate"], None, "[]\n"),
        ("slave", &["rbind", "rslave"], None, "[master: ]\n"),
        ("none", &["rbind"], None, "[master: ]\n"),
        (
            "shared",
            &["rbind", "rshared"],
            Some("rshared"),
            "[shared: ]\n",
        ),
        ("all", &["rbind"], Some("rslave"), "[master: ]\n"),
    ];
    for (id, options, root, expected) in cases {
        let mut spec = script(&shim, id, PROPAGATION);
        add_mount(&mut spec, bind(&volume, "/v", options));
        if let Some(root) = root {
            spec["linux"]["rootfsPropagation"] = json!(root);
        }
        assert_eq!(run(&shim, id, &spec), expected, "{id}");
    }
    nix::mount::umount(&volume).unwrap();
}

#[track_caller]
fn host_mount(args: &[&str], at: &Path) {
    let status = Command::new("mount").args(args).arg(at).status().unwrap();
    assert!(status.success());
}

#[test]
fn loopback_is_up() {
    let shim = shim();
    let spec = script(&shim, "lo", "ifconfig lo");
    let seen = run(&shim, "lo", &spec);
    assert!(
        seen.contains("127.0.0.1") && seen.contains("UP LOOPBACK RUNNING"),
        "{seen}"
    );
}

#[test]
fn mount_points_stay_in_the_rootfs() {
    let shim = shim();
    let rootfs = shim.rootfs();
    fs::create_dir_all(rootfs.join("etc")).unwrap();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        rootfs.join("etc/resolv.conf"),
    )
    .unwrap();
    symlink("/run/missing", rootfs.join("dangling")).unwrap();
    symlink("../../../../../../climbed", rootfs.join("etc/climbs")).unwrap();
    let file = rootfs.parent().unwrap().join("resolv.conf");
    fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
    let dir = host_dir(&shim, "volume");
    fs::write(dir.join("file"), "of the volume\n").unwrap();
    let text = "cat /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf /dangling/sub/file /etc/climbs/file /climbed/file";
    let mut spec = script(&shim, "links", text);
    add_mount(&mut spec, bind(&file, "/etc/resolv.conf", &["rbind", "ro"]));
    add_mount(&mut spec, bind(&dir, "/dangling/sub", &["rbind", "ro"]));
    add_mount(&mut spec, bind(&dir, "/etc/climbs", &["rbind", "ro"]));
    let (server, volume) = ("nameserver 192.0.2.1\n", "of the volume\n");
    let expected = format!("{server}{server}{volume}{volume}{volume}");
    assert_eq!(run(&shim, "links", &spec), expected);
    assert!(!Path::new("/climbed").exists());
}

#[test]
fn a_program_below_a_readonly_path_runs() {
    let shim = shim();
    let opt = shim.rootfs().join("opt");
    fs::create_dir_all(&opt).unwrap();
    fs::copy("/bin/busybox", opt.join("busybox")).unwrap();
    let text = "/opt/busybox echo runs; touch /opt/new; true";
    let mut spec = script(&shim, "readonly", text);
    spec["linux"]["readonlyPaths"] = json!(["/opt", "/missing"]);
    let seen = run(&shim, "readonly", &spec);
    assert!(
        seen.starts_with("runs\n") && seen.contains("Read-only file system"),
        "{seen}"
    );
    assert!(!opt.join("new").exists());
}

#[test]
fn mount_options_reach_the_kernel() {
    let shim = shim();
    let dir = host_dir(&shim, "volume");
    symlink("/etc", dir.join("link")).unwrap();
    let work = shim.rootfs().join("work");
    fs::create_dir_all(work.join("sub")).unwrap();
    fs::write(work.join("sub/file"), "of the image\n").unwrap();
    fs::set_permissions(&work, PermissionsExt::from_mode(0o711)).unwrap();
    let text = "cat /work/sub/file; stat -c %a /work; echo new > /work/new && cat /work/new\n\
        ls /v/link/ 2>&1 | sed 's/.*: //'; grep -c ' /sync .* rw,sync' /proc/self/mountinfo; \
        grep -c ' /dirsync .* rw,dirsync' /proc/self/mountinfo; touch /work2/a 2>&1 | sed 's/.*: //'; ls /work2";
    let mut spec = script(&shim, "options", text);
    fs::create_dir_all(shim.rootfs().join("work2/of-image")).unwrap();
    add_mount(&mut spec, tmpfs("/work", &["tmpcopyup"]));
    add_mount(&mut spec, tmpfs("/work2", &["tmpcopyup", "ro"]));
    add_mount(&mut spec, bind(&dir, "/v", &["bind", "nosymfollow"]));
    add_mount(&mut spec, tmpfs("/sync", &["sync"]));
    add_mount(&mut spec, tmpfs("/dirsync", &["dirsync"]));
    spec["process"]["cwd"] = json!("/work/sub");
    assert_eq!(
        run(&shim, "options", &spec),
        "of the image\n711\nnew\nToo many levels of symbolic links\n1\n1\nRead-only file system\nof-image\n"
    );
    assert!(!work.join("new").exists());
}

#[test]
fn an_image_without_dev_and_a_spec_without_a_mount_there() {
    let shim = shim();
    fs::remove_dir(shim.rootfs().join("dev")).unwrap();
    let mut spec = script(
        &shim,
        "dev",
        "echo x > /dev/null && ls /dev/fd/ > /dev/null && echo fine",
    );
    spec["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
    assert_eq!(run(&shim, "dev", &spec), "fine\n");
    fs::remove_dir_all(shim.rootfs().join("dev")).unwrap();
    let mut spec = guest(&shim, "guest", "/hello.wasm");
    spec["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
    run(&shim, "guest", &spec);
}

#[test]
fn poststop_hooks_follow_a_failed_create() {
    let shim = shim();
    let trace = shim.rootfs().parent().unwrap().join("trace");
    let hook = |script: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }]);
    for stage in ["prestart", "createRuntime", "createContainer"] {
        let mut spec = script(&shim, stage, "true");
        let poststop = format!("cat >> {}", trace.display());
        spec["hooks"] = json!({ stage: hook("exit 3"), "poststop": hook(&poststop) });
        let error = shim.create(stage, &spec).unwrap_err();
        assert!(error.contains("hook"), "{error}");
        let state: Value = serde_json::from_slice(&fs::read(&trace).unwrap_or_default()).unwrap();
        assert_eq!(state["id"], stage);
        assert_eq!(state["status"], "stopped");
        assert_eq!(shim.leftovers(), Vec::<PathBuf>::new(), "{stage}");
        fs::remove_file(&trace).unwrap();
    }
}

#[test]
fn an_exec_that_never_ran_has_not_failed() {
    let shim = shim();
    let spec = shim.spec("a", &["/bin/sh", "-c", "sleep 100"]);
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    let process = shim.process(&["/bin/sh"]);
    shim.exec("a", "never", &process, Stdio::default()).unwrap();
    assert_eq!(shim.delete_exec("a", "never"), Ok(0));
    shim.remove("a");
}

#[test]
fn a_container_has_a_session_keyring_of_its_own() {
    let shim = shim();
    // Root sees the keyrings of all of its processes.
    let keys = || fs::read_to_string("/proc/keys").unwrap();
    let has_one = |id: &str| {
        keys()
            .matches(&format!("_ses.{}.{id}:", shim.namespace))
            .count()
            == 1
    };
    for id in ["one", "two"] {
        let spec = script(&shim, id, UNTIL_TOLD);
        shim.create(id, &spec).unwrap();
        shim.start_task(id).unwrap();
    }
    assert!(has_one("one") && has_one("two"), "{}", keys());
    let seen = exec(&shim, "one", &shim.process(&["/bin/cat", "/proc/keys"]));
    assert!(seen.contains("_ses.") && has_one("one"), "{seen}");
    tell_to_end(&shim);
    for id in ["one", "two"] {
        shim.wait(id);
        shim.remove(id);
        // Nobody else holds it: not the shim, either.
        eventually("its keyring has gone", || !has_one(id));
    }
}

#[test]
fn an_unknown_capability_is_left_out() {
    let shim = shim();
    let mut spec = script(&shim, "caps", "grep CapBnd /proc/self/status");
    let names = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    spec["process"]["capabilities"] =
        json!({ "bounding": names, "effective": names, "permitted": names });
    assert_eq!(run(&shim, "caps", &spec), "CapBnd:\t0000000000000020\n");
    assert!(shim.log().contains("CAP_OF_TOMORROW"));
}

#[test]
fn what_runc_refuses_is_refused() {
    let shim = shim();
    let mut twice = script(&shim, "twice", "true");
    twice["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "ipc" }));
    let mut label = script(&shim, "label", "true");
    label["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
    for (id, spec, why) in [
        ("twice", twice, "duplicated ns"),
        ("label", label, "selinux"),
    ] {
        let error = shim.create(id, &spec).unwrap_err();
        assert!(
            error.contains(why) && error.contains("INVALID_ARGUMENT"),
            "{error}"
        );
        assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
    }
}

/// A client that drives the shim without containerd, as the peer's stress test does.
#[test]
fn a_spec_without_a_cgroup_path_has_device_rules() {
    let shim = shim();
    let text = "cat /proc/self/cgroup; mknod /tmp/mem c 1 1; head -c 1 /tmp/mem";
    let mut spec = script(&shim, "no-path", text);
    spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    spec["process"]["capabilities"] = json!({ "bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"] });
    spec["linux"]["resources"] = json!({ "devices": [
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
    ] });
    shim.create("no-path", &spec).unwrap();
    shim.start_task("no-path").unwrap();
    assert_eq!(shim.wait("no-path"), 1);
    let seen = output(&shim, "no-path");
    shim.remove("no-path");
    assert!(seen.contains("/no-path\n"), "{seen}");
    assert!(seen.contains("Operation not permitted"), "{seen}");
}

#[test]
fn a_directory_of_a_mount_belongs_to_root() {
    let shim = shim();
    let mut spec = script(&shim, "owner", "true");
    add_mount(&mut spec, tmpfs("/a/b", &[]));
    run(&shim, "owner", &spec);
    let made = fs::metadata(shim.rootfs().join("a/b")).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (0, 0o755));
}
