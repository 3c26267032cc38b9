//! Images that `lighter pack` made, through a registry: pushed and pulled by what people have,
//! unchanged, and run.

use std::fs;
use std::path::{Path, PathBuf};

use lighter_testkit::{
    Call, Containerd, Cri, Docker, Registry, Version, WASMTIME, guest, node_tool,
};

const FORMS: [&str; 5] = ["linux", "wasi", "artifact", "runwasi", "legacy"];
const HELLO: &str = "Hello from Wasm\n";

/// The layer of a form is a tar of files, which all clients unpack.
fn is_files(form: &str) -> bool {
    matches!(form, "linux" | "wasi")
}

/// The platform in the config of a form.
fn platform(form: &str) -> &'static str {
    match form {
        "linux" => "linux/amd64",
        "wasi" | "legacy" => "wasi/wasm",
        _ => "wasip1/wasm",
    }
}

/// A packed image.
struct Packed {
    path: PathBuf,
    reference: String,
    digest: String,
}

/// Packs the guest hello, to an archive or to a folder.
fn pack(folder: &Path, form: &str, reference: String, is_archive: bool) -> Packed {
    let suffix = if is_archive { ".tar" } else { "" };
    let path = folder.join(format!("pack-{form}{suffix}"));
    let (program, output) = (guest("hello"), path.display().to_string());
    let program = program.display().to_string();
    let arguments = [
        "pack", &program, "-o", &output, "--form", form, "--name", &reference,
    ];
    let said = Call::new(node_tool(), arguments).ok();
    let digest = said.rsplit(", ").next().unwrap().trim().to_owned();
    assert!(digest.starts_with("sha256:"), "{said}");
    Packed {
        path,
        reference,
        digest,
    }
}

