//! Every form that an image of Wasm has, through every client. What a client itself refuses is
//! in docs/reference/images.md, with the words that are demanded here.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lighter_testkit::{Containerd, Cri, Docker, Image, Output, Version, WASMTIME, digest, guest};
use serde_json::json;

const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const OLD_CONFIG: &str = "application/vnd.wasm.config.v1+json";
const WASM: &str = "application/wasm";
const RUNWASI: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
const OLD: &str = "application/vnd.wasm.content.layer.v1+wasm";

const HELLO: &str = "Hello from Wasm\n";

/// Where this node keeps what it has compiled.
const CODE: &str = "/var/lib/lighter/artifacts/code";

fn hello() -> Vec<u8> {
    fs::read(guest("hello")).unwrap()
}

/// A module that prints the same, and that no node has seen before.
fn unseen() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let nonce = now.as_nanos().to_le_bytes();
    // A custom section without a name.
    let section = [&[0, 17, 0], nonce.as_slice()].concat();
    [hello(), section].concat()
}

/// An image of one layer that is Wasm, with an entrypoint.
fn layered(name: &str, media_type: &str, content: Vec<u8>) -> Image {
    Image::new(name)
        .platform("wasi", "wasm")
        .blob(media_type, content, None)
        .entrypoint(["/hello.wasm"])
}

/// The forms by their names in docs/reference/images.md, and whether the image has an entrypoint.
fn forms() -> Vec<(&'static str, Image, bool)> {
    let artifact = |name: &str, config: &str, layer: &str| {
        Image::new(name)
            .platform("wasip1", "wasm")
            .config_type(config)
            .blob(layer, hello(), None)
    };
    vec![
        ("Linux image", Image::wasm("hello"), true),
        (
            "wasi/wasm",
            Image::wasm("hello").platform("wasi", "wasm"),
            true,
        ),
        (
            "wasi/wasm32",
            Image::wasm("hello").platform("wasi", "wasm32"),
            true,
        ),
        (
            "CNCF artifact",
            artifact("artifact", WASM_CONFIG, WASM),
            false,
        ),
        ("application/wasm", layered("wasm", WASM, hello()), true),
        ("runwasi", layered("runwasi", RUNWASI, hello()), true),
        ("older layer", layered("older", OLD, hello()), true),
        (
            "older artifact",
            artifact("wasm-to-oci", OLD_CONFIG, OLD),
            false,
        ),
    ]
}

/// Imports it, without demanding that this works.
fn import(containerd: &Containerd, image: &Image) -> Output {
    let file = containerd.folder().join("form.tar");
    fs::write(&file, image.archive()).unwrap();
    let (file, platform) = (file.display().to_string(), image.platform_name());
    containerd
        .ctr(["images", "import", "--platform", &platform, &file])
        .output()
}

/// `ctr run`, with the image's platform and these arguments.
fn run(containerd: &Containerd, image: &Image, arguments: &[&str]) -> Output {
    containerd
        .run(image)
        .flags(["--platform", &image.platform_name()])
        .arguments(arguments)
        .output()
}

#[test]
fn ctr_runs_every_form_that_it_takes() {
    for version in [Version::V1_7, Version::V2] {
        let containerd = Containerd::start(version);
        for (form, image, has_entrypoint) in forms() {
            import(&containerd, &image).exits(0);
            let leaks = containerd.leaks();
            if has_entrypoint {
                let output = run(&containerd, &image, &[]);
                assert_eq!(output.ok(), HELLO, "{form} on {version:?}");
            } else {
                // Whatever it is asked to run: `ctr` reads the entrypoint from the config.
                run(&containerd, &image, &["/hello.wasm"])
                    .fails_with(&["unknown image config media type"]);
            }
            leaks.assert_none_since();
        }
    }
}

