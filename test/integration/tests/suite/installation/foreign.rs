//! What belongs to another runtime: refused, or set aside and back afterwards, byte for byte.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use lighter_testkit::{Call, Image, Output, Version, node_tool, shim_folder};

use super::{NAMES, Node};

/// An ELF program that is not Lighter's, of another user and with another mode.
fn foreign(place: &Path) {
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy("/bin/busybox", place).unwrap();
    chown(place, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(place, fs::Permissions::from_mode(0o4711)).unwrap();
}

/// Bytes, owner, group and mode.
fn file(place: &Path) -> (Vec<u8>, u32, u32, u32) {
    let metadata = fs::symlink_metadata(place).unwrap();
    let bytes = fs::read(place).unwrap();
    (bytes, metadata.uid(), metadata.gid(), metadata.mode())
}

#[test]
fn another_runtimes_shim_is_refused_or_comes_back() {
    for version in [Version::Debian, Version::V2] {
        let node = Node::new(version);
        let shim = node.path("usr/bin").join(NAMES[0]);
        foreign(&shim);
        let (before, was) = (node.files(), file(&shim));
        let path = shim.display().to_string();
        node.install(&[]).fails_with(&[
            &path,
            "another program stands there",
            "--prefix /opt/lighter",
            "--replace-foreign",
        ]);
        assert!(node.files() == before && file(&shim) == was, "{version:?}");

        let said = node.install(&["--replace-foreign"]).ok();
        assert!(said.contains(&format!("set {path} aside as")), "{said}");
        assert!(node.status().1, "{version:?}");
        assert_eq!(file(&shim).3 & 0o7777, 0o755, "its mode is not taken over");
        // A second time, and an upgrade, set nothing aside any more.
        let said = node.install(&[]).ok();
        assert!(said.starts_with("nothing to do"), "{said}");
        let release = node.another_release();
        node.install_from(&release, &[]).ok();

        let said = node.lighter(&["uninstall"]).ok();
        assert!(said.contains(&format!("put back {path}")), "{said}");
        assert!(node.files() == before && file(&shim) == was, "{version:?}");
    }
}

#[test]
fn a_shim_that_was_put_there_since_stays() {
    let node = Node::new(Version::V2);
    node.install(&[]).ok();
    let shim = node.path("usr/bin").join(NAMES[0]);
    fs::remove_file(&shim).unwrap();
    foreign(&shim);
    let was = file(&shim);
    let (status, ok) = node.status();
    let problem = status["problems"][0].as_str().unwrap();
    assert!(!ok && problem.contains("not the one that was installed"));
    // The installer looks each minute: it does not take the file from its owner either.
    node.install(&[])
        .fails_with(&["another program stands there"]);
    assert!(file(&shim) == was);
    let faults = node.faults().join("\n");
    assert!(faults.contains("which is not Lighter's"), "{faults}");

    let said = node.lighter(&["uninstall"]).ok();
    let left = format!("left {}, which is not what was installed", shim.display());
    assert!(said.contains(&left), "{said}");
    assert!(file(&shim) == was);
    assert_eq!(fs::read_dir(node.path("usr/bin")).unwrap().count(), 1);
}

#[test]
fn a_link_is_not_written_through() {
    let node = Node::new(Version::V2);
    let (shim, theirs) = (node.path("usr/bin").join(NAMES[0]), node.path("theirs"));
    foreign(&theirs);
    fs::create_dir_all(shim.parent().unwrap()).unwrap();
    symlink(&theirs, &shim).unwrap();
    let was = file(&theirs);
    node.install(&[])
        .fails_with(&["a symbolic link stands there"]);
    node.install(&["--replace-foreign"]).ok();
    assert!(fs::symlink_metadata(&shim).unwrap().is_file());
    node.lighter(&["uninstall"]).ok();
    assert_eq!(fs::read_link(&shim).unwrap(), theirs);
    assert!(file(&theirs) == was);
}

/// As runwasi's documents have it, here with a path, so that no PATH of this machine counts.
#[test]
fn a_handler_of_another_runtime_is_refused_or_comes_back() {
    let node = Node::new(Version::V2);
    let theirs = node.path("runwasi/containerd-shim-wasmtime-v1");
    foreign(&theirs);
    // A configuration that is kept elsewhere is changed there, and the link to it stays.
    let (config, kept) = (node.path("config.toml"), node.path("kept.toml"));
    let text = format!(
        "{}\n[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.wasmtime]\n\
         runtime_type = \"io.containerd.wasmtime.v1\" # of runwasi\nruntime_path = \"{}\"\n",
        node.config(),
        theirs.display()
    );
    fs::remove_file(&config).unwrap();
    fs::write(&kept, &text).unwrap();
    symlink("kept.toml", &config).unwrap();
    let path = theirs.display().to_string();
    let before = node.files();
    node.install(&[]).fails_with(&[
        "the handler wasmtime of this containerd runs",
        &path,
        "another name",
        "--replace-foreign",
    ]);
    assert!(node.files() == before && !node.path("usr").exists());

    node.install(&["--replace-foreign"]).ok();
    assert!(node.status().1, "{:?}", node.status());
    assert!(node.faults().is_empty(), "{:?}", node.faults());
    let image = Image::wasm("hello");
    node.cri.import(&image);
    let ended = node.cri.run(&image.reference(), &[]);
    assert_eq!(ended.code, 0, "{}", ended.log);

    node.lighter(&["uninstall"]).ok();
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&kept).unwrap(), text);
    assert!(node.files() == before);
}

