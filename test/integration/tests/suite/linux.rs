//! Linux images through the same shim behave as through runc.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lighter_testkit::{Image, RUNC, WASMTIME, guest};

use crate::containerd_with;

fn programs() -> Image {
    let native = |name: &str| fs::read(guest(name)).unwrap();
    Image::busybox()
        .env("COLOUR", "blue")
        .file("/ids", native("ids"), 0o755)
        .file("/signals", native("signals"), 0o755)
        .file("/fds", native("fds"), 0o755)
        .file("/script", "#!/bin/sh\necho script $0 $1\n", 0o755)
        .file("/not-executable", native("ids"), 0o644)
}

/// Each case runs through both shims, and both say the same.
#[test]
fn what_runc_does_is_what_lighter_does() {
    let image = programs();
    let containerd = containerd_with(&image);
    let seccomp: &[&str] = &["--seccomp"];
    let no_flags: &[&str] = &[];
    let cases: &[(&[&str], &[&str])] = &[
        (
            no_flags,
            &["sh", "-c", "echo $COLOUR $HOME $PATH $PWD; exit 9"],
        ),
        (
            &["--env", "COLOUR=red", "--cwd", "/tmp/new"],
            &["sh", "-c", "echo $COLOUR; pwd"],
        ),
        (no_flags, &["/script", "argument"]),
        (no_flags, &["/signals"]),
        (no_flags, &["/ids"]),
        (no_flags, &["sh", "-c", "/fds | cut -d' ' -f1"]),
        (&["--user", "1000:2000"], &["/ids"]),
        (&["--user", "nobody"], &["/ids"]),
        (
            &["--cap-add", "CAP_NET_ADMIN", "--cap-drop", "CAP_CHOWN"],
            &["/ids"],
        ),
        (
            &["--privileged"],
            &["sh", "-c", "grep Cap /proc/self/status"],
        ),
        (seccomp, &["/ids"]),
        (seccomp, &["sh", "-c", "mount -t tmpfs none /tmp; echo $?"]),
        (&["--read-only"], &["sh", "-c", "touch /x; echo $?"]),
        (
            no_flags,
            &["sh", "-c", "cut -d' ' -f2,3 /proc/mounts | sort"],
        ),
        (
            no_flags,
            &["sh", "-c", "ls -l /dev | awk '{print $1,$5,$6,$NF}'"],
        ),
        (
            no_flags,
            &[
                "sh",
                "-c",
                "echo $$; cat /proc/self/oom_score_adj; umask; ulimit -n",
            ],
        ),
        (
            no_flags,
            &[
                "sh",
                "-c",
                // A pipeline would count itself, or half of itself: the shell lists them alone.
                "cat /proc/sys/kernel/hostname | wc -l; echo /proc/[0-9]*",
            ],
        ),
        (
            no_flags,
            &["sh", "-c", "kill -TERM $$; sleep 0.1; echo survived"],
        ),
        (
            no_flags,
            &["sh", "-c", "sleep 100 & kill -KILL $!; wait $!; echo $?"],
        ),
        (
            &["--memory-limit", "67108864"],
            &["cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
        ),
    ];
    for (flags, arguments) in cases {
        let run = |runtime: &str| {
            let run = containerd
                .run(&image)
                .runtime(runtime)
                .flags(*flags)
                .arguments(*arguments);
            let output = run.output();
            (output.code(), output.stdout)
        };
        assert_eq!(run(WASMTIME), run(RUNC), "{flags:?} {arguments:?}");
    }
}

#[test]
fn stdin_pipes_and_standard_error_work() {
    let image = programs();
    let containerd = containerd_with(&image);
    // A pipeline whose reader leaves early ends only if SIGPIPE has its default action.
    let script = "cat; yes | head -n 1; echo problem >&2; exit 3";
    let output = containerd
        .run(&image)
        .arguments(["sh", "-c", script])
        .stdin("in\n")
        .output();
    output.exits(3);
    assert_eq!(output.stdout, "in\ny\n");
    assert!(output.stderr.contains("problem"), "{}", output.stderr);
}

#[test]
fn a_user_who_is_not_root_can_open_its_stdout() {
    let image = programs();
    let containerd = containerd_with(&image);
    let output = containerd
        .run(&image)
        .flags(["--user", "1000:1000"])
        .arguments(["sh", "-c", "echo opened > /dev/stdout"])
        .output();
    assert_eq!(output.ok(), "opened\n");
}

#[test]
fn programs_that_cannot_run_are_named() {
    let image = programs();
    let containerd = containerd_with(&image);
    let fails = |arguments: &[&str], texts: &[&str]| {
        containerd
            .run(&image)
            .arguments(arguments)
            .output()
            .fails_with(texts);
    };
    fails(&["/nothing"], &["/nothing", "no such file or directory"]);
    fails(
        &["/not-executable"],
        &["/not-executable", "permission denied"],
    );
    assert_eq!(
        containerd
            .run(&image)
            .arguments(["echo", "next"])
            .output()
            .ok(),
        "next\n"
    );
}

#[test]
fn a_volume_that_is_missing_is_named() {
    let image = programs();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    containerd
        .run(&image)
        .flags([
            "--mount",
            "type=bind,src=/does/not/exist,dst=/data,options=rbind:ro",
        ])
        .arguments(["true"])
        .output()
        .fails_with(&["/does/not/exist"]);
    leaks.assert_none_since();
}

/// Hooks of the spec run where and when the OCI runtime specification says.
#[test]
fn hooks_run() {
    let image = programs();
    let containerd = containerd_with(&image);
    let trace = containerd.folder().join("trace");
    let hook = containerd.folder().join("hook");
    let text = format!(
        "#!/bin/sh\ncat > /dev/null\necho $1 >> {}\n",
        trace.display()
    );
    fs::write(&hook, text).unwrap();
    fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();

    let rootfs = containerd.folder().join("hooks-rootfs");
    fs::create_dir_all(rootfs.join("bin")).unwrap();
    fs::create_dir_all(rootfs.join("proc")).unwrap();
    fs::create_dir_all(rootfs.join("dev")).unwrap();
    fs::copy("/bin/busybox", rootfs.join("bin/true")).unwrap();
    let entry = |name: &str| serde_json::json!([{ "path": hook.to_str().unwrap(), "args": ["hook", name] }]);
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } },
        "root": { "path": rootfs.to_str().unwrap() },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
        ],
        "hooks": {
            "prestart": entry("prestart"),
            "createRuntime": entry("createRuntime"),
            "poststart": entry("poststart"),
            "poststop": entry("poststop"),
        },
        "linux": {
            "cgroupsPath": format!("/{}/hooks", containerd.namespace()),
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }],
        },
    });
    let config = containerd.folder().join("hooks.json");
    fs::write(&config, spec.to_string()).unwrap();
    containerd
        .ctr([
            "run",
            "--rm",
            "--runtime",
            WASMTIME,
            "--config",
            config.to_str().unwrap(),
            "hooks",
        ])
        .output()
        .exits(0);
    let order = fs::read_to_string(&trace).unwrap();
    assert_eq!(order, "prestart\ncreateRuntime\npoststart\npoststop\n");
}