#[test]
fn containerd_1_6_takes_archives_of_files_only() {
    let containerd = Containerd::start(Version::Debian);
    for (form, image, _) in forms() {
        let imported = import(&containerd, &image);
        if form.starts_with("Linux") || form.starts_with("wasi/") {
            imported.exits(0);
            assert_eq!(run(&containerd, &image, &[]).ok(), HELLO, "{form}");
        } else {
            imported.fails_with(&["mismatched image rootfs and manifest layers"]);
        }
    }
}

#[test]
fn docker_runs_every_form() {
    let docker = Docker::start();
    for (form, image, has_entrypoint) in forms() {
        docker.load(&image);
        let (runtime, reference) = (format!("--runtime={WASMTIME}"), image.reference());
        let platform = image.platform_name();
        let run = |command: &[&str]| {
            let options = [
                "run",
                "--rm",
                "--network=none",
                "--platform",
                &platform,
                &runtime,
            ];
            let image = [reference.as_str()];
            docker
                .docker([&options, image.as_slice(), command].concat())
                .output()
        };
        if has_entrypoint {
            assert_eq!(run(&[]).ok(), HELLO, "{form}");
        } else {
            run(&[]).fails_with(&["no command specified"]);
            assert_eq!(run(&["/hello.wasm"]).ok(), HELLO, "{form}");
        }
    }
}

#[test]
fn pods_run_every_form() {
    for version in [Version::V1_7, Version::V2] {
        let cri = Cri::start(version);
        for (form, image, has_entrypoint) in forms() {
            cri.import(&image);
            let run = |command: &[&str]| cri.attempt(&image.reference(), command, &json!({}));
            let by_itself = run(&[]);
            if has_entrypoint {
                let ended = by_itself.unwrap();
                assert_eq!((ended.code, ended.log.as_str()), (0, HELLO), "{form}");
            } else {
                let error = by_itself.unwrap_err();
                assert!(error.contains("no command specified"), "{form}: {error}");
                let ended = run(&["/hello.wasm"]).unwrap();
                assert_eq!((ended.code, ended.log.as_str()), (0, HELLO), "{form}");
            }
        }
    }
}

/// They reach every container of a pod, and the one that holds its namespaces.
#[test]
fn annotations_of_a_pod_confirm() {
    let cri = Cri::start(Version::V2);
    let image = Image::wasm("hello").file("/script", "#!/hello.wasm\n", 0o755);
    cri.import(&image);
    let annotations = json!({ "module.wasm.image/variant": "compat" });
    let run = |command: &str| cri.attempt(&image.reference(), &[command], &annotations);
    assert_eq!(run("/hello.wasm").unwrap().log, HELLO);
    let error = run("/script").unwrap_err();
    assert!(
        error.contains("module.wasm.image/variant: compat says that this container is Wasm"),
        "{error}"
    );
}

#[test]
fn annotations_of_other_runtimes_confirm() {
    let image = Image::busybox().guest("/hello.wasm", "hello");
    let containerd = Containerd::start(Version::V2);
    containerd.import(&image);
    let run = |annotation: &str, program: &str| {
        containerd
            .run(&image)
            .flags(["--annotation", annotation])
            .arguments([program, "true"])
            .output()
    };
    for annotation in [
        "run.oci.handler=wasm",
        "run.oci.handler=wasm-smart",
        "module.wasm.image/variant=compat",
        "module.wasm.image/variant=compat-smart",
    ] {
        assert_eq!(run(annotation, "/hello.wasm").ok(), HELLO);
        let native = run(annotation, "/bin/busybox");
        if annotation.ends_with("smart") {
            native.exits(0);
        } else {
            let shown = annotation.replace('=', ": ");
            native.fails_with(&["/bin/busybox", &shown, "the file is not"]);
        }
    }
}

