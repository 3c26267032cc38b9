//! Volumes, links and kernel file systems of a container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lighter_testkit::shim::Shim;
use serde_json::{Value, json};

/// The spec of a container that runs `args`, with these mounts added.
fn with_mounts(shim: &Shim, id: &str, args: &[&str], mounts: &[Value]) -> Value {
    let mut spec = shim.spec(id, args);
    let all = spec["mounts"].as_array_mut().unwrap();
    all.extend_from_slice(mounts);
    spec
}

fn volume(source: &Path, destination: &str, option: &str) -> Value {
    json!({
        "destination": destination, "type": "bind", "source": source, "options": ["rbind", option],
    })
}

/// A directory beside the rootfs, on the host.
fn host_dir(shim: &Shim, name: &str) -> PathBuf {
    let dir = shim.rootfs().parent().unwrap().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Asserts that no container is created, that this is the spec's fault and nobody's defect, and that
/// nothing is left.
#[track_caller]
fn assert_refused(shim: &Shim, id: &str, spec: &Value, why: &str) {
    let error = shim.create(id, spec).unwrap_err();
    assert!(error.contains(why), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    assert!(error.contains("INVALID_ARGUMENT"), "{error}");
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new(), "{id}");
}

/// A guest has no procfs because it is unmounted; what covers it would be unmounted instead.
#[test]
fn nothing_covers_the_kernels_file_systems() {
    let shim = Shim::start();
    let rootfs = shim.rootfs();
    let source = host_dir(&shim, "volume");
    symlink("/proc", source.join("link")).unwrap();
    symlink("/proc", rootfs.join("absolute")).unwrap();
    symlink("../../proc", rootfs.join("relative")).unwrap();
    let covers = [
        "/proc",
        "/proc/",
        "//proc/.",
        "/tmp/../proc",
        "/absolute",
        "/relative",
        "/proc/sys",
        "/proc/1",
        "/absolute/sys/kernel",
        "/volume/link",
        "/volume/link/sys",
        "/",
    ];
    for (kind, args) in [
        ("wasm", ["/sleep.wasm", "100"]),
        ("linux", ["/bin/sh", "-i"]),
    ] {
        for (number, destination) in covers.iter().enumerate() {
            let id = format!("{kind}{number}");
            let mounts = [
                volume(&source, "/volume", "rw"),
                volume(&source, destination, "rw"),
            ];
            let mut spec = with_mounts(&shim, &id, &args, &mounts);
            assert_refused(&shim, &id, &spec, "cannot mount");
            // With groups, a library once panicked in front of the attack.
            spec["process"]["user"]["additionalGids"] = json!([0, 10]);
            assert_refused(&shim, &id, &spec, "cannot mount");
        }
    }
    // A procfs at another place, which a volume covers: it is found after unmounting.
    let mounts = [
        json!({ "destination": "/tmp", "type": "proc", "source": "proc" }),
        volume(&source, "/tmp", "rw"),
    ];
    let spec = with_mounts(&shim, "below", &["/sleep.wasm", "100"], &mounts);
    assert_refused(&shim, "below", &spec, "one is left at /tmp");
    // What is beside them is none of this.
    let mounts = [volume(&source, "/processes", "rw")];
    let spec = with_mounts(&shim, "beside", &["/hello.wasm"], &mounts);
    shim.create("beside", &spec).unwrap();
    shim.start_task("beside").unwrap();
    assert_eq!(shim.wait("beside"), 0);
    shim.delete("beside").unwrap();
}

/// Links and device nodes are made in `/dev`, by a path that is joined to the rootfs.
#[test]
fn an_images_dev_that_is_a_link_changes_nothing_on_the_host() {
    let shim = Shim::start();
    let target = host_dir(&shim, "target");
    fs::write(target.join("ptmx"), "precious").unwrap();
    let dev = shim.rootfs().join("dev");
    fs::remove_dir(&dev).unwrap();
    for link in [target.as_path(), Path::new("../target")] {
        symlink(link, &dev).unwrap();
        for (kind, args) in [
            ("wasm", ["/sleep.wasm", "100"]),
            ("linux", ["/bin/sh", "-i"]),
        ] {
            for has_mount in [true, false] {
                let mut spec = shim.spec(kind, &args);
                if !has_mount {
                    spec["mounts"].as_array_mut().unwrap().pop();
                }
                assert_refused(&shim, kind, &spec, "/dev of the image is a link");
            }
        }
        fs::remove_file(&dev).unwrap();
    }
    assert_eq!(entries(&target), [target.join("ptmx")]);
    assert_eq!(fs::read_to_string(target.join("ptmx")).unwrap(), "precious");
}

#[test]
fn no_working_directory_is_made_in_a_read_only_volume() {
    let shim = Shim::start();
    let source = host_dir(&shim, "volume");
    symlink("/volume", shim.rootfs().join("link")).unwrap();
    for (kind, args) in [
        ("wasm", ["/sleep.wasm", "100"]),
        ("linux", ["/bin/sh", "-i"]),
    ] {
        for cwd in [
            "/volume/made",
            "/volume/made/deeper",
            "/link/made",
            "/tmp/../volume/made",
        ] {
            let mounts = [volume(&source, "/volume", "ro")];
            let mut spec = with_mounts(&shim, kind, &args, &mounts);
            spec["process"]["cwd"] = json!(cwd);
            assert_refused(&shim, kind, &spec, "read-only");
            assert_eq!(entries(&source), Vec::<PathBuf>::new(), "{cwd}");
        }
    }
}

/// Root in a container could lift its own limits by a cgroup that it may write to.
#[test]
fn a_read_only_cgroup_mount_is_read_only() {
    let shim = Shim::start();
    let script = "
        find /sys/fs/cgroup -name '*.max' -o -name '*limit_in_bytes' -o -name cgroup.procs |
        while read file; do
            if (echo 9999 >$file) 2>/dev/null || (echo max >$file) 2>/dev/null; then
                echo $file >>/written
            fi
        done
        mkdir /sys/fs/cgroup/made /sys/fs/cgroup/pids/made && echo made >>/written
        ls /sys/fs/cgroup /sys/fs/cgroup/pids >/seen";
    std::os::unix::fs::symlink("sh", shim.rootfs().join("bin/busybox")).unwrap();
    for applet in ["find", "mkdir", "ls"] {
        symlink("sh", shim.rootfs().join("bin").join(applet)).unwrap();
    }
    for own_cgroup_namespace in [false, true] {
        let mount = json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"],
        });
        let sys =
            json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] });
        let id = format!("cgroup-{own_cgroup_namespace}");
        let mut spec = with_mounts(&shim, &id, &["/bin/sh", "-c", script], &[sys, mount]);
        spec["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
        if own_cgroup_namespace {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "cgroup" }));
        }
        shim.create(&id, &spec).unwrap();
        shim.start_task(&id).unwrap();
        shim.wait(&id);
        shim.delete(&id).unwrap();
        let seen = fs::read_to_string(shim.rootfs().join("seen")).unwrap();
        // On cgroup v2 without a namespace of its own it is the root of the hierarchy that is shown.
        let shows_cgroups = ["pids.max", "cgroup.controllers"];
        assert!(
            shows_cgroups.iter().any(|file| seen.contains(file)),
            "the limits are there to read: {seen}"
        );
        let written = fs::read_to_string(shim.rootfs().join("written")).unwrap_or_default();
        assert_eq!(written, "", "{id}");
    }
}
