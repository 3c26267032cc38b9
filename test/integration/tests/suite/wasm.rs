//! What a guest gets: arguments, environment, folder, stdio, files, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lighter_testkit::Image;

use crate::containerd_with;

#[test]
fn modules_and_components_print_hello() {
    let image = Image::new("kinds")
        .guest("/hello.wasm", "hello")
        .guest("/hello-c.wasm", "hello-c")
        .guest("/hello-component.wasm", "hello-component");
    let containerd = containerd_with(&image);
    for path in [
        "/hello.wasm",
        "/hello-c.wasm",
        "/hello-component.wasm",
        "hello.wasm",
    ] {
        let stdout = containerd.run(&image).arguments([path]).output().ok();
        assert_eq!(stdout, "Hello from Wasm\n", "{path}");
    }
}

#[test]
fn arguments_environment_and_folder_arrive() {
    let image = Image::new("process")
        .guest("/m.wasm", "env-args")
        .guest("/c.wasm", "env-args-component")
        .folder("/work", 0o755, (0, 0));
    let containerd = containerd_with(&image);
    for path in ["/m.wasm", "/c.wasm"] {
        let stdout = containerd
            .run(&image)
            .flags(["--env", "COLOUR=blue", "--env", "EMPTY="])
            .arguments([path, "one", "two words"])
            .output()
            .ok();
        let expected = [
            &format!("arg: {path}\n"),
            "arg: one\n",
            "arg: two words\n",
            "env: COLOUR=blue\n",
            "env: EMPTY=\n",
        ];
        for line in expected {
            assert!(stdout.contains(line), "{path}: {line:?} in {stdout}");
        }
        assert!(
            !stdout.contains("TTRPC"),
            "containerd's environment is not the guest's: {stdout}"
        );
    }
}

#[test]
fn the_working_directory_is_where_relative_paths_start() {
    let image = Image::new("cwd")
        .guest("/files.wasm", "files")
        .guest("/filesc.wasm", "files-component")
        .file("/work/notes", "from work", 0o644)
        .file("/etc/motd", "from etc", 0o644);
    let containerd = containerd_with(&image);
    for path in ["/files.wasm", "/filesc.wasm"] {
        let stdout = containerd
            .run(&image)
            .flags(["--cwd", "/work"])
            .arguments([
                path,
                "read",
                "notes",
                "read",
                "/etc/motd",
                "read",
                "/work/notes",
            ])
            .output()
            .ok();
        assert_eq!(
            stdout,
            "read notes: ok from work\nread /etc/motd: ok from etc\nread /work/notes: ok from work\n",
            "{path}"
        );
    }
    // A folder that is missing is created, as runc does.
    let stdout = containerd
        .run(&image)
        .flags(["--cwd", "/new/folder"])
        .arguments(["/files.wasm", "write", "x", "made", "read", "/new/folder/x"])
        .output()
        .ok();
    assert!(
        stdout.ends_with("read /new/folder/x: ok made\n"),
        "{stdout}"
    );
}

#[test]
fn stdin_and_stderr_are_the_containers() {
    let image = Image::wasm("cat").guest("/stderr.wasm", "stderr");
    let containerd = containerd_with(&image);
    let output = containerd.run(&image).stdin("to the guest\n").output();
    output.exits(0);
    assert_eq!(output.stdout, "to the guest\n");
    assert!(
        output.stderr.contains("end of file after 13 bytes"),
        "{}",
        output.stderr
    );
    let output = containerd.run(&image).arguments(["/stderr.wasm"]).output();
    assert_eq!(output.stdout, "on stdout\n");
    assert!(output.stderr.contains("on stderr"), "{}", output.stderr);
}

#[test]
fn no_byte_of_a_long_output_is_lost() {
    let image = Image::wasm("big-output");
    let containerd = containerd_with(&image);
    let output = containerd
        .run(&image)
        .arguments(["/big-output.wasm", "16"])
        .output();
    output.exits(0);
    assert_eq!(output.stdout.len(), 16 << 20);
}

#[test]
fn an_export_can_be_named() {
    let image = Image::wasm("multi-export");
    let containerd = containerd_with(&image);
    assert_eq!(containerd.run(&image).output().ok(), "_start\n");
    let other = containerd
        .run(&image)
        .arguments(["/multi-export.wasm#other"])
        .output();
    assert_eq!(other.ok(), "other\n");
    containerd
        .run(&image)
        .arguments(["/multi-export.wasm#missing"])
        .output()
        .fails_with(&["missing", "other"]);
}