#[test]
fn of_several_layers_the_entrypoint_picks() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::new("several")
        .platform("wasi", "wasm")
        .blob(WASM, hello(), Some("hello.wasm"))
        .blob(WASM, fs::read(guest("exit")).unwrap(), Some("exit.wasm"))
        .blob(
            WASM,
            fs::read(guest("env-args")).unwrap(),
            Some("bin/env-args.wasm"),
        )
        .entrypoint(["/hello.wasm"]);
    containerd.import(&image);
    assert_eq!(run(&containerd, &image, &[]).ok(), HELLO);
    let arguments = run(&containerd, &image, &["/bin/env-args.wasm", "one", "two"]).ok();
    assert!(
        arguments.contains("one") && arguments.contains("two"),
        "{arguments}"
    );
    run(&containerd, &image, &["/other.wasm"]).fails_with(&[
        "/other.wasm",
        "no such file or directory",
        "several Wasm layers",
        "hello.wasm (sha256:",
        "exit.wasm (sha256:",
        "bin/env-args.wasm (sha256:",
    ]);
}

#[test]
fn files_beside_a_wasm_layer_are_the_guests() {
    let containerd = Containerd::start(Version::V2);
    let image = layered("mixed", WASM, fs::read(guest("files")).unwrap())
        .file("/notes", "from the files", 0o644)
        .entrypoint(["/files.wasm", "read", "/notes"]);
    import(&containerd, &image).exits(0);
    assert_eq!(
        run(&containerd, &image, &[]).ok(),
        "read /notes: ok from the files\n"
    );
}

/// The image is asked for once; later the layer is not even read.
#[test]
fn a_layer_is_read_at_the_first_start_only() {
    let containerd = Containerd::start(Version::V2);
    let content = unseen();
    let layer = digest(&content);
    let image = layered("once", RUNWASI, content);
    containerd.import(&image);
    assert_eq!(run(&containerd, &image, &[]).ok(), HELLO);
    containerd.ctr(["content", "rm", &layer]).output().exits(0);
    assert_eq!(run(&containerd, &image, &[]).ok(), HELLO);
}

#[test]
fn no_process_stays_that_asked_containerd() {
    let containerd = Containerd::start(Version::V2);
    let image = layered("stays", WASM, fs::read(guest("sleep")).unwrap())
        .entrypoint(["/sleep.wasm", "100"]);
    containerd.import(&image);
    let before = containerd.scope().processes().len();
    let id = containerd
        .run(&image)
        .flags(["--platform", "wasi/wasm"])
        .detach();
    // The shim and the container's init.
    assert_eq!(containerd.scope().processes().len(), before + 2);
    containerd.remove(&id);
}

#[test]
fn of_an_index_the_image_is_run_that_the_client_has_unpacked() {
    let containerd = Containerd::start(Version::V2);
    let wasm = layered("both", WASM, hello());
    // As BuildKit writes it: the image, and what describes it.
    let attested = layered("attested", WASM, hello()).edit_index(|index| {
        let attestation = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", "0".repeat(64)),
            "size": 100,
            "platform": { "os": "unknown", "architecture": "unknown" },
            "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
        });
        index["manifests"].as_array_mut().unwrap().push(attestation);
    });
    import(&containerd, &attested).exits(0);
    assert_eq!(run(&containerd, &attested, &[]).ok(), HELLO);
    // For Linux there are files, and none has this name: no other platform's program steps in.
    let image = wasm.beside(Image::busybox());
    import(&containerd, &image).exits(0);
    assert_eq!(run(&containerd, &image, &[]).ok(), HELLO);
    let file = containerd.folder().join("form.tar").display().to_string();
    containerd
        .ctr(["images", "import", "--platform", "linux/amd64", &file])
        .output()
        .exits(0);
    let linux = |arguments: [&str; 2]| {
        let run = containerd.run(&image).flags(["--platform", "linux/amd64"]);
        run.arguments(arguments).output()
    };
    linux(["/bin/busybox", "true"]).exits(0);
    linux(["/hello.wasm", "x"]).fails_with(&["/hello.wasm", "no such file or directory"]);
}

