use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::pack::output::into_archive;

fn module() -> Vec<u8> {
    b"\0asm\x01\0\0\0".to_vec()
}

fn component() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (import "wasi:cli/stdout@0.2.0" (instance))
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $run (export "run" (func $f)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#,
    )
    .unwrap()
}

fn wasm(path: &str, bytes: Vec<u8>) -> Wasm {
    let (world, interface) = lighter_wasm::inspect(&bytes).unwrap();
    Wasm {
        path: path.parse().unwrap(),
        bytes,
        world,
        interface,
    }
}

fn recipe(form: Form, bytes: Vec<u8>) -> Recipe {
    Recipe {
        form,
        program: Program::Wasm(wasm("/app.wasm", bytes)),
        components: Vec::new(),
        files: Layer::default(),
        name: Some("me/app:1".parse().unwrap()),
        process: Process::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        architecture: "amd64".to_owned(),
        created: SystemTime::UNIX_EPOCH,
    }
}

/// A Linux program that another file of the image belongs to.
fn native() -> Recipe {
    let mut recipe = full(Form::Linux, module());
    recipe.form = Form::Native;
    recipe.program = Program::Native(Native {
        path: "/tool".parse().unwrap(),
        bytes: b"\x7fELF".to_vec(),
        architecture: "amd64",
        interpreter: None,
    });
    recipe.process.entrypoint = vec!["/tool".to_owned(), "#".to_owned()];
    recipe
}

