//! Containers whose root is nobody on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use lighter_testkit::shim::{Shim, Stdio};
use lighter_testkit::{
    Call, Cri, Docker, Image, Process, REMAPPED, RUNC, Version, WASMTIME, guest,
};
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::{containerd_with, init};

/// As users have them who keep one of their own ids: three ranges, other groups than users.
const RANGES: [&str; 12] = [
    "--uidmap",
    "0:100000:1000",
    "--uidmap",
    "1000:1000:1",
    "--uidmap",
    "1001:101001:64535",
    "--gidmap",
    "0:200000:1000",
    "--gidmap",
    "1000:1000:1",
    "--gidmap",
    "1001:201001:64535",
];

/// One range, of which the snapshotter shows the image's files: an overlay of idmapped directories.
const SHOWN: [&str; 5] = [
    "--remap-labels",
    "--uidmap",
    "0:100000:65536",
    "--gidmap",
    "0:100000:65536",
];

fn programs() -> Image {
    Image::busybox()
        .guest("/files.wasm", "files")
        .guest("/sleep.wasm", "sleep")
        .file("/ids", fs::read(guest("ids")).unwrap(), 0o755)
        .folder("/of-user", 0o755, (1000, 1000))
}

/// A directory that only the host's root can pass, as kubelet's of pods, with a volume in it, in
/// which root and user 1000 of the host have a file each.
fn volume(dir: &Path) -> PathBuf {
    let private = dir.join("private");
    let volume = private.join("volume");
    fs::create_dir_all(&volume).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(volume.join("of-root"), "root's").unwrap();
    fs::write(volume.join("of-user"), "user's").unwrap();
    chown(volume.join("of-user"), Some(1000), Some(1000)).unwrap();
    volume
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn namespace(pid: i32, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap()
}

fn map(first: u32) -> Value {
    json!([{ "containerID": 0, "hostID": first, "size": 65536 }])
}

/// A spec with a user namespace of its own.
fn with_users(shim: &Shim, id: &str, args: &[&str], first: u32) -> Value {
    let mut spec = shim.spec(id, args);
    spec["linux"]["uidMappings"] = map(first);
    spec["linux"]["gidMappings"] = map(first);
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    spec
}

fn add_volume(spec: &mut Value, source: &Path, destination: &str, options: &[&str]) {
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({
        "destination": destination, "type": "bind", "source": source, "options": options,
    }));
}

#[test]
fn several_mappings_do_what_they_do_with_runc() {
    let image = programs();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("file"), "text").unwrap();
    let mount = format!(
        "type=bind,src={},dst=/volume,options=rbind:ro:nosuid",
        dir.path().display()
    );
    let scripts = [
        "cat /proc/self/uid_map /proc/self/gid_map; /ids; cat /proc/self/setgroups",
        "touch /new && stat -c '%n %u %g %a %F' /new /of-user /bin /dev/null /proc /sys; echo x > /dev/null; echo $?",
        "cut -d' ' -f2,3 /proc/mounts | sort; cat /volume/file; touch /volume/x; echo $?",
        "hostname other; hostname; mknod /tmp/null c 1 3; echo $?; mount -t tmpfs none /tmp; echo $?",
        "sleep 100 & kill $!; wait $!; echo $?; chown 1000:1000 /tmp; stat -c '%u %g' /tmp",
    ];
    for users in [&RANGES[..], &SHOWN] {
        for user in [&[][..], &["--user", "1000:1000"]] {
            for script in scripts {
                let run = |runtime: &str| {
                    let run = containerd.run(&image).runtime(runtime);
                    let flags = [users, user, &["--mount", &mount]].concat();
                    let output = run.flags(flags).arguments(["sh", "-c", script]).output();
                    (output.code(), output.stdout, output.stderr)
                };
                let (code, stdout, stderr) = run(WASMTIME);
                let what = format!("{users:?} {user:?} {script}");
                assert_eq!(code, 0, "{what}: {stdout}{stderr}");
                assert_eq!((code, stdout, stderr), run(RUNC), "{what}");
            }
        }
    }
    leaks.assert_none_since();
}