/// `make` with the programs that are tested, which it does not build again.
fn make(target: &str, destination: &Path, more: &[&str]) -> Output {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let destination = format!("DESTDIR={}", destination.display());
    let programs = format!("LIGHTER_BIN={}", shim_folder().display());
    let first = ["-s", "-C", root, "-o", "build", target];
    let all = first.iter().chain(more);
    Call::new("make", all.copied().chain([&*destination, &*programs])).output()
}

#[test]
fn make_leaves_what_is_not_lighters() {
    let destination = tempfile::tempdir().unwrap();
    let destination = destination.path();
    let shim = destination.join("usr/local/bin").join(NAMES[0]);
    foreign(&shim);
    let was = file(&shim);
    let names = || -> Vec<String> {
        let entries = fs::read_dir(shim.parent().unwrap()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let path = shim.display().to_string();
    make("install", destination, &[]).fails_with(&[&path, "another program", "--replace-foreign"]);
    make("uninstall", destination, &[]).ok();
    assert!(file(&shim) == was);
    assert_eq!(names(), [NAMES[0]]);

    make("install", destination, &["REPLACE_FOREIGN=1"]).ok();
    for name in NAMES {
        let built = fs::read(shim_folder().join(name)).unwrap();
        assert!(
            fs::read(shim.with_file_name(name)).unwrap() == built,
            "{name}"
        );
    }
    make("install", destination, &[]).ok();
    let said = make("uninstall", destination, &[]).ok();
    assert!(said.contains(&format!("put back {path}")), "{said}");
    assert!(file(&shim) == was);
    assert_eq!(names(), [NAMES[0]]);

    fs::remove_file(&shim).unwrap();
    make("install", destination, &["PREFIX=/opt/x"]).ok();
    assert!(destination.join("opt/x/bin").join(NAMES[2]).exists());
    make("uninstall", destination, &["PREFIX=/opt/x"]).ok();
    assert_eq!(
        fs::read_dir(destination.join("opt/x/bin")).unwrap().count(),
        0
    );
}

/// Two that install at the same time, beside each other's files, and one that removes.
#[test]
fn who_installs_at_the_same_time_waits() {
    let prefix = tempfile::tempdir().unwrap();
    let shim = prefix.path().join("bin").join(NAMES[0]);
    foreign(&shim);
    let was = file(&shim);
    let text = prefix.path().to_str().unwrap();
    let from = shim_folder().display().to_string();
    let install = ["programs", "install", "--prefix", text, "--from", &from];
    for _ in 0..3 {
        let install = || {
            let more = install.iter().chain(&["--replace-foreign"]);
            Call::new(node_tool(), more).spawn()
        };
        let running = [install(), install(), install()];
        for each in running {
            each.wait(std::time::Duration::from_secs(60)).ok();
        }
        assert_eq!(fs::read_dir(shim.parent().unwrap()).unwrap().count(), 4);
        let uninstall = ["programs", "uninstall", "--prefix", text];
        Call::new(node_tool(), uninstall).ok();
        assert!(file(&shim) == was);
        assert_eq!(fs::read_dir(shim.parent().unwrap()).unwrap().count(), 1);
    }
}

#[test]
fn what_an_installation_has_put_there_is_not_makes_to_change() {
    let node = Node::new(Version::V2);
    node.install(&[]).ok();
    let (prefix, state) = (node.path("usr"), node.path("lighter"));
    let [prefix, state] = [prefix, state].map(|path| path.display().to_string());
    for task in ["install", "uninstall"] {
        let words = ["programs", task, "--prefix", &prefix, "--state", &state];
        let refused = Call::new(node_tool(), words).output();
        refused.fails_with(&["`lighter install` has put them there"]);
    }
    assert!(node.status().1);
    node.lighter(&["uninstall"]).ok();
}
