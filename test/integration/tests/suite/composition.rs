//! Images whose Wasm layers import from each other, composed where they run; and execs of layers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lighter_testkit::{
    Call, Containerd, Cri, Docker, Image, Output, Registry, Version, WASMTIME, digest, guest,
    node_tool,
};
use serde_json::json;

const WASM: &str = "application/wasm";
const COMPOSE: &str = "lighter.dev/compose";

fn read(name: &str) -> Vec<u8> {
    fs::read(guest(name)).unwrap()
}

/// The same component as one that no node has seen before.
pub(crate) fn unseen(component: Vec<u8>) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let nonce = now.as_nanos().to_le_bytes();
    // A custom section without a name.
    let section = [&[0, 17, 0], nonce.as_slice()].concat();
    [component, section].concat()
}

/// A program and what it imports from, which nothing asks to be composed.
fn layers(name: &str) -> Image {
    Image::new(name)
        .platform("wasi", "wasm")
        .blob(WASM, unseen(read("greet")), Some("greet.wasm"))
        .blob(WASM, read("greeter"), Some("greeter.wasm"))
        .entrypoint(["/greet.wasm", "Ann"])
}

/// The same with an annotation of its manifest.
fn composed(name: &str) -> Image {
    layers(name).edit_manifest(|manifest| {
        manifest["annotations"] = json!({ COMPOSE: "true" });
    })
}

/// `ctr run`, with the image's platform and these flags.
fn run(containerd: &Containerd, image: &Image, flags: &[&str]) -> Output {
    containerd
        .run(image)
        .flags(["--platform", &image.platform_name()])
        .flags(flags)
        .output()
}

/// Packs `greet` with a component that it imports from.
fn pack(folder: &Path, form: &str, component: &str, reference: &str) -> String {
    let output = folder.join(format!("{form}-{component}.tar"));
    let [program, component, output] =
        [guest("greet"), guest(component), output].map(|path| path.display().to_string());
    let arguments = [
        "pack",
        &program,
        "--compose",
        &component,
        "--form",
        form,
        "--name",
        reference,
        "--cmd",
        "Ann",
        "-o",
        &output,
    ];
    Call::new(node_tool(), arguments).ok();
    output
}

#[test]
fn ctr_runs_a_composed_image() {
    for version in [Version::V1_7, Version::V2] {
        let containerd = Containerd::start(version);
        let image = composed("composed");
        containerd.import(&image);
        let leaks = containerd.leaks();
        assert_eq!(run(&containerd, &image, &[]).ok(), "Hello, Ann, from C\n");
        // Each of them is a guest's: environment and arguments are the container's.
        let output = run(&containerd, &image, &["--env", "GREETING=Welcome"]);
        assert_eq!(output.ok(), "Welcome, Ann, from C\n");
        leaks.assert_none_since();
    }
}

#[test]
fn what_lighter_packed_is_composed() {
    let containerd = Containerd::start(Version::V2);
    for (form, platform) in [("runwasi", "wasip1/wasm"), ("legacy", "wasi/wasm")] {
        for (component, greeting) in [
            ("greeter", "Hello, Ann, from C\n"),
            ("greeter-python", "Hello, Ann, from Python\n"),
        ] {
            let reference = format!("docker.io/lighter/{form}:{component}");
            let file = pack(containerd.folder(), form, component, &reference);
            containerd.ctr(["images", "import", &file]).ok();
            let output = containerd
                .run_reference(&reference)
                .flags(["--platform", platform])
                .limit(Duration::from_secs(180))
                .output();
            assert_eq!(output.ok(), greeting, "{form}");
        }
    }
}

#[test]
fn docker_runs_a_composed_artifact_and_its_layers() {
    let docker = Docker::start();
    let file = pack(docker.folder(), "artifact", "greeter", "lighter/composed:1");
    docker.docker(["load", "--input", &file]).ok();
    let runtime = format!("--runtime={WASMTIME}");
    let options = ["--network=none", "--platform", "wasip2/wasm", &runtime];
    let run = |first: &[&str], last: &[&str]| {
        let image = ["lighter/composed:1"];
        let first = ["run"].iter().chain(first).chain(&options);
        docker.docker(first.chain(&image).chain(last)).output()
    };
    assert_eq!(run(&["--rm"], &[]).ok(), "Hello, Ann, from C\n");
    assert_eq!(run(&["--rm"], &["Bea"]).ok(), "Hello, Bea, from C\n");
    // Who starts the container may leave it.
    let annotation = format!("{COMPOSE}=false");
    run(&["--rm", "--annotation", &annotation], &[])
        .fails_with(&["cannot be linked", "lighter:composed/greeting@1.0.0"]);
}