/// Demands the error, that no code was kept, and that the next container runs.
fn refused(containerd: &Containerd, image: &Image, texts: &[&str], content: &[u8]) {
    import(containerd, image).exits(0);
    let leaks = containerd.leaks();
    run(containerd, image, &[]).fails_with(texts);
    leaks.assert_none_since();
    let name = digest(content).replace("sha256:", "");
    let kept = fs::read_dir(CODE).unwrap().flatten();
    let kept: Vec<_> = kept
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .collect();
    assert!(kept.is_empty(), "{kept:?}");
    let good = layered("good", WASM, hello());
    import(containerd, &good).exits(0);
    assert_eq!(run(containerd, &good, &[]).ok(), HELLO);
}

#[test]
fn images_that_lie_or_lack_something_are_named_with_their_fault() {
    let containerd = Containerd::start(Version::V2);
    let refused =
        |image: &Image, texts: &[&str], content: &[u8]| refused(&containerd, image, texts, content);
    let content = unseen();
    refused(
        &layered("longer", WASM, content.clone()).edit_manifest(|manifest| {
            let size = &mut manifest["layers"][0]["size"];
            *size = json!(size.as_u64().unwrap() - 1);
        }),
        &[
            "docker.io/lighter/longer:latest",
            "has more than",
            &digest(&content),
        ],
        &content,
    );
    refused(
        &layered("shorter", WASM, content.clone()).edit_manifest(|manifest| {
            let size = &mut manifest["layers"][0]["size"];
            *size = json!(size.as_u64().unwrap() + 1);
        }),
        &[
            "docker.io/lighter/shorter:latest",
            "its descriptor says",
            &digest(&content),
        ],
        &content,
    );
    refused(
        &layered("huge", WASM, content.clone()).edit_manifest(|manifest| {
            manifest["layers"][0]["size"] = json!(5_u64 << 30);
        }),
        &["5120 MiB", "source-bytes"],
        &content,
    );
    refused(
        &layered("precompiled", RUNWASI, content.clone()).edit_manifest(|manifest| {
            manifest["layers"][0]["annotations"] =
                json!({ "runwasi.io/precompiled/wasmtime/1": "x" });
        }),
        &["runwasi.io/precompiled", "ahead of time"],
        &content,
    );
    let helm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    refused(
        &layered("chart", helm, content.clone()),
        &["its form is not understood", helm, RUNWASI],
        &content,
    );
    let text = b"this is no module".to_vec();
    refused(
        &layered("text", WASM, text.clone()),
        &["not a Wasm binary", &digest(&text)],
        &text,
    );
    let elf = [b"\x7fELF".as_slice(), &[0; 60]].concat();
    refused(&layered("elf", WASM, elf.clone()), &[&digest(&elf)], &elf);
}

#[test]
fn a_layer_that_was_collected_is_named() {
    let containerd = Containerd::start(Version::V2);
    let content = unseen();
    let layer = digest(&content);
    let image = layered("gone", WASM, content);
    containerd.import(&image);
    containerd.ctr(["content", "rm", &layer]).output().exits(0);
    run(&containerd, &image, &[]).fails_with(&[
        "docker.io/lighter/gone:latest",
        &layer,
        "not in containerd's content store",
        "pull the image again",
    ]);
    assert!(Path::new(CODE).is_dir());
}

/// An image may have no entrypoint; then there is nothing to mistype either.
#[test]
fn an_image_of_one_module_needs_no_entrypoint() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::new("bare")
        .platform("wasi", "wasm")
        .blob(WASM, hello(), Some("hello.wasm"));
    containerd.import(&image);
    assert_eq!(run(&containerd, &image, &[]).ok(), HELLO);
    assert_eq!(run(&containerd, &image, &["anything"]).ok(), HELLO);
    let two = Image::new("two")
        .platform("wasi", "wasm")
        .blob(WASM, hello(), Some("hello.wasm"))
        .blob(WASM, fs::read(guest("exit")).unwrap(), None);
    containerd.import(&two);
    run(&containerd, &two, &[]).fails_with(&["the container has no entrypoint", "hello.wasm"]);
}