/// All that can be set.
fn full(form: Form, bytes: Vec<u8>) -> Recipe {
    let mut recipe = recipe(form, bytes);
    recipe.created += Duration::from_secs(1_700_000_000);
    recipe.annotations = pairs(&[("b", "2"), ("a", "1"), ("run.oci.handler", "wasm")]);
    recipe.labels = pairs(&[("z", "26"), ("y", "25"), ("x", "24")]);
    recipe.process = Process {
        entrypoint: ["/app.wasm", "--quick"].map(str::to_owned).to_vec(),
        command: vec!["argument".to_owned()],
        environment: vec![
            ("B".to_owned(), "2".to_owned()),
            ("A".to_owned(), String::new()),
        ],
        folder: Some("/work/here".parse().unwrap()),
        user: Some("1000:1000".to_owned()),
    };
    if form.program_layer().is_none() {
        let path = "/etc/app/settings".parse().unwrap();
        recipe
            .files
            .file(&path, 0o600, b"key=value".to_vec())
            .unwrap();
    }
    recipe
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

const FORMS: [Form; 5] = [
    Form::Linux,
    Form::Wasi,
    Form::Artifact,
    Form::Runwasi,
    Form::Legacy,
];

/// An archive as a client reads it.
struct Read(BTreeMap<String, Vec<u8>>);

impl Read {
    fn new(recipe: &Recipe) -> Self {
        let mut bytes = Vec::new();
        into_archive(&image(recipe).unwrap(), &mut bytes).unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            assert!(files.insert(name, content).is_none(), "a name twice");
        }
        Self(files)
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.0[name]).unwrap()
    }

    /// The blob of a descriptor, which has to be true.
    fn blob(&self, descriptor: &Value) -> &[u8] {
        let digest = descriptor["digest"].as_str().unwrap();
        let bytes = &self.0[&digest.replace("sha256:", "blobs/sha256/")];
        assert_eq!(sha256(bytes).to_string(), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    fn manifest(&self) -> Value {
        let index = self.json("index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        serde_json::from_slice(self.blob(&index["manifests"][0])).unwrap()
    }

    fn config(&self) -> Value {
        serde_json::from_slice(self.blob(&self.manifest()["config"])).unwrap()
    }

    fn layer(&self) -> &[u8] {
        let manifest = self.manifest();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
        self.blob(&manifest["layers"][0])
    }
}

/// These digests change when an image does, and with them every image that users have built:
/// say so in the change log.
#[test]
fn the_digests_are_those_of_the_last_release() {
    // A component that no release of an assembler makes another way.
    let empty = b"\0asm\x0d\0\x01\0".to_vec();
    let wasm = FORMS.map(|form| [recipe(form, module()), full(form, empty.clone())]);
    let recipes = wasm.into_iter().flatten().chain([native()]);
    let digests: Vec<String> = recipes
        .map(|recipe| {
            let image = image(&recipe).unwrap();
            let mut archive = Vec::new();
            into_archive(&image, &mut archive).unwrap();
            format!("{} {}", image.manifest_digest().digest(), hex(&archive))
        })
        .collect();
    let golden: Vec<&str> = include_str!("golden.txt").lines().collect();
    assert_eq!(digests, golden);
}

#[test]
fn each_form_has_its_types() {
    let oci = |name: &str| format!("application/vnd.oci.image.{name}");
    let config = oci("config.v1+json");
    for (form, os, config_type, layer_type) in [
        (Form::Linux, "linux", config.as_str(), oci("layer.v1.tar")),
        (Form::Wasi, "wasi", &config, oci("layer.v1.tar")),
        (
            Form::Artifact,
            "wasip1",
            "application/vnd.wasm.config.v0+json",
            "application/wasm".to_owned(),
        ),
        (
            Form::Runwasi,
            "wasip1",
            &config,
            "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm".to_owned(),
        ),
        (
            Form::Legacy,
            "wasi",
            &config,
            "application/vnd.wasm.content.layer.v1+wasm".to_owned(),
        ),
    ] {
        let read = Read::new(&recipe(form, module()));
        let manifest = read.manifest();
        assert_eq!(manifest["config"]["mediaType"], config_type, "{form:?}");
        assert_eq!(manifest["layers"][0]["mediaType"], layer_type, "{form:?}");
        assert_eq!(read.config()["os"], os, "{form:?}");
        let entry = &read.json("index.json")["manifests"][0];
        assert_eq!(entry.get("platform"), None);
        let annotations = &entry["annotations"];
        assert_eq!(
            annotations["io.containerd.image.name"],
            "docker.io/me/app:1"
        );
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "1");
        let raw = form.program_layer().is_some();
        assert_eq!(read.layer() == module(), raw, "{form:?}");
        assert_eq!(read.0.contains_key("manifest.json"), !raw, "{form:?}");
        if raw {
            assert_eq!(manifest["layers"][0]["annotations"][TITLE], "app.wasm");
        }
        let diffs = &read.config()["rootfs"]["diff_ids"];
        match form {
            Form::Artifact => {
                assert_eq!(read.config()["layerDigests"].as_array().unwrap().len(), 1)
            }
            Form::Runwasi | Form::Legacy => assert_eq!(*diffs, json!([])),
            _ => assert_eq!(diffs[0], manifest["layers"][0]["digest"]),
        }
    }
}

#[test]
fn the_process_is_in_the_config() {
    for form in FORMS {
        let read = Read::new(&full(form, component()));
        let config = read.config();
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        let process = &config["config"];
        assert_eq!(process["Entrypoint"], json!(["/app.wasm", "--quick"]));
        assert_eq!(process["Cmd"], json!(["argument"]));
        assert_eq!(process["Env"], json!(["B=2", "A="]));
        assert_eq!(process["WorkingDir"], "/work/here");
        assert_eq!(process["User"], "1000:1000");
        assert_eq!(process["Labels"]["y"], "25");
        assert_eq!(read.manifest()["annotations"]["run.oci.handler"], "wasm");
    }
    let process = Read::new(&recipe(Form::Linux, module())).config();
    assert_eq!(process["config"], json!({ "Entrypoint": ["/app.wasm"] }));
}

#[test]
fn the_artifact_says_what_the_component_needs() {
    let config = Read::new(&full(Form::Artifact, component())).config();
    assert_eq!(config["architecture"], "wasm");
    assert_eq!(config["os"], "wasip2");
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["layerDigests"], json!([sha256(&component())]));
    let component = &config["component"];
    assert_eq!(component["exports"], json!(["wasi:cli/run@0.2.0"]));
    assert_eq!(component["imports"], json!(["wasi:cli/stdout@0.2.0"]));
    let module = Read::new(&recipe(Form::Artifact, module())).config();
    assert!(module.get("component").is_none());
}