impl Packed {
    /// The name without the tag, with the digest.
    fn by_digest(&self) -> String {
        let (name, _) = self.reference.rsplit_once(':').unwrap();
        format!("{name}@{}", self.digest)
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

#[test]
fn ctr_pushes_and_pulls_every_form() {
    let registry = Registry::start();
    for version in Version::ALL {
        let containerd = Containerd::start(version);
        for form in FORMS {
            let reference = registry.reference(&format!("{form}:{version:?}").to_lowercase());
            let image = pack(containerd.folder(), form, reference, true);
            // That of Debian 12 stores it, and then says that it cannot be unpacked.
            let refused = version == Version::Debian && !is_files(form);
            let check = |output: lighter_testkit::Output| {
                if refused {
                    output.fails_with(&["mismatched image rootfs and manifest layers"]);
                } else {
                    output.exits(0);
                }
            };
            check(containerd.ctr(["images", "import", image.path()]).output());
            let push = ["images", "push", "--plain-http", &image.reference];
            containerd.ctr(push).ok();
            for name in [image.reference.clone(), image.by_digest()] {
                let remove = ["images", "rm", "--sync", &image.reference];
                containerd.ctr(remove).ok();
                let pull = ["images", "pull", "--plain-http", &name];
                check(containerd.ctr(pull).output());
                let list = containerd.ctr(["images", "ls"]).ok();
                let line = list.lines().find(|line| line.starts_with(&name));
                assert!(
                    line.is_some_and(|line| line.contains(&image.digest)),
                    "{list}"
                );
                if refused {
                    continue;
                }
                let run = containerd.run_reference(&name);
                let output = run.flags(["--platform", platform(form)]).output();
                if form == "artifact" {
                    output.fails_with(&["unknown image config media type"]);
                } else {
                    assert_eq!(output.ok(), HELLO, "{version:?} {name}");
                }
            }
        }
    }
}

/// dockerd with containerd's image store: what new installations have.
#[test]
fn docker_loads_pushes_and_pulls_every_form() {
    let docker = Docker::start();
    let registry = Registry::start_inside(&docker);
    for form in FORMS {
        let reference = registry.reference(&format!("{form}:1"));
        let image = pack(docker.folder(), form, reference, true);
        docker.docker(["load", "--input", image.path()]).ok();
        let pushed = docker.docker(["push", &image.reference]).ok();
        assert!(pushed.contains(&image.digest), "{form}: {pushed}");
        for name in [image.reference.clone(), image.by_digest()] {
            docker.docker(["rmi", "--force", &image.digest]).ok();
            let pulled = docker.docker(["pull", &name]).ok();
            assert!(pulled.contains(&image.digest), "{form}: {pulled}");
            let runtime = format!("--runtime={WASMTIME}");
            let run = ["run", "--rm", &runtime, "--network=none", "--platform"];
            let last = [platform(form), &name];
            let output = docker.docker(run.iter().chain(&last)).output();
            assert_eq!(output.ok(), HELLO, "{name}");
        }
    }
}

/// Without containerd's image store dockerd knows Linux images only.
#[test]
fn docker_with_a_graph_driver_runs_the_linux_image() {
    let docker = Docker::start_with_graph_driver();
    let load = |form: &str| {
        let image = pack(docker.folder(), form, format!("lighter/{form}"), true);
        docker.docker(["load", "--input", image.path()]).output()
    };
    load("linux").exits(0);
    let runtime = format!("--runtime={WASMTIME}");
    let run = ["run", "--rm", &runtime, "--network=none", "lighter/linux"];
    assert_eq!(docker.docker(run).ok(), HELLO);
    load("wasi").fails_with(&["cannot load wasi image on linux"]);
    load("artifact").fails_with(&["no such file or directory"]);
}

/// Both copy images between registries, folders and archives.
#[test]
fn skopeo_and_crane_copy_every_form_unchanged() {
    let registry = Registry::start();
    let place = tempfile::tempdir().unwrap();
    for form in FORMS {
        let by = |tool: &str| registry.reference(&format!("{tool}-{form}:1"));
        let archive = pack(place.path(), form, by("skopeo"), true);
        let folder = pack(place.path(), form, by("crane"), false);
        assert_eq!(
            archive.digest, folder.digest,
            "the name is not in the manifest"
        );
        let digest_of = |image: &Packed| registry.crane(["digest", &image.reference]).ok();

        let source = format!("oci-archive:{}", archive.path());
        let target = format!("docker://{}", archive.reference);
        // Without the flag it compresses layers, and it is another image.
        let copy = [
            "copy",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &source,
            &target,
        ];
        Call::new("skopeo", copy).ok();
        assert_eq!(digest_of(&archive).trim(), archive.digest, "{form}");

        registry
            .crane(["push", folder.path(), &folder.reference])
            .ok();
        assert_eq!(digest_of(&folder).trim(), folder.digest, "{form}");

        let pulled = place
            .path()
            .join(format!("crane-{form}"))
            .display()
            .to_string();
        let pull = ["pull", "--format", "oci", &folder.reference, &pulled];
        registry.crane(pull).ok();

        let back = format!("oci:{}/back-{form}", place.path().display());
        let copy = [
            "copy",
            "--preserve-digests",
            "--src-tls-verify=false",
            &target,
            &back,
        ];
        Call::new("skopeo", copy).ok();

        let blob = format!("blobs/{}", archive.digest.replace(':', "/"));
        let packed = fs::read(folder.path.join(&blob)).unwrap();
        for copy in ["back", "crane"] {
            let copy = place.path().join(format!("{copy}-{form}")).join(&blob);
            assert_eq!(fs::read(copy).unwrap(), packed, "{form}");
        }
    }
}

#[test]
fn pods_pull_every_form_by_tag_and_digest() {
    let registry = Registry::start();
    for version in [Version::V1_7, Version::V2] {
        let cri = Cri::start(version);
        for form in FORMS {
            let reference = registry.reference(&format!("{form}:1"));
            let folder = cri.containerd().folder();
            let image = pack(folder, form, reference, false);
            registry
                .crane(["push", image.path(), &image.reference])
                .ok();
            for name in [image.reference.clone(), image.by_digest()] {
                cri.crictl(&["pull", &name]).ok();
                let inspected = cri.crictl(&["inspecti", &name]).ok();
                assert!(inspected.contains(&image.digest), "{inspected}");
                let ended = cri.run(&name, &[]);
                assert_eq!((ended.code, ended.log.as_str()), (0, HELLO), "{name}");
                cri.crictl(&["rmi", &name]).ok();
            }
        }
    }
}
