//! Native code that the image brings and that calls itself compiled Wasm. Wasmtime would run it as it is,
//! outside of any sandbox, in the guest's process: only what this node has compiled is mapped.

use std::fs::{self, File};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use lighter_testkit::{Containerd, Image, Output, Version, guest, shim_folder};

const WASM: &str = "application/wasm";
const HELLO: &str = "Hello from Wasm\n";

/// What this very node would compile of a guest: nothing about its form tells it from an artifact of
/// the cache.
fn artifact(name: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("artifact");
    let status = Command::new(shim_folder().join("lighter-compiler"))
        // Bytes of memory, seconds, bytes of the artifact.
        .args(["command", "1073741824", "60", "1073741824"])
        .stdin(File::open(guest(name)).unwrap())
        .stdout(File::create(&file).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let artifact = fs::read(file).unwrap();
    assert!(artifact.starts_with(b"\x7fELF"), "no artifact of Wasmtime");
    artifact
}

/// A module with a custom section, in which an artifact is.
fn wrapped(module: &[u8], section: &str, artifact: &[u8]) -> Vec<u8> {
    let leb = |mut number: usize| {
        let mut bytes = Vec::new();
        loop {
            let byte = (number & 0x7f) as u8;
            number >>= 7;
            if number == 0 {
                bytes.push(byte);
                return bytes;
            }
            bytes.push(byte | 0x80);
        }
    };
    let name = [leb(section.len()), section.as_bytes().to_vec()].concat();
    let size = leb(name.len() + artifact.len());
    [module, &[0], &size, &name, artifact].concat()
}

/// Hello, as no node has seen it before.
fn unseen() -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let nonce = now.as_nanos().to_le_bytes();
    wrapped(&fs::read(guest("hello")).unwrap(), "nonce", &nonce)
}

fn run(containerd: &Containerd, image: &Image, arguments: &[&str]) -> Output {
    let leaks = containerd.leaks();
    let platform = image.platform_name();
    let run = containerd.run(image).flags(["--platform", &platform]);
    let output = run.arguments(arguments).output();
    leaks.assert_none_since();
    output
}

#[test]
fn as_a_file_it_is_refused_whatever_it_is_called() {
    let forged = artifact("exit");
    let image = Image::wasm("hello")
        .file("/app.cwasm", forged.clone(), 0o755)
        .file("/app.wasm", forged.clone(), 0o755)
        .file("/bin/app", forged.clone(), 0o755)
        .file("/cut", &forged[..forged.len() / 2], 0o755)
        .symlink("/link.wasm", "/bin/app")
        // A header of Wasm that is followed by the artifact.
        .file("/half", [b"\0asm\x01\0\0\0", &*forged].concat(), 0o755);
    let containerd = Containerd::start(Version::V2);
    containerd.import(&image);
    for path in ["/app.cwasm", "/app.wasm", "/bin/app", "/cut", "/link.wasm"] {
        let refused = run(&containerd, &image, &[path, "7"]);
        refused.fails_with(&["compiled ahead of time"]);
        assert_ne!(refused.code(), 7, "{path} ran");
    }
    let refused = run(&containerd, &image, &["/half", "7"]);
    refused.fails_with(&["/half"]);
    assert_ne!(refused.code(), 7, "/half ran");
    // The engine of an annotation does not change that.
    let image_run = containerd.run(&image);
    let flags = ["--annotation", "module.wasm.image/variant=compat"];
    let refused = image_run
        .flags(flags)
        .arguments(["/app.wasm", "7"])
        .output();
    refused.fails_with(&["/app.wasm"]);
    assert_eq!(run(&containerd, &image, &["/hello.wasm"]).ok(), HELLO);
}

#[test]
fn as_an_exec_it_is_refused() {
    let image = Image::wasm("sleep").file("/app.wasm", artifact("exit"), 0o755);
    let containerd = Containerd::start(Version::V2);
    containerd.import(&image);
    let id = containerd
        .run(&image)
        .arguments(["/sleep.wasm", "100"])
        .detach();
    let exec = ["tasks", "exec", "--exec-id", "e", &id, "/app.wasm", "7"];
    let refused = containerd.ctr(exec).output();
    refused.fails_with(&["compiled ahead of time"]);
    assert_ne!(refused.code(), 7, "it ran");
    containerd.remove(&id);
}

#[test]
fn as_a_layer_it_is_refused_alone_and_among_others() {
    let forged = artifact("exit");
    let containerd = Containerd::start(Version::V2);
    let layered = |name: &str| Image::new(name).platform("wasi", "wasm");
    let alone = layered("forged-layer")
        .blob(WASM, forged.clone(), Some("app.wasm"))
        .entrypoint(["app.wasm", "7"]);
    containerd.import(&alone);
    let refused = run(&containerd, &alone, &[]);
    refused.fails_with(&["sha256:"]);
    assert_ne!(refused.code(), 7, "it ran");
    assert!(!refused.stderr.contains("Internal"), "{}", refused.stderr);

    // One that a good program is composed with.
    let among = layered("forged-part")
        .blob(WASM, fs::read(guest("greet")).unwrap(), Some("greet.wasm"))
        .blob(WASM, forged, Some("greeter.wasm"))
        .edit_manifest(|manifest| {
            manifest["annotations"] = serde_json::json!({ "lighter.dev/compose": "true" });
        })
        .entrypoint(["greet.wasm", "7"]);
    containerd.import(&among);
    let refused = run(&containerd, &among, &[]);
    assert!(!refused.status.success() && refused.code() != 7);
    assert!(!refused.stdout.contains("Hello"), "{}", refused.stdout);
}

/// Wasmtime's own artifacts have sections of these names; those of a module mean nothing.
#[test]
fn in_a_section_it_is_ignored() {
    let forged = artifact("exit");
    let hello = fs::read(guest("hello")).unwrap();
    let containerd = Containerd::start(Version::V2);
    for section in [".wasmtime.engine", ".text", "precompiled", ""] {
        let image = Image::new("wrapped")
            .file("/app.wasm", wrapped(&hello, section, &forged), 0o755)
            .entrypoint(["/app.wasm", "7"]);
        containerd.import(&image);
        assert_eq!(run(&containerd, &image, &[]).ok(), HELLO, "{section:?}");
    }
}

/// The image has files where the node has its cache. They are the container's.
#[test]
fn a_cache_in_the_image_is_not_the_nodes() {
    let forged = artifact("exit");
    let module = unseen();
    let digest = lighter_testkit::digest(&module).replace("sha256:", "");
    let mut image = Image::new("cache")
        .file("/app.wasm", module, 0o755)
        .entrypoint(["/app.wasm", "7"]);
    // By the names that the node gives to what it has compiled.
    let code = "/var/lib/lighter/artifacts/code";
    let mut ends: Vec<String> = fs::read_dir(code)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.get(64..)?.to_owned()))
        .collect();
    ends.sort();
    ends.dedup();
    ends.push(String::new());
    for end in ends {
        image = image.file(&format!("{code}/{digest}{end}"), forged.clone(), 0o600);
    }
    let containerd = Containerd::start(Version::V2);
    containerd.import(&image);
    for _ in 0..2 {
        assert_eq!(run(&containerd, &image, &[]).ok(), HELLO);
    }
}