#[test]
fn what_docker_reads_names_the_same_blobs() {
    let read = Read::new(&full(Form::Linux, component()));
    let docker = read.json("manifest.json");
    assert_eq!(docker[0]["RepoTags"], json!(["docker.io/me/app:1"]));
    let manifest = read.manifest();
    for (path, descriptor) in [
        (&docker[0]["Config"], &manifest["config"]),
        (&docker[0]["Layers"][0], &manifest["layers"][0]),
    ] {
        let digest = descriptor["digest"].as_str().unwrap();
        assert_eq!(*path, digest.replace("sha256:", "blobs/sha256/"));
    }
}

#[test]
fn what_a_form_has_no_place_for_is_refused() {
    for form in [Form::Artifact, Form::Runwasi, Form::Legacy] {
        let mut recipe = recipe(form, module());
        let path = "/a".parse().unwrap();
        recipe.files.file(&path, 0o644, Vec::new()).unwrap();
        let error = image(&recipe).unwrap_err();
        assert!(error.contains("--form linux"), "{error}");
    }
}

#[test]
fn an_entrypoint_that_is_not_in_the_image_is_refused() {
    let with = |program: &str| {
        let mut recipe = recipe(Form::Linux, module());
        recipe.process.entrypoint = vec![program.to_owned()];
        image(&recipe)
    };
    for right in ["/app.wasm", "/app.wasm#main", "app.wasm"] {
        assert_eq!(with(right).unwrap().names_function, right.contains('#'));
    }
    for wrong in ["/ap.wasm", "/", "/../app.wasm", "/app.wasm/"] {
        let error = with(wrong).unwrap_err();
        assert!(
            error.contains("/app.wasm") && error.contains(wrong),
            "{error}"
        );
    }
}

#[test]
fn a_linux_program_is_an_image_as_others_are() {
    let mut recipe = native();
    recipe.architecture = "arm64".to_owned();
    let read = Read::new(&recipe);
    let config = read.config();
    assert_eq!([&config["os"], &config["architecture"]], ["linux", "arm64"]);
    assert_eq!(config["config"]["Entrypoint"], json!(["/tool", "#"]));
    let mut layer = tar::Archive::new(read.layer());
    let files: BTreeMap<String, u32> = layer
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mode().unwrap())
        })
        .collect();
    assert_eq!((files["tool"], files["etc/app/settings"]), (0o755, 0o600));
    // A function is named of Wasm only.
    recipe.process.entrypoint = vec!["/tool#function".to_owned()];
    let error = image(&recipe).unwrap_err();
    assert!(error.contains("no file /tool#function"), "{error}");
}

#[test]
fn a_linux_program_without_its_interpreter_is_refused() {
    let mut recipe = native();
    let loader = "/lib/ld.so";
    let Program::Native(program) = &mut recipe.program else {
        panic!("it is a Linux program")
    };
    program.interpreter = Some(loader.to_owned());
    let error = image(&recipe).unwrap_err();
    assert!(
        error.contains(loader) && error.contains("--file"),
        "{error}"
    );
    let path = loader.parse().unwrap();
    recipe.files.file(&path, 0o755, Vec::new()).unwrap();
    image(&recipe).unwrap();
}