#[test]
fn pods_run_composed_images() {
    for version in [Version::V1_7, Version::V2] {
        let cri = Cri::start(version);
        let image = composed("composed");
        cri.import(&image);
        let ended = cri.run(&image.reference(), &[]);
        assert_eq!(
            (ended.code, ended.log.as_str()),
            (0, "Hello, Ann, from C\n")
        );
        let ended = cri.run(&image.reference(), &["/greet.wasm", "Bea"]);
        assert_eq!(ended.log, "Hello, Bea, from C\n");
        // A pod may ask for it too.
        let image = layers("silent");
        cri.import(&image);
        let asks = json!({ COMPOSE: "true" });
        let ended = cri.attempt(&image.reference(), &[], &asks).unwrap();
        assert_eq!(ended.log, "Hello, Ann, from C\n");
    }
}

/// What a container's annotation says counts more than the image's.
#[test]
fn a_container_may_ask_for_it_or_not() {
    let containerd = Containerd::start(Version::V2);
    let (asks, silent) = (composed("asks"), layers("silent"));
    containerd.import(&asks);
    containerd.import(&silent);
    let annotation = |value: &str| ["--annotation".to_owned(), format!("{COMPOSE}={value}")];
    let run = |image: &Image, value: &str| {
        let annotation = annotation(value);
        run(
            &containerd,
            image,
            &annotation.each_ref().map(String::as_str),
        )
    };
    assert_eq!(run(&silent, "true").ok(), "Hello, Ann, from C\n");
    run(&asks, "false").fails_with(&["cannot be linked", "lighter:composed/greeting@1.0.0"]);
    run(&asks, "perhaps").fails_with(&["lighter.dev/compose", "true or false"]);
    let odd = layers("odd").edit_manifest(|manifest| {
        manifest["annotations"] = json!({ COMPOSE: "1" });
    });
    containerd.import(&odd);
    containerd
        .run(&odd)
        .flags(["--platform", "wasi/wasm"])
        .output()
        .fails_with(&["lighter.dev/compose=\"1\"", "true or false"]);
}

#[test]
fn without_the_annotation_the_error_says_that_there_is_one() {
    let containerd = Containerd::start(Version::V2);
    let image = layers("silent").entrypoint(["/other.wasm"]);
    containerd.import(&image);
    run(&containerd, &image, &[]).fails_with(&[
        "several Wasm layers",
        "greet.wasm (sha256:",
        "greeter.wasm (sha256:",
        "lighter.dev/compose=true",
    ]);
}

/// Neither is read when the same layers come again, also of an image with another name.
#[test]
fn layers_are_composed_at_the_first_start_only() {
    let containerd = Containerd::start(Version::V2);
    let program = unseen(read("greet"));
    let (first, second) = (digest(&program), digest(&read("greeter")));
    let image = |name: &str| {
        Image::new(name)
            .platform("wasi", "wasm")
            .blob(WASM, program.clone(), Some("greet.wasm"))
            .blob(WASM, read("greeter"), Some("greeter.wasm"))
            .entrypoint(["/greet.wasm"])
            .edit_manifest(|manifest| {
                manifest["annotations"] = json!({ COMPOSE: "true" });
            })
    };
    let (one, other) = (image("one"), image("other"));
    containerd.import(&one);
    containerd.import(&other);
    assert_eq!(run(&containerd, &one, &[]).ok(), "Hello, nobody, from C\n");
    for layer in [first, second] {
        containerd.ctr(["content", "rm", &layer]).output().exits(0);
    }
    for image in [&one, &other] {
        assert_eq!(run(&containerd, image, &[]).ok(), "Hello, nobody, from C\n");
    }
}