#[test]
fn volumes_are_there_with_their_flags() {
    let image = Image::wasm("files");
    let containerd = containerd_with(&image);
    let volume = containerd.folder().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("a"), "in the volume").unwrap();
    fs::write(volume.join("log"), "").unwrap();
    let mount = |destination: &str, source: &str, options: &str| {
        format!(
            "type=bind,src={}{source},dst={destination},options=rbind:{options}",
            volume.display()
        )
    };
    let stdout = containerd
        .run(&image)
        .flags([
            "--mount",
            &mount("/rw", "", "rw"),
            "--mount",
            &mount("/ro", "", "ro"),
        ])
        .flags(["--mount", &mount("/dev/termination-log", "/log", "rw")])
        .arguments([
            "/files.wasm",
            "read",
            "/ro/a",
            "write",
            "/rw/b",
            "new",
            "write",
            "/ro/c",
            "no",
            "write",
            "/dev/termination-log",
            "bye",
        ])
        .output()
        .ok();
    assert!(
        stdout.contains("read /ro/a: ok in the volume\n"),
        "{stdout}"
    );
    assert!(stdout.contains("write /rw/b: ok\n"), "{stdout}");
    assert!(stdout.contains("write /ro/c: error"), "{stdout}");
    assert_eq!(fs::read_to_string(volume.join("b")).unwrap(), "new");
    assert_eq!(fs::read_to_string(volume.join("log")).unwrap(), "bye");
    assert!(!volume.join("c").exists());
}

#[test]
fn a_read_only_rootfs_is_read_only() {
    let image = Image::wasm("files");
    let containerd = containerd_with(&image);
    let arguments = ["/files.wasm", "write", "/made", "x"];
    let stdout = containerd.run(&image).arguments(arguments).output().ok();
    assert_eq!(stdout, "write /made: ok\n");
    let stdout = containerd
        .run(&image)
        .flags(["--read-only"])
        .arguments(arguments)
        .output()
        .ok();
    assert!(stdout.starts_with("write /made: error"), "{stdout}");
}

/// Invariant 7. A volume may bring the host's /proc, /sys and /dev; they stay closed.
#[test]
fn a_guest_reaches_no_procfs_sysfs_or_device() {
    let image = Image::wasm("files");
    let containerd = containerd_with(&image);
    let bind = |path: &str| format!("type=bind,src={path},dst=/host{path},options=rbind:rw");
    let stdout = containerd
        .run(&image)
        .flags([
            "--mount",
            &bind("/proc"),
            "--mount",
            &bind("/sys"),
            "--mount",
            &bind("/dev"),
        ])
        .arguments([
            "/files.wasm",
            "read",
            "/proc/self/status",
            "read",
            "/proc/1/environ",
            "list",
            "/sys",
            "read",
            "/dev/zero",
            "read",
            "/dev/urandom",
            "list",
            "/dev",
            "read",
            "/host/proc/self/status",
            "list",
            "/host/sys",
            "read",
            "/host/dev/urandom",
            "stat",
            "/host/dev/null",
        ])
        .output()
        .ok();
    for line in stdout.lines() {
        let is_empty = line == "list /sys: ok" || line == "list /host/sys: ok";
        let lists_only_folders = line == "list /dev: ok" || line == "list /dev: ok shm";
        assert!(
            line.contains(": error") || is_empty || lists_only_folders,
            "{line}\nin {stdout}"
        );
    }
    assert_eq!(stdout.lines().count(), 10, "{stdout}");
}

/// A device node in the image itself, which a hostile builder can put there.
#[test]
fn a_guest_opens_no_device_node_of_a_volume() {
    let image = Image::wasm("files");
    let containerd = containerd_with(&image);
    let volume = containerd.folder().join("volume");
    fs::create_dir(&volume).unwrap();
    let status = std::process::Command::new("mknod")
        .args([volume.join("zero").to_str().unwrap(), "c", "1", "5"])
        .status()
        .unwrap();
    assert!(status.success());
    fs::set_permissions(volume.join("zero"), PermissionsExt::from_mode(0o666)).unwrap();
    let mount = format!(
        "type=bind,src={},dst=/data,options=rbind:rw",
        volume.display()
    );
    let stdout = containerd
        .run(&image)
        .flags(["--mount", &mount])
        .arguments([
            "/files.wasm",
            "stat",
            "/data/zero",
            "write",
            "/data/zero",
            "x",
        ])
        .output()
        .ok();
    assert!(stdout.contains("stat /data/zero: ok other"), "{stdout}");
    assert!(stdout.contains("write /data/zero: error"), "{stdout}");
}

#[test]
fn files_belong_to_the_containers_user() {
    let image = Image::wasm("files").folder("/home", 0o777, (0, 0)).file_of(
        "/secret",
        "root's",
        0o600,
        (0, 0),
    );
    let containerd = containerd_with(&image);
    let volume = containerd.folder().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, PermissionsExt::from_mode(0o777)).unwrap();
    let mount = format!(
        "type=bind,src={},dst=/data,options=rbind:rw",
        volume.display()
    );
    let stdout = containerd
        .run(&image)
        .flags(["--user", "1000:1000", "--mount", &mount])
        .arguments(["/files.wasm", "read", "/secret", "write", "/data/mine", "x"])
        .output()
        .ok();
    assert!(
        stdout.contains("read /secret: error PermissionDenied"),
        "{stdout}"
    );
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(volume.join("mine")).unwrap());
    assert_eq!(owner, 1000);
}
