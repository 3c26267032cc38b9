//! The test kit itself, with runc and busybox: what the tests of Lighter stand on has to hold
//! without Lighter.

use std::path::Path;
use std::time::Duration;

use lighter_testkit::{Containerd, Docker, Image, RUNC, Version, guest};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs busybox in the foreground and in the background, restarts the daemon in between, and
/// demands that nothing is left.
fn runs_busybox(version: Version) {
    let mut containerd = Containerd::start(version);
    let image = Image::busybox().env("COLOUR", "blue");
    containerd.import(&image);
    let leaks = containerd.leaks();

    let script = ["sh", "-c", "echo $COLOUR; echo problem >&2; cat; exit 7"];
    let output = containerd
        .run(&image)
        .runtime(RUNC)
        .arguments(script)
        .stdin("from stdin\n")
        .output();
    output.exits(7);
    assert_eq!(output.stdout, "blue\nfrom stdin\n");
    assert!(output.stderr.contains("problem"), "{}", output.stderr);

    let id = containerd
        .run(&image)
        .runtime(RUNC)
        .arguments(["sleep", "100"])
        .detach();
    let (bundle, before) = (containerd.bundle(&id), containerd.pid());
    containerd.restart(Signal::SIGTERM);
    assert_ne!(containerd.pid(), before);
    assert!(bundle.join("config.json").exists());
    assert!(containerd.ctr(["tasks", "list"]).ok().contains("RUNNING"));
    // The counter-check: what runs is seen.
    let running = containerd.leaks();
    containerd.remove(&id);
    assert!(!bundle.exists());
    leaks.assert_none_since();
    running.assert_none_since();
}

#[test]
fn the_distributions_containerd_runs_busybox() {
    runs_busybox(Version::Debian);
}

#[test]
fn containerd_1_7_runs_busybox() {
    runs_busybox(Version::V1_7);
}

#[test]
fn containerd_2_runs_busybox() {
    runs_busybox(Version::V2);
}

#[test]
fn docker_runs_busybox_on_a_bridge_of_its_own() {
    let docker = Docker::start();
    docker.load(&Image::busybox());
    let leaks = docker.leaks();
    let script = "echo hello; ip -4 addr show dev eth0";
    let arguments = ["run", "--rm", "lighter/busybox", "sh", "-c", script];
    let printed = docker.docker(arguments).limit(LIMIT).ok();
    assert!(printed.starts_with("hello\n"), "{printed}");
    assert!(printed.contains("inet 172."), "{printed}");
    let output = docker
        .docker(["run", "--rm", "--init", "lighter/busybox", "false"])
        .output();
    output.exits(1);
    assert!(
        docker
            .inside(["ip", "link", "show", "docker0"])
            .ok()
            .contains("docker0")
    );
    leaks.assert_none_since();
}

#[test]
fn what_is_left_behind_is_found() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::busybox();
    containerd.import(&image);
    let leaks = containerd.leaks();

    let target = containerd.folder().join("state/leaked");
    std::fs::create_dir(&target).unwrap();
    let none = None::<&Path>;
    mount(none, &target, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let found = leaks.since();
    assert_eq!(found, [format!("mount {}", target.display())]);
    umount2(&target, MntFlags::empty()).unwrap();
    assert_eq!(leaks.since(), [""; 0]);

    let id = containerd
        .run(&image)
        .runtime(RUNC)
        .arguments(["sleep", "100"])
        .detach();
    let found = leaks.since().join("\n");
    for part in [
        "process",
        "containerd-shim-runc-v2",
        "sleep 100",
        "mount",
        "cgroup",
        "bundle",
    ] {
        assert!(
            found.contains(part),
            "{part} of container {id} is not in:\n{found}"
        );
    }
    // It is left running: dropping the daemon has to end it.
    let scope = containerd.scope().clone();
    drop(containerd);
    // Orphans wait for the system's init to reap them.
    let alive: Vec<_> = scope
        .processes()
        .into_iter()
        .filter(|it| it.state != 'Z')
        .collect();
    assert_eq!(alive, []);
    assert_eq!(scope.mounts(), [""; 0].map(Path::new));
    assert_eq!(scope.cgroups(), [""; 0].map(Path::new));
    assert!(!scope.folder.exists());
}

#[test]
fn a_call_that_hangs_is_killed_with_what_it_printed() {
    let failure = std::panic::catch_unwind(|| {
        lighter_testkit::Call::new("sh", ["-c", "echo before; sleep 100"])
            .limit(Duration::from_millis(300))
            .output()
    })
    .expect_err("the limit must be enforced");
    let text = failure.downcast_ref::<String>().expect("a text");
    assert!(
        text.contains("ran longer than 300ms") && text.contains("before"),
        "{text}"
    );
}

#[test]
fn the_native_programs_show_what_a_container_was_started_with() {
    let containerd = Containerd::start(Version::Debian);
    let image = Image::new("native")
        .guest("/ids", "ids")
        .guest("/signals", "signals")
        .guest("/fds", "fds")
        .folder("/tmp", 0o1777, (0, 0))
        .user("1000:1001");
    containerd.import(&image);
    let show = |path| {
        containerd
            .run(&image)
            .runtime(RUNC)
            .arguments([path])
            .output()
            .ok()
    };
    let ids = show("/ids");
    assert!(
        ids.starts_with("uid: 1000 euid: 1000 gid: 1001 egid: 1001\n"),
        "{ids}"
    );
    assert!(ids.contains("CapEff:\t0000000000000000"), "{ids}");
    assert_eq!(show("/signals").lines().count(), 3);
    let descriptors = show("/fds");
    assert_eq!(descriptors.lines().count(), 3, "{descriptors}");
}

#[test]
fn the_image_supplied_name_service_is_loaded_by_whoever_does_not_guard_against_it() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::new("nss")
        .guest("/nss-probe", "nss-probe")
        .guest("/lib/x86_64-linux-gnu/libnss_evil.so.2", "libnss_evil.so.2")
        .guest("/etc/nsswitch.conf", "nsswitch.conf");
    containerd.import(&image);
    let id = containerd
        .run(&image)
        .runtime(RUNC)
        .arguments(["/nss-probe"])
        .detach();
    // Stopped and not yet deleted, its root is still mounted.
    containerd.await_status(&id, "STOPPED", LIMIT);
    let loaded = containerd
        .bundle(&id)
        .join("rootfs/nss-was-loaded")
        .exists();
    containerd.remove(&id);
    assert!(
        loaded,
        "nss-probe did not load libnss_evil: the fixture does not bite"
    );
}

#[test]
fn arguments_replace_the_images_entrypoint_and_without_them_it_runs() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::busybox()
        .entrypoint(["echo", "entrypoint"])
        .command(["command"]);
    containerd.import(&image);
    assert_eq!(
        containerd.run(&image).runtime(RUNC).output().ok(),
        "entrypoint command\n"
    );
    let arguments = ["echo", "arguments"];
    let output = containerd
        .run(&image)
        .runtime(RUNC)
        .arguments(arguments)
        .output();
    assert_eq!(output.ok(), "arguments\n");
}

#[test]
fn a_missing_guest_names_the_command_that_builds_it() {
    let failure = std::panic::catch_unwind(|| guest("no-such-guest")).expect_err("there is none");
    let text = failure.downcast_ref::<String>().expect("a text");
    assert!(text.contains("test/guests/build.sh"), "{text}");
}