/// Where this node keeps what it has compiled, and what it is at.
fn kept(part: &str) -> Vec<String> {
    let names = fs::read_dir(format!("/var/lib/lighter/artifacts/{part}")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// Demands the error, and that no code of the content was kept.
fn refused(containerd: &Containerd, image: &Image, content: &[u8], texts: &[&str]) {
    containerd.import(image);
    let leaks = containerd.leaks();
    run(containerd, image, &[]).fails_with(texts);
    leaks.assert_none_since();
    let name = digest(content).replace("sha256:", "");
    let kept: Vec<String> = kept("code");
    assert!(!kept.iter().any(|file| file.starts_with(&name)), "{kept:?}");
}

#[test]
fn what_cannot_be_composed_is_named_with_its_layer() {
    let containerd = Containerd::start(Version::V2);
    let ask = |image: Image| {
        image.edit_manifest(|manifest| {
            manifest["annotations"] = json!({ COMPOSE: "true" });
        })
    };
    let program = unseen(read("greet"));
    let with = |name: &str, content: Vec<u8>, title: &str| {
        ask(Image::new(name)
            .platform("wasi", "wasm")
            .blob(WASM, program.clone(), Some("greet.wasm"))
            .blob(WASM, content, Some(title))
            .entrypoint(["/greet.wasm"]))
    };
    let refused = |image: &Image, texts: &[&str]| refused(&containerd, image, &program, texts);
    refused(
        &with("lacks", read("hello-component"), "hello.wasm"),
        &[
            "docker.io/lighter/lacks:latest",
            "neither a layer nor this host provides `lighter:composed/greeting@1.0.0` (imported by greet.wasm)",
        ],
    );
    refused(
        &with("module", read("hello"), "hello.wasm"),
        &["hello.wasm is a core module", "wasm-tools component new"],
    );
    refused(
        &with("damaged", read("greeter")[..5000].to_vec(), "half.wasm"),
        &["half.wasm is truncated"],
    );
    let two = with("two", read("greeter"), "one.wasm").blob(
        WASM,
        unseen(read("greeter")),
        Some("other.wasm"),
    );
    refused(&two, &["both one.wasm and other.wasm export it"]);
    let huge = with("huge", read("greeter"), "greeter.wasm").edit_manifest(|manifest| {
        manifest["annotations"] = json!({ COMPOSE: "true" });
        manifest["layers"][1]["size"] = json!(1_u64 << 30);
    });
    refused(&huge, &["128 MiB", "source-bytes"]);
}

#[test]
fn an_exec_runs_the_layer_that_it_names() {
    let containerd = Containerd::start(Version::V2);
    // What runs imports nothing; what is executed in it does.
    let image = Image::new("tools")
        .platform("wasi", "wasm")
        .blob(WASM, read("sleep-component"), Some("sleep.wasm"))
        .blob(WASM, read("greet"), Some("bin/greet.wasm"))
        .blob(WASM, read("greeter"), Some("greeter.wasm"))
        .entrypoint(["/sleep.wasm", "100"])
        .edit_manifest(|manifest| {
            manifest["annotations"] = json!({ COMPOSE: "true" });
        });
    containerd.import(&image);
    let leaks = containerd.leaks();
    let id = containerd
        .run(&image)
        .flags(["--platform", "wasi/wasm"])
        .detach();
    let exec = |arguments: &[&str]| {
        let exec_id = containerd.next_id();
        let first = ["tasks", "exec", "--exec-id", &exec_id, &id];
        containerd.ctr(first.iter().chain(arguments)).output()
    };
    let greeted = exec(&["/bin/greet.wasm", "Bea"]);
    assert_eq!(greeted.ok(), "Hello, Bea, from C\n");
    assert_eq!(exec(&["bin/greet.wasm"]).ok(), "Hello, nobody, from C\n");
    exec(&["/bin/greet.wasm#other"]).fails_with(&["`other`", "can be started"]);
    exec(&["/greet.wasm"]).fails_with(&[
        "/greet.wasm",
        "no such file or directory",
        "a Wasm container",
        "bin/greet.wasm (sha256:",
    ]);
    containerd.remove(&id);
    leaks.assert_none_since();
}

/// An image of one layer runs whatever its entrypoint is called; an exec does not.
#[test]
fn an_exec_of_something_else_does_not_start_the_program_again() {
    let docker = Docker::start();
    let image = Image::new("one")
        .platform("wasi", "wasm")
        .blob(WASM, read("sleep"), Some("sleep.wasm"))
        .entrypoint(["/whatever", "100"]);
    docker.load(&image);
    let (runtime, reference) = (format!("--runtime={WASMTIME}"), image.reference());
    let options = ["run", "-d", "--name=one", "--network=none", "--platform"];
    docker
        .docker(options.iter().chain(&["wasi/wasm", &runtime, &reference]))
        .ok();
    let exec = |arguments: &[&str]| {
        let first = ["exec", "one"];
        docker.docker(first.iter().chain(arguments)).output()
    };
    assert_eq!(exec(&["/sleep.wasm", "0"]).ok(), "ready\ndone\n");
    // The engine tells it on stdout.
    for (name, why) in [
        ("/whatever", "no such file or directory"),
        ("ls", "not found in $PATH"),
    ] {
        let refused = exec(&[name, "0"]);
        refused.exits(127);
        for text in [name, why, "sleep.wasm (sha256:"] {
            assert!(refused.stdout.contains(text), "{text}: {}", refused.stdout);
        }
    }
    docker.docker(["rm", "--force", "one"]).ok();
}

/// What `wasmtime compile` writes, under the type of a layer that is Wasm.
#[test]
fn a_layer_of_compiled_code_is_refused() {
    let containerd = Containerd::start(Version::V2);
    let artifact = compiled(&guest("hello"));
    let image = Image::new("compiled")
        .platform("wasi", "wasm")
        .blob(WASM, artifact.clone(), Some("hello.wasm"))
        .entrypoint(["/hello.wasm"]);
    let texts = [
        "precompiled Wasmtime artifact",
        "docker.io/lighter/compiled:latest",
    ];
    refused(&containerd, &image, &artifact, &texts);
    // Nor as a part.
    let program = unseen(read("greet"));
    let image = Image::new("part")
        .platform("wasi", "wasm")
        .blob(WASM, program.clone(), Some("greet.wasm"))
        .blob(WASM, artifact.clone(), Some("greeter.wasm"))
        .entrypoint(["/greet.wasm"])
        .edit_manifest(|manifest| {
            manifest["annotations"] = json!({ COMPOSE: "true" });
        });
    let texts = ["greeter.wasm is a precompiled Wasmtime artifact"];
    refused(&containerd, &image, &program, &texts);
}

/// Native code of this very engine and processor.
fn compiled(wasm: &Path) -> Vec<u8> {
    let output = tempfile::NamedTempFile::new().unwrap();
    let compiler = lighter_testkit::shim_folder().join("lighter-compiler");
    let script = r#"exec "$1" command 1073741824 60 1073741824 <"$2" >"$3""#;
    let files = [&compiler, wasm, output.path()].map(|path| path.display().to_string());
    let [compiler, wasm, file] = &files;
    Call::new("sh", ["-c", script, "sh", compiler, wasm, file]).ok();
    fs::read(output.path()).unwrap()
}

/// Pushed and pulled, and larger than the node accepts: refused by what its manifest says, before
/// anything of it is read.
#[test]
fn a_layer_that_is_too_large_is_not_read() {
    const MIB: usize = 1 << 20;
    let registry = Registry::start();
    let containerd = Containerd::start(Version::V2);
    let zeros = vec![0; 96 * MIB];
    let layer = digest(&zeros);
    let image = Image::new("large")
        .platform("wasi", "wasm")
        .blob(WASM, zeros, Some("large.wasm"))
        .entrypoint(["/large.wasm"]);
    containerd.import(&image);
    let reference = registry.reference("large:1");
    containerd
        .ctr(["images", "tag", &image.reference(), &reference])
        .ok();
    let platform = ["--platform", "wasi/wasm"];
    let push = ["images", "push", "--plain-http"];
    containerd
        .ctr(push.iter().chain(&platform).chain(&[reference.as_str()]))
        .ok();
    for name in [image.reference(), reference.clone()] {
        containerd.ctr(["images", "rm", "--sync", &name]).ok();
    }
    let pull = ["images", "pull", "--plain-http"];
    containerd
        .ctr(pull.iter().chain(&platform).chain(&[reference.as_str()]))
        .ok();
    let options = containerd.folder().join("options.toml");
    fs::write(&options, "cache.source-bytes = 67108864").unwrap();
    let run = || {
        containerd
            .run_reference(&reference)
            .flags(platform)
            .flags(["--runtime-config-path", options.to_str().unwrap()])
            .output()
    };
    let leaks = containerd.leaks();
    let began = Instant::now();
    let texts = [
        "it has 96 MiB",
        "64 MiB that this node accepts",
        "source-bytes",
    ];
    run().fails_with(&texts);
    assert!(began.elapsed() < Duration::from_secs(20));
    leaks.assert_none_since();
    // It is not even there any more, and the answer is the same.
    containerd.ctr(["content", "rm", &layer]).output().exits(0);
    run().fails_with(&texts);
    let name = layer.replace("sha256:", "");
    assert!(!kept("code").iter().any(|file| file.starts_with(&name)));
}
