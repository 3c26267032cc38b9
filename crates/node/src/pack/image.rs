//! From what a user wants to the blobs of an image. Pure: the same recipe gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use lighter_image::annotations::COMPOSE;
use lighter_image::media_type::WASM_CONFIG;
use lighter_wasm::World;
use oci_spec::distribution::Reference;
use oci_spec::image::{
    Config, ConfigBuilder, Descriptor, Digest, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Platform, PlatformBuilder, RootFsBuilder,
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::pack::form::Form;
use crate::pack::layer::Layer;
use crate::pack::path::ImagePath;
use crate::pack::program::{Native, Program, Wasm};

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub form: Form,
    pub program: Program,
    /// Components that the program is composed with where it runs.
    pub components: Vec<Wasm>,
    /// Other files.
    pub files: Layer,
    pub name: Option<Reference>,
    pub process: Process,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Of a Linux image.
    pub architecture: String,
    pub created: SystemTime,
}

/// What the image's config says of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub folder: Option<ImagePath>,
    pub user: Option<String>,
}

/// An image as files of the OCI layout.
#[derive(Clone, Debug)]
pub struct Image {
    /// `linux/amd64`
    pub platform: String,
    /// Whether the entrypoint says which function of the program is called.
    pub names_function: bool,
    manifest: Digest,
    /// The manifest, what it names, and nothing else.
    blobs: Vec<(Digest, Vec<u8>)>,
    index: Vec<u8>,
    /// `manifest.json`: what a Docker Engine without containerd's image store reads instead of
    /// the index. It knows layers of files only.
    docker: Option<Vec<u8>>,
}

impl Image {
    /// What a registry has to hold.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// The digest that a registry has the image under.
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest
    }

    /// The files of the OCI layout, those first that say what the others are.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let first = [
            ("oci-layout".to_owned(), LAYOUT),
            ("index.json".to_owned(), self.index.as_slice()),
        ];
        let blobs = self.blobs.iter().rev();
        let blobs = blobs.map(|(digest, bytes)| (blob_path(digest), bytes.as_slice()));
        first.into_iter().chain(blobs)
    }

    /// The same, and what else an archive has.
    pub fn archive_files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let docker = self.docker.as_deref();
        docker
            .map(|bytes| ("manifest.json".to_owned(), bytes))
            .into_iter()
            .chain(self.files())
    }
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Makes the image.
pub fn image(recipe: &Recipe) -> Result<Image, String> {
    let mut blobs = Blobs::default();
    let platform = platform(recipe);
    let layers = add_layers(recipe, &mut blobs)?;
    let config = add_config(recipe, &platform, &layers, &mut blobs)?;
    let has_files = recipe.form.program_layer().is_none();
    let docker = has_files.then(|| docker_manifest(recipe, &config, &layers));
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers);
    let mut annotations = recipe.annotations.clone();
    if !recipe.components.is_empty() {
        let asked = annotations.insert(COMPOSE.to_owned(), "true".to_owned());
        if asked.is_some_and(|asked| asked != "true") {
            return Err(format!(
                "--compose and --annotation {COMPOSE} say different things: leave one of them out"
            ));
        }
    }
    if !annotations.is_empty() {
        manifest = manifest.annotations(annotations.into_iter().collect::<Map>());
    }
    let manifest = manifest.build().map_err(|error| error.to_string())?;
    let mut manifest = blobs.add(MediaType::ImageManifest, json_bytes(&manifest));
    let digest = manifest.digest().clone();
    // The index names no platform: where it is not this machine's, `ctr images import` leaves the
    // image out, and it is the only one. The config has it.
    manifest.set_annotations(recipe.name.as_ref().map(names));
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests([manifest])
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Image {
        platform: format!("{}/{}", platform.os(), platform.architecture()),
        names_function: entrypoint(recipe)[0].contains('#'),
        manifest: digest,
        blobs: blobs.0,
        index: json_bytes(&index),
        docker,
    })
}

