//! The files of a release, and the image that installs on a cluster.

use std::fs;
use std::path::Path;

use lighter_testkit::{Call, Containerd, Docker, RUNC, Version, shim_folder};

const SHIM_ARCHIVE: &str = "containerd-shim-wasmtime-x86_64-linux-musl.tar.gz";
const INSTALLER: &str = "localhost/lighter-installer:0.1.0";
const SHIM: &str = "containerd-shim-wasmtime-v1";

/// Makes a release of the programs that are tested.
fn release(folder: &Path, umask: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/release.sh");
    let call = format!("umask {umask}; exec {script} {}", folder.display());
    let call = Call::new("sh", ["-c", &call]).env("LIGHTER_BIN", shim_folder());
    call.env("SOURCE_DATE_EPOCH", "").ok();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_release_is_the_same_bytes_each_time_and_its_digests_are_true() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    release(&first, "022");
    release(&second, "077");
    Call::new("diff", ["-r", text(&first), text(&second)]).ok();
    let sums = fs::read_to_string(first.join("SHA256SUMS")).unwrap();
    let mut names: Vec<&str> = sums.lines().map(|line| &line[66..]).collect();
    names.sort();
    let made = ["lighter-installer.tar", "lighter-x86_64-linux.tar.gz"];
    assert_eq!(names, [&[SHIM_ARCHIVE][..], &made].concat());
    let check = format!(
        "cd {} && sha256sum --check --strict SHA256SUMS",
        text(&first)
    );
    Call::new("sh", ["-c", &check]).ok();
}

#[test]
fn the_programs_run_where_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    release(folder.path(), "022");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for archive in [SHIM_ARCHIVE, "lighter-x86_64-linux.tar.gz"] {
        let archive = folder.path().join(archive);
        Call::new("tar", ["-C", text(&empty), "-xzf", text(&archive)]).ok();
    }
    for (program, argument) in [
        (format!("/{SHIM}"), "-v"),
        (format!("/bin/{SHIM}"), "-v"),
        ("/bin/lighter".to_owned(), "--version"),
    ] {
        let said = Call::new("chroot", [text(&empty), &program, argument]).ok();
        assert!(said.contains("0.1.0"), "{program}: {said}");
    }
    let [page, completions] = [
        "share/man/man1/lighter-pack.1",
        "share/bash-completion/completions/lighter",
    ]
    .map(|name| fs::read_to_string(empty.join(name)).unwrap());
    assert!(page.contains(".TH") && completions.contains("complete -F _lighter"));
    for name in [SHIM, "lighter-compiler", "bin/lighter"] {
        let file = empty.join(name);
        let said = Call::new("readelf", ["-ldW", text(&file)]).ok();
        assert!(said.contains("LOAD"), "{said}");
        assert!(
            !said.contains("INTERP") && !said.contains("NEEDED"),
            "{said}"
        );
    }
}

#[test]
fn runc_runs_the_installer_from_its_image() {
    let folder = tempfile::tempdir().unwrap();
    release(folder.path(), "022");
    let image = folder.path().join("lighter-installer.tar");
    for version in Version::ALL {
        let containerd = Containerd::start(version);
        containerd.ctr(["images", "import", text(&image)]).ok();
        for (arguments, name) in [
            (["/lighter", "--version"], "lighter 0.1.0"),
            (["/containerd-shim-wasmtime-v1", "-v"], SHIM),
        ] {
            let run = containerd.run_reference(INSTALLER).runtime(RUNC);
            let said = run.arguments(arguments).output().ok();
            assert!(said.contains(name), "{version:?}: {said}");
        }
    }
    let docker = Docker::start();
    docker.docker(["load", "--input", text(&image)]).ok();
    // By the image's own entrypoint.
    let said = docker
        .docker([
            "run",
            "--rm",
            "--network=none",
            "--runtime=runc",
            INSTALLER,
            "--version",
        ])
        .ok();
    assert!(said.contains("lighter 0.1.0"), "{said}");
}