/// A component that imports and exports these.
fn linked(imports: &[&str], export: &str) -> Vec<u8> {
    let imports: String = imports
        .iter()
        .map(|name| format!(r#"(import "{name}" (instance))"#))
        .collect();
    let text = format!(r#"(component {imports} (instance $i) (export "{export}" (instance $i)))"#);
    wat::parse_str(text).unwrap()
}

fn composed(form: Form) -> Recipe {
    let app = linked(
        &["acme:lib/a", "wasi:cli/stdout@0.2.0"],
        "wasi:cli/run@0.2.0",
    );
    let mut recipe = recipe(form, app);
    let a = linked(&["acme:lib/b", "wasi:io/streams@0.2.0"], "acme:lib/a");
    let b = linked(&["wasi:io/streams@0.2.0"], "acme:lib/b");
    recipe.components = vec![wasm("/a.wasm", a), wasm("/b.wasm", b)];
    recipe
}

#[test]
fn components_are_layers_with_titles() {
    for form in [Form::Artifact, Form::Runwasi, Form::Legacy] {
        let recipe = composed(form);
        let read = Read::new(&recipe);
        let manifest = read.manifest();
        assert_eq!(manifest["annotations"], json!({ COMPOSE: "true" }));
        let layers = manifest["layers"].as_array().unwrap();
        for (layer, wasm) in layers.iter().zip(programs(&recipe)) {
            assert_eq!(layer["mediaType"], form.program_layer().unwrap());
            assert_eq!(read.blob(layer), wasm.bytes);
            assert_eq!(layer["annotations"][TITLE], wasm.path.relative());
        }
        assert_eq!(layers.len(), 3);
        let config = read.config();
        assert_eq!(config["config"]["Entrypoint"], json!(["/app.wasm"]));
        if form == Form::Artifact {
            assert_eq!(config["layerDigests"].as_array().unwrap().len(), 3);
            let component = &config["component"];
            assert_eq!(component["exports"], json!(["wasi:cli/run@0.2.0"]));
            assert_eq!(
                component["imports"],
                json!(["wasi:cli/stdout@0.2.0", "wasi:io/streams@0.2.0"])
            );
        }
    }
}

#[test]
fn what_cannot_be_composed_is_refused() {
    let error = image(&composed(Form::Linux)).unwrap_err();
    assert!(error.contains("--form artifact"), "{error}");
    let refused = |change: &dyn Fn(&mut Recipe), text: &str| {
        let mut recipe = composed(Form::Artifact);
        change(&mut recipe);
        let error = image(&recipe).unwrap_err();
        assert!(error.contains(text), "{error}");
    };
    refused(
        &|recipe| recipe.components[1].path = "/app.wasm".parse().unwrap(),
        "two components are called app.wasm",
    );
    refused(
        &|recipe| recipe.components[1].bytes = recipe.components[0].bytes.clone(),
        "b.wasm has the same contents",
    );
    refused(
        &|recipe| recipe.process.entrypoint = vec!["/a.wasm".to_owned()],
        "has to be /app.wasm",
    );
    refused(
        &|recipe| recipe.annotations = pairs(&[(COMPOSE, "false")]),
        "different things",
    );
    let mut recipe = composed(Form::Artifact);
    recipe.process.entrypoint = vec!["app.wasm#run".to_owned()];
    image(&recipe).unwrap();
}

fn texts() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("\\PC{1,8}", "\\PC{0,8}", 0..6)
}

proptest! {
    #[test]
    fn the_same_recipe_gives_the_same_bytes(
        labels in texts(), annotations in texts(), content in proptest::collection::vec(any::<u8>(), 0..64),
        form in proptest::sample::select(FORMS.to_vec()),
    ) {
        let recipe = || {
            let mut bytes = module();
            // A custom section of any content.
            bytes.extend([0, content.len() as u8 + 2, 1, b'n']);
            bytes.extend(&content);
            let mut recipe = recipe(form, bytes);
            recipe.annotations.clone_from(&annotations);
            recipe.labels.clone_from(&labels);
            recipe
        };
        let archive = || {
            let mut bytes = Vec::new();
            into_archive(&image(&recipe()).unwrap(), &mut bytes).unwrap();
            bytes
        };
        // Hashed maps differ from one to the next in the same process too.
        prop_assert_eq!(archive(), archive());
        // Every descriptor is true, and the layer and texts are whole.
        let read = Read::new(&recipe());
        prop_assert!(read.layer().windows(8).any(|part| part == module()));
        let written = &read.manifest()["annotations"];
        for (key, value) in &annotations {
            prop_assert_eq!(&written[key], value);
        }
        let config = read.config();
        for (key, value) in &labels {
            prop_assert_eq!(&config["config"]["Labels"][key], value);
        }
    }
}