fn add_layers(recipe: &Recipe, blobs: &mut Blobs) -> Result<Vec<Descriptor>, String> {
    let title = recipe.form.title();
    let Some(layer_type) = recipe.form.program_layer() else {
        if !recipe.components.is_empty() {
            return Err(format!(
                "the layers of this {title} are files, and layers are composed: --compose is for --form artifact, runwasi and legacy"
            ));
        }
        let tar = files(recipe)?.tar(recipe.created)?;
        return Ok(vec![blobs.add(MediaType::ImageLayer, tar)]);
    };
    if !recipe.files.is_empty() {
        return Err(format!(
            "the layer of this {title} is the program and nothing else: --file is for --form linux, wasi and native"
        ));
    }
    let mut paths = BTreeSet::new();
    let mut layers = Vec::new();
    for wasm in programs(recipe) {
        if !paths.insert(&wasm.path) {
            return Err(format!(
                "two components are called {}, and errors could not say which is meant: rename one of them",
                wasm.path.relative()
            ));
        }
        let mut layer = blobs.add(layer_type.into(), wasm.bytes.clone());
        // As other tools name the file of a layer.
        let title = wasm.path.relative().to_owned();
        layer.set_annotations(Some([(TITLE.to_owned(), title)].into()));
        if layers
            .iter()
            .any(|other: &Descriptor| other.digest() == layer.digest())
        {
            return Err(format!(
                "{} has the same contents as another component: leave it out",
                wasm.path.relative()
            ));
        }
        layers.push(layer);
    }
    // Nothing else picks one of several.
    let named = entrypoint(recipe).swap_remove(0);
    let name = named.split('#').next().unwrap_or_default();
    let is_first = name.trim_start_matches('/') == recipe.program.path().relative();
    if layers.len() > 1 && !is_first {
        return Err(format!(
            "--entrypoint {named}: of several layers it picks one, and has to be {}",
            recipe.program.path()
        ));
    }
    Ok(layers)
}

/// The Wasm program and what it is composed with.
fn programs(recipe: &Recipe) -> impl Iterator<Item = &Wasm> {
    let program = recipe.program.wasm();
    program.into_iter().chain(&recipe.components)
}

fn add_config(
    recipe: &Recipe,
    platform: &Platform,
    layers: &[Descriptor],
    blobs: &mut Blobs,
) -> Result<Descriptor, String> {
    let (config_type, bytes) = match recipe.form {
        Form::Artifact => (
            WASM_CONFIG.into(),
            json_bytes(&artifact_config(recipe, platform, layers)?),
        ),
        _ => (
            MediaType::ImageConfig,
            json_bytes(&image_config(recipe, platform, layers)?),
        ),
    };
    Ok(blobs.add(config_type, bytes))
}

type Map = std::collections::HashMap<String, String>;

const TITLE: &str = "org.opencontainers.image.title";

/// The names that containerd (the first) and tools for the OCI layout look for.
fn names(reference: &Reference) -> Map {
    let tag = reference.tag().unwrap_or_default();
    [
        ("io.containerd.image.name", reference.to_string()),
        ("org.opencontainers.image.ref.name", tag.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

#[derive(Default)]
struct Blobs(Vec<(Digest, Vec<u8>)>);

impl Blobs {
    fn add(&mut self, media_type: MediaType, bytes: Vec<u8>) -> Descriptor {
        let digest = sha256(&bytes);
        let descriptor = Descriptor::new(media_type, bytes.len() as u64, digest.clone());
        self.0.push((digest, bytes));
        descriptor
    }
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex(bytes));
    text.parse().expect("64 digits are a SHA-256")
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.digest())
}

/// Keys are sorted on the way through a [`serde_json::Value`]: the maps of oci-spec are hashed,
/// and in another order each time.
fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_value(value)
        .and_then(|value| serde_json::to_vec(&value))
        .expect("texts and numbers under texts are JSON")
}

fn platform(recipe: &Recipe) -> Platform {
    let component = component(recipe).is_some();
    let (os, architecture) = match recipe.form {
        Form::Linux | Form::Native => ("linux", recipe.architecture.as_str()),
        Form::Wasi | Form::Legacy => ("wasi", "wasm"),
        // The specification has no wasip3.
        Form::Artifact if component => ("wasip2", "wasm"),
        // runwasi has it so for components too.
        Form::Artifact | Form::Runwasi => ("wasip1", "wasm"),
    };
    PlatformBuilder::default()
        .os(os)
        .architecture(architecture)
        .build()
        .expect("both fields are set")
}

/// All files of the image.
fn files(recipe: &Recipe) -> Result<Layer, String> {
    let mut layer = recipe.files.clone();
    let program = &recipe.program;
    layer.file(program.path(), 0o755, program.bytes().to_vec())?;
    if let Program::Native(native) = program {
        check_interpreter(native, &layer)?;
    }
    if let Some(folder) = &recipe.process.folder {
        layer.folder(folder)?;
    }
    let program = entrypoint(recipe).swap_remove(0);
    let path = match recipe.form {
        Form::Native => program.as_str(),
        _ => program.split('#').next().unwrap_or_default(),
    };
    // A relative path is found from the working directory, which the container may change.
    if path.starts_with('/') && !path.parse().is_ok_and(|path| layer.has_file(&path)) {
        return Err(format!(
            "--entrypoint {program}: the image has no file {path}; the program is {}",
            recipe.program.path()
        ));
    }
    Ok(layer)
}