#[test]
fn volumes_that_are_roots_alone_are_mounted_with_mapped_ids_or_without() {
    let image = programs();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path());
    let users = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let run = |options: &str, arguments: &[&str]| {
        let mount = format!(
            "type=bind,src={},dst=/v,options={options}",
            volume.display()
        );
        let flags = [&users[..], &["--mount", &mount]].concat();
        let run = containerd.run(&image).flags(flags);
        run.arguments(arguments).output()
    };
    let script = "stat -c '%n %u %g' /v/of-*; touch /v/new; echo $?; grep ' /v ' /proc/mounts";
    let plain = run("rbind:rw", &["sh", "-c", script]).ok();
    assert!(
        plain.contains("/v/of-root 65534 65534\n/v/of-user 65534 65534\n1\n"),
        "{plain}"
    );

    for options in ["rbind:rw:idmap", "bind:ridmap:noexec"] {
        let mapped = run(options, &["sh", "-c", script]).ok();
        assert!(
            mapped.contains("/v/of-root 0 0\n/v/of-user 1000 1000\n0\n"),
            "{mapped}"
        );
        assert!(mapped.contains("idmapped"), "{mapped}");
        assert_eq!(
            mapped.contains("noexec"),
            options.contains("noexec"),
            "{mapped}"
        );
        assert_eq!(
            owner(&volume.join("new")),
            (0, 0),
            "the host's root, on the host"
        );
        fs::remove_file(volume.join("new")).unwrap();
    }
    // What is read-only stays so for the container's root.
    let again = "mount -o remount,bind,rw /v 2>/dev/null; touch /v/new 2>/dev/null; echo $?; umount /v 2>/dev/null; ls /v";
    let stdout = run("rbind:ro:idmap", &["sh", "-c", again]).ok();
    assert_eq!(stdout, "1\nof-root\nof-user\n");
    // And for a guest.
    let write = ["/files.wasm", "write", "/v/new", "x", "read", "/v/of-root"];
    let stdout = run("rbind:rw:idmap", &write).ok();
    assert_eq!(stdout, "write /v/new: ok\nread /v/of-root: ok root's\n");
    assert_eq!(owner(&volume.join("new")), (0, 0));
    let stdout = run("rbind:rw", &["/files.wasm", "write", "/v/other", "x"]).ok();
    assert!(
        stdout.starts_with("write /v/other: error PermissionDenied"),
        "{stdout}"
    );
    leaks.assert_none_since();
}

/// With mappings of its own a mount needs no user namespace.
#[test]
fn a_mount_has_mappings_of_its_own() {
    let shim = Shim::start();
    let dir = tempfile::tempdir().unwrap();
    let volume = volume(dir.path());
    fs::copy(guest("files"), shim.rootfs().join("files.wasm")).unwrap();
    for (id, args, uid) in [
        ("linux", &["/bin/sh", "-c", "echo x > /v/new"][..], 0),
        ("guest", &["/files.wasm", "write", "/v/new", "x"], 0),
        ("user", &["/files.wasm", "write", "/v/new", "x"], 5),
    ] {
        let mut spec = shim.spec(id, args);
        spec["process"]["user"] = json!({ "uid": uid, "gid": uid });
        add_volume(&mut spec, &volume, "/v", &["rbind"]);
        chown(&volume, Some(uid), Some(uid)).unwrap();
        let mount = spec["mounts"].as_array_mut().unwrap().last_mut().unwrap();
        // The host's user N is N + 7000 in the container, and the other way round.
        let own = json!([{ "containerID": 0, "hostID": 7000, "size": 1000 }]);
        mount["uidMappings"] = own.clone();
        mount["gidMappings"] = own;
        spec["process"]["user"] = json!({ "uid": 7000 + uid, "gid": 7000 + uid });
        shim.create(id, &spec).unwrap();
        shim.start_task(id).unwrap();
        assert_eq!(shim.wait_for(id, ""), Ok(0), "{id}");
        assert_eq!(owner(&volume.join("new")), (uid, uid), "{id}");
        fs::remove_file(volume.join("new")).unwrap();
        shim.remove(id);
    }
}

#[test]
fn what_cannot_be_mapped_is_refused_with_the_reason_and_leaves_nothing() {
    let shim = Shim::start();
    let dir = tempfile::tempdir().unwrap();
    let refused = |id: &str, spec: &Value, text: &str| {
        let error = shim.create(id, spec).unwrap_err();
        assert!(error.contains(text), "{error}");
        assert!(error.contains("INVALID_ARGUMENT"), "{error}");
        assert_eq!(shim.leftovers(), Vec::<PathBuf>::new(), "{id}");
    };
    let args = ["/bin/sh"];
    let spec = |source: &Path, options: &[&str]| {
        let mut spec = with_users(&shim, "a", &args, 100_000);
        add_volume(&mut spec, source, "/v", options);
        spec
    };
    refused(
        "a",
        &spec(Path::new("/proc"), &["rbind", "idmap"]),
        "failed to set MOUNT_ATTR_IDMAP on /proc: invalid argument (maybe the filesystem used doesn't support idmap mounts on this kernel?)",
    );
    let both = "id-mapped mounts must have both uid and gid mappings specified";
    let mut half = spec(dir.path(), &["rbind"]);
    half["mounts"].as_array_mut().unwrap().last_mut().unwrap()["uidMappings"] = map(0);
    refused("a", &half, both);
    let mut none = shim.spec("a", &args);
    add_volume(&mut none, dir.path(), "/v", &["rbind", "idmap"]);
    refused("a", &none, both);
    let mut no_bind = with_users(&shim, "a", &args, 100_000);
    no_bind["mounts"][1]["options"] = json!(["idmap"]);
    refused(
        "a",
        &no_bind,
        "id-mapped mounts are only supported for bind-mounts",
    );

    let mut no_map = with_users(&shim, "a", &args, 100_000);
    no_map["linux"]
        .as_object_mut()
        .unwrap()
        .remove("gidMappings");
    refused(
        "a",
        &no_map,
        "no namespace path to join nor mappings to apply specified",
    );
    let mut no_root = with_users(&shim, "a", &args, 100_000);
    no_root["linux"]["uidMappings"][0]["containerID"] = json!(1);
    refused("a", &no_root, "the user namespace has no root");
    let mut missing = with_users(&shim, "a", &args, 100_000);
    let namespaces = missing["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.last_mut().unwrap()["path"] = json!("/run/no-such-namespace");
    refused(
        "a",
        &missing,
        "cannot join the user namespace /run/no-such-namespace",
    );
}

#[test]
fn a_container_joins_the_user_namespace_of_another() {
    let shim = Shim::start();
    fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
    // Only the host's root may look into a guest's process, and find its namespaces.
    let first = with_users(&shim, "first", &["/sleep.wasm", "1000"], 100_000);
    let first = shim.create("first", &first).unwrap();
    shim.start_task("first").unwrap();
    let path = format!("/proc/{first}/ns/user");
    for (id, args) in [
        ("linux", ["/bin/sleep", "1000"]),
        ("guest", ["/sleep.wasm", "1000"]),
    ] {
        // containerd names the mappings, too; others do not.
        for is_described in [false, true] {
            let mut spec = with_users(&shim, id, &args, 100_000);
            if !is_described {
                let linux = spec["linux"].as_object_mut().unwrap();
                linux.remove("uidMappings");
                linux.remove("gidMappings");
            }
            spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.last_mut().unwrap()["path"] = json!(path);
            let network = namespaces.iter_mut().find(|it| it["type"] == "network");
            network.unwrap()["path"] = json!(format!("/proc/{first}/ns/net"));
            let pid = shim.create(id, &spec).unwrap();
            shim.start_task(id).unwrap();
            for kind in ["user", "net"] {
                assert_eq!(namespace(pid, kind), namespace(first, kind), "{id}");
            }
            assert_eq!(uid(pid), 101_000, "{id}");
            shim.exec(id, "e", &spec["process"], Stdio::default())
                .unwrap();
            let added = shim.start_exec(id, "e").unwrap();
            assert_eq!(uid(added), 101_000, "{id}");
            assert_eq!(namespace(added, "user"), namespace(first, "user"), "{id}");
            shim.remove(id);
        }
    }
    let mut other = with_users(&shim, "other", &["/bin/sleep", "1"], 100_001);
    let namespaces = other["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.last_mut().unwrap()["path"] = json!(path);
    let error = shim.create("other", &other).unwrap_err();
    assert!(
        error.contains("both namespace path and non-matching mapping specified"),
        "{error}"
    );
    shim.remove("first");
}

/// The real user of a process, as the host sees it.
fn uid(pid: i32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:\t"));
    line.and_then(|line| line.split('\t').next()?.parse().ok())
        .unwrap()
}

/// A guest has as little in a user namespace as it has without one.
#[test]
fn a_guest_in_a_user_namespace_is_confined_as_without() {
    let image = programs();
    let containerd = containerd_with(&image);
    let facts = |flags: &[&str]| {
        let run = containerd.run(&image).flags(flags);
        let id = run.arguments(["/sleep.wasm", "1000"]).detach();
        let pid = init(&containerd, &id);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let confined: Vec<String> = status
            .lines()
            .filter(|line| {
                ["Cap", "NoNewPrivs", "Seccomp"]
                    .iter()
                    .any(|name| line.starts_with(name))
            })
            .map(ToOwned::to_owned)
            .collect();
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let mounts: Vec<String> = table
            .lines()
            .filter_map(|line| {
                let (place, kind) = line.split_once(" - ")?;
                let flags = place.split(' ').nth(5)?;
                assert!(
                    flags.contains("nodev") && flags.contains("nosuid"),
                    "{line}"
                );
                Some(format!(
                    "{} {}",
                    place.split(' ').nth(4)?,
                    kind.split(' ').next()?
                ))
            })
            .collect();
        let dev = fs::read_dir(format!("/proc/{pid}/root/dev")).unwrap();
        let dev: Vec<_> = dev.flatten().map(|entry| entry.file_name()).collect();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        containerd.remove(&id);
        (confined, mounts, dev, open, id)
    };
    // The host's kernel file systems come with a volume, which nobody can unmount in the namespace.
    let host = containerd.folder().join("host");
    let mounts = "mkdir \"$0\" && mount -t tmpfs tmpfs \"$0\" && mkdir \"$0\"/proc \"$0\"/data && \
        mount -t proc proc \"$0\"/proc && mount -t tmpfs tmpfs \"$0\"/data";
    Call::new("sh", ["-c".as_ref(), mounts.as_ref(), host.as_os_str()]).ok();
    let bind = |source: &Path, place: &str| {
        format!(
            "type=bind,src={},dst={place},options=rbind:ro",
            source.display()
        )
    };
    let (all, tables) = (bind(&host, "/host"), bind(Path::new("/proc"), "/tables"));
    let volumes = ["--mount", &all, "--mount", &tables];
    let users = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let without = facts(&volumes);
    let within = facts(&[&users[..], &volumes].concat());
    assert_eq!(within.0, without.0);
    assert_eq!(within.1, without.1);
    assert!(
        within.1.iter().all(|mount| !mount.ends_with(" proc")),
        "{:?}",
        within.1
    );
    assert!(
        within.1.contains(&"/host/data tmpfs".to_owned()),
        "{:?}",
        within.1
    );
    assert!(host.join("proc/self").exists(), "the host keeps its own");
    assert_eq!(within.2, without.2);
    assert_eq!(within.3, without.3);
}

/// A shell beside a guest has /proc, /dev and a terminal, and is no root of the host.
#[test]
fn an_exec_beside_a_guest_sees_the_kernel_in_a_user_namespace_too() {
    let image = programs();
    let containerd = containerd_with(&image);
    let users = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let run = containerd.run(&image).flags(users);
    let id = run.arguments(["/sleep.wasm", "1000"]).detach();
    let pid = init(&containerd, &id);
    let before = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let script = "id -u; cut -c1-21 /proc/self/uid_map; echo x > /dev/null && touch /dev/new && \
        stat -c %u /dev /dev/new /dev/shm; ls /proc/1/root 2>&1 | head -n 1; cat /proc/1/comm; \
        mount -t tmpfs none /tmp 2>/dev/null || echo refused";
    let exec = ["tasks", "exec", "--exec-id", "e", &id, "sh", "-c", script];
    let stdout = containerd.ctr(exec).ok();
    assert_eq!(
        stdout,
        "0\n         0     100000\n0\n0\n0\nls: /proc/1/root: Permission denied\nsleep.wasm\nrefused\n"
    );
    let after = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(before, after, "the guest sees nothing of it");
    let hello = [
        "tasks",
        "exec",
        "--exec-id",
        "f",
        &id,
        "/files.wasm",
        "list",
        "/of-user",
    ];
    assert_eq!(containerd.ctr(hello).ok(), "list /of-user: ok\n");
    containerd.remove(&id);
}

/// The working directory and what a tmpfs is filled with are made from outside, where the container's
/// root is nobody.
#[test]
fn what_is_made_for_a_container_belongs_to_its_root() {
    let shim = Shim::start();
    let rootfs = shim.rootfs();
    fs::create_dir(rootfs.join("filled")).unwrap();
    for (name, uid) in [
        ("filled/root", 100_000),
        ("filled/user", 101_000),
        ("", 100_000),
    ] {
        let path = rootfs.join(name);
        if !name.is_empty() {
            fs::write(&path, "x").unwrap();
        }
        chown(&path, Some(uid), Some(uid)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/stat")).unwrap();
    let script = "stat -c %u . .. /filled/root /filled/user > /out";
    for cwd in ["/made/here", "/tmp/made/here"] {
        let mut spec = with_users(&shim, "a", &["/bin/sh", "-c", script], 100_000);
        spec["process"]["cwd"] = json!(cwd);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        for (place, options) in [("/tmp", json!([])), ("/filled", json!(["tmpcopyup"]))] {
            mounts.push(json!({
                "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options,
            }));
        }
        shim.create("a", &spec).unwrap();
        shim.start_task("a").unwrap();
        assert_eq!(shim.wait_for("a", ""), Ok(0), "{cwd}");
        let owners = fs::read_to_string(rootfs.join("out")).unwrap();
        assert_eq!(owners, "0\n0\n0\n1000\n", "{cwd}");
        shim.remove("a");
    }
}

/// In a user namespace nobody may raise a limit, so it is set from outside.
#[test]
fn limits_above_the_shims_hold_in_a_user_namespace() {
    let shim = Shim::start();
    fs::copy("/bin/busybox", shim.rootfs().join("bin/sleep")).unwrap();
    let (_, now) = getrlimit(Resource::RLIMIT_MSGQUEUE).unwrap();
    // Without CAP_SYS_RESOURCE, as in some containers, the shim may not raise one either.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    let capabilities = u64::from_str_radix(capabilities.unwrap(), 16).unwrap();
    let more = now + (capabilities >> 24 & 1);
    for (id, args) in [
        ("linux", ["/bin/sleep", "1000"]),
        ("guest", ["/sleep.wasm", "1000"]),
    ] {
        let mut spec = with_users(&shim, id, &args, 100_000);
        let rlimits = json!([
            { "type": "RLIMIT_MSGQUEUE", "soft": more - 1, "hard": more },
            { "type": "RLIMIT_NOFILE", "soft": 77, "hard": 78 },
        ]);
        spec["process"]["rlimits"] = rlimits;
        let pid = shim.create(id, &spec).unwrap();
        shim.start_task(id).unwrap();
        shim.exec(id, "e", &spec["process"], Stdio::default())
            .unwrap();
        let added = shim.start_exec(id, "e").unwrap();
        for pid in [pid, added] {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let words: Vec<&str> = limits.split_whitespace().collect();
            let text = words.join(" ");
            let queues = format!("Max msgqueue size {} {more}", more - 1);
            assert!(text.contains(&queues), "{id}: {text}");
            assert!(text.contains("Max open files 77 78"), "{id}: {text}");
        }
        shim.remove(id);
    }
}

/// What a pod with `hostUsers: false` is on the node: containerd makes its user namespace, and all of its
/// containers join that.
#[test]
fn a_pod_of_the_cri_has_a_user_namespace() {
    let cri = Cri::start(Version::V2);
    let image = programs();
    cri.import(&image);
    let volume = volume(cri.containerd().folder());
    let first = 300_000;
    let (pod, security) = cri.pod_with_users(first);
    let range = json!([{ "container_id": 0, "host_id": first, "length": 65536 }]);
    let container = |command: &[&str]| {
        json!({
            "image": { "image": image.reference() },
            "command": command,
            "mounts": [{
                "container_path": "/v", "host_path": volume, "uidMappings": range, "gidMappings": range,
            }],
            "linux": { "security_context": security },
        })
    };
    let script = "cat /proc/self/uid_map; stat -c '%n %u' /v/of-* /of-user; echo x > /v/linux";
    let id = pod.start(&container(&["sh", "-c", script])).unwrap();
    let ended = pod.wait(&id).unwrap();
    let lines: Vec<&str> = ended.log.lines().map(str::trim_start).collect();
    assert_eq!(
        lines,
        [
            "0     300000      65536",
            "/v/of-root 0",
            "/v/of-user 1000",
            "/of-user 1000"
        ],
        "{}",
        ended.log
    );
    let write = [
        "/files.wasm",
        "write",
        "/v/guest",
        "x",
        "write",
        "/own",
        "x",
    ];
    let id = pod.start(&container(&write)).unwrap();
    let ended = pod.wait(&id).unwrap();
    assert_eq!(
        (ended.code, ended.log.as_str()),
        (0, "write /v/guest: ok\nwrite /own: ok\n")
    );
    for name in ["linux", "guest"] {
        assert_eq!(owner(&volume.join(name)), (0, 0), "{name}");
    }
    // All of them are in the namespace of the pod's first container.
    let running = pod.start(&container(&["/sleep.wasm", "1000"])).unwrap();
    let processes: Vec<Process> = cri.containerd().scope().processes();
    let mapped: Vec<i32> = processes
        .iter()
        .map(|process| process.pid)
        .filter(|pid| uid(*pid) == first)
        .collect();
    assert_eq!(mapped.len(), 2, "{running}: {mapped:?}");
    assert_eq!(namespace(mapped[0], "user"), namespace(mapped[1], "user"));
}

/// One engine for all of it.
#[test]
fn docker_remaps_users() {
    let docker = Docker::start_with_user_namespaces();
    docker.load(&programs());
    let reference = programs().reference();
    let run = |arguments: &[&str]| {
        let runtime = format!("--runtime={WASMTIME}");
        let all = [&["run", "--rm", &runtime][..], arguments].concat();
        docker.docker(all).output()
    };
    run(&["--entrypoint", "/ids", &reference]).exits(0);
    let leaks = docker.leaks();
    let stdout = run(&["--entrypoint", "cat", &reference, "/proc/self/uid_map"]).ok();
    let words: Vec<&str> = stdout.split_whitespace().collect();
    assert_eq!(words, ["0", &REMAPPED.to_string(), "65536"]);
    // A volume of the engine's belongs to the container's root.
    let volume = ["-v", "data:/v", "--entrypoint"];
    let script = "stat -c %u /v; echo x > /v/linux; touch /new; stat -c %u /new /v/linux";
    let linux = [&volume[..], &["sh", &reference, "-c", script]].concat();
    assert_eq!(run(&linux).ok(), "0\n0\n0\n");
    let write = [
        &volume[..],
        &["/files.wasm", &reference, "write", "/v/guest", "x"],
    ]
    .concat();
    assert_eq!(run(&write).ok(), "write /v/guest: ok\n");
    let data = ["volume", "inspect", "--format", "{{.Mountpoint}}", "data"];
    let data = PathBuf::from(docker.docker(data).ok().trim());
    for name in ["linux", "guest"] {
        assert_eq!(owner(&data.join(name)), (REMAPPED, REMAPPED), "{name}");
    }
    docker.docker(["volume", "rm", "data"]).ok();
    // A terminal is the container's own.
    let tty = [
        "-t",
        "--user",
        "1000",
        "--entrypoint",
        "sh",
        &reference,
        "-c",
        "tty; echo x > /dev/stdout; id -u",
    ];
    assert_eq!(run(&tty).ok(), "/dev/pts/0\r\nx\r\n1000\r\n");
    for (name, entrypoint) in [("linux", "sleep"), ("guest", "/sleep.wasm")] {
        let runtime = format!("--runtime={WASMTIME}");
        let start = [
            "run",
            "-d",
            "--name",
            name,
            &runtime,
            "--entrypoint",
            entrypoint,
            &reference,
            "1000",
        ];
        docker.docker(start).ok();
        let pid = ["inspect", "--format", "{{.State.Pid}}", name];
        let pid = docker.docker(pid).ok().trim().parse().unwrap();
        assert_eq!(uid(pid), REMAPPED, "{name}");
        let exec = ["exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map"];
        let stdout = docker.docker(exec).ok();
        let words: Vec<&str> = stdout.split_whitespace().collect();
        assert_eq!(words, ["0", "0", &REMAPPED.to_string(), "65536"], "{name}");
        let tty = ["exec", "-t", name, "sh", "-c", "echo x > /dev/null; id -u"];
        assert_eq!(docker.docker(tty).ok(), "0\r\n", "{name}");
        // Another container shares its network, and with it its users.
        let network = format!("container:{name}");
        let beside = [
            "--net",
            &network,
            "--entrypoint",
            "cat",
            &reference,
            "/proc/self/uid_map",
        ];
        assert!(run(&beside).ok().contains(&REMAPPED.to_string()), "{name}");
        docker.docker(["stop", "-t", "2", name]).ok();
        docker.docker(["rm", name]).ok();
    }
    leaks.assert_none_since();
}