/// Without its interpreter a program does not start, and Linux calls the program itself missing.
fn check_interpreter(native: &Native, layer: &Layer) -> Result<(), String> {
    match &native.interpreter {
        Some(path) if !path.parse().is_ok_and(|path| layer.has_file(&path)) => Err(format!(
            "{} is linked dynamically and the image has not its interpreter {path}: link it statically, or add that \
             and its libraries by --file",
            native.path.relative()
        )),
        _ => Ok(()),
    }
}

fn entrypoint(recipe: &Recipe) -> Vec<String> {
    match recipe.process.entrypoint.as_slice() {
        [] => vec![recipe.program.path().to_string()],
        arguments => arguments.to_vec(),
    }
}

fn image_config(
    recipe: &Recipe,
    platform: &Platform,
    layers: &[Descriptor],
) -> Result<impl Serialize + use<>, String> {
    let unpacked = match recipe.form.program_layer() {
        None => layers
            .iter()
            .map(|layer| layer.digest().to_string())
            .collect(),
        // What is no tar of files is not unpacked, and clients compare the numbers of both.
        Some(_) => Vec::new(),
    };
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(unpacked);
    let rootfs = rootfs.build().map_err(|error| error.to_string())?;
    ImageConfigurationBuilder::default()
        .os(platform.os().clone())
        .architecture(platform.architecture().clone())
        .created(timestamp(recipe.created))
        .config(process_config(recipe, layers)?)
        .rootfs(rootfs)
        .build()
        .map_err(|error| error.to_string())
}

fn process_config(recipe: &Recipe, layers: &[Descriptor]) -> Result<Config, String> {
    let process = &recipe.process;
    let mut labels = recipe.labels.clone();
    if matches!(recipe.form, Form::Runwasi | Form::Legacy) {
        // Clients name an image by its config, which else would be that of any other program.
        let key = "containerd.runwasi.layers".to_owned();
        let digests: String = layers.iter().map(|layer| layer.digest().digest()).collect();
        let digest = hex(digests.as_bytes());
        labels.entry(key).or_insert(digest);
    }
    let mut config = ConfigBuilder::default().entrypoint(entrypoint(recipe));
    if !process.command.is_empty() {
        config = config.cmd(process.command.clone());
    }
    if !process.environment.is_empty() {
        let pairs = process.environment.iter();
        let lines = pairs.map(|(name, value)| format!("{name}={value}"));
        config = config.env(lines.collect::<Vec<_>>());
    }
    if let Some(folder) = &process.folder {
        config = config.working_dir(folder.to_string());
    }
    if let Some(user) = &process.user {
        config = config.user(user.clone());
    }
    if !labels.is_empty() {
        config = config.labels(labels.into_iter().collect::<Map>());
    }
    config.build().map_err(|error| error.to_string())
}

/// The program, if it is a component.
fn component(recipe: &Recipe) -> Option<&Wasm> {
    let program = recipe.program.wasm();
    program.filter(|wasm| wasm.world != World::Module)
}

/// The config that the CNCF's specification asks for. It says what the program needs, not how it
/// runs; `config` does, in the words of an image's config: containerd's CRI and Docker read it
/// there and without it have no command, and wkg passes over it.
fn artifact_config(
    recipe: &Recipe,
    platform: &Platform,
    layers: &[Descriptor],
) -> Result<serde_json::Value, String> {
    let component = component(recipe)
        .map(|wasm| json!({ "exports": wasm.interface.exports, "imports": imports(recipe) }));
    let mut config = json!({
        "created": timestamp(recipe.created),
        "architecture": platform.architecture(),
        "os": platform.os(),
        "layerDigests": layers.iter().map(Descriptor::digest).collect::<Vec<_>>(),
        "config": process_config(recipe, layers)?,
    });
    if let Some(component) = component {
        config["component"] = component;
    }
    Ok(config)
}

/// What the program imports, with all that it is composed with, and that none of them exports.
fn imports(recipe: &Recipe) -> Vec<&String> {
    let mut names: Vec<&String> = Vec::new();
    for wasm in programs(recipe) {
        for (_, name) in &wasm.interface.imports {
            let mut others = programs(recipe).filter(|other| other.path != wasm.path);
            if !names.contains(&name) && !others.any(|other| other.interface.exports.contains(name))
            {
                names.push(name);
            }
        }
    }
    names
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn docker_manifest(recipe: &Recipe, config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let names: Vec<String> = recipe.name.iter().map(Reference::to_string).collect();
    json_bytes(&json!([{
        "Config": blob_path(config.digest()),
        "RepoTags": names,
        "Layers": layers.iter().map(|layer| blob_path(layer.digest())).collect::<Vec<_>>(),
    }]))
}

#[cfg(test)]
mod tests;
