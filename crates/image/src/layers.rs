//! Which layer of an image is its program, for images that hold Wasm as it is and not in an
//! archive of files.
//!
//! Everything here is pure, and reads what a stranger wrote: indexes, manifests and configs. No
//! part of them is believed that was not compared with a digest ([`Verifier`]), and none is
//! longer than [`MAX_DOCUMENT`].

mod digest;

use std::collections::HashSet;
use std::fmt;

use oci_spec::image::{ANNOTATION_TITLE, Arch, Descriptor, ImageIndex, ImageManifest, Os};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use self::digest::hexadecimal;
pub use self::digest::{Content, Verifier};
use crate::annotations::COMPOSE;
use crate::media_type;

/// Longest index, manifest or config that is read; registries take no longer manifests.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// As many images of an index are looked at.
const MAX_CANDIDATES: usize = 16;

/// As many layers are composed: more is no program that anybody has written, and the work grows
/// with the square.
const MAX_COMPOSED: usize = 64;

/// What BuildKit writes on the entry of an index that describes another one.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// How runwasi labels code that it has compiled, and which shim may run it unchecked.
const PRECOMPILED: &str = "runwasi.io/precompiled";

/// Why an image has no program that can be run. Each text says what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Not the JSON that it should be.
    #[error("its {what} cannot be read: {fault}")]
    Malformed {
        /// Index, manifest or config.
        what: &'static str,
        /// What the parser says.
        fault: String,
    },
    /// A document that is an index for one reader and a manifest for another.
    #[error("its manifest has both `manifests` and `layers`, so that it can be read as two images")]
    Ambiguous,
    /// A digest that is none, or by another hash.
    #[error("it names content by {0}; digests are `sha256:` and 64 hexadecimal digits")]
    Digest(String),
    /// Longer than anything of its kind.
    #[error("its {what} says that it has {size} bytes; at most {MAX_DOCUMENT} are read")]
    TooLarge {
        /// Index, manifest or config.
        what: &'static str,
        /// What its descriptor says.
        size: u64,
    },
    /// More bytes than promised.
    #[error("the content {digest} has more than the {promised} bytes that its descriptor says")]
    TooLong {
        /// Which content.
        digest: String,
        /// The descriptor's size.
        promised: u64,
    },
    /// Fewer bytes than promised.
    #[error("the content {digest} has {length} bytes, its descriptor says {promised}")]
    TooShort {
        /// Which content.
        digest: String,
        /// The descriptor's size.
        promised: u64,
        /// What there is.
        length: u64,
    },
    /// Other bytes than promised.
    #[error("the bytes of the content {0} have another digest")]
    OtherBytes(String),
    /// An index of images none of which can be meant.
    #[error("its index has no image for Wasm or for this machine; it has {found}")]
    NoPlatform {
        /// The platforms.
        found: String,
    },
    /// An index with several images of Wasm layers.
    #[error(
        "its index has several images with Wasm layers ({found}), and containerd does not say which of them the container is made of; name the image by the digest of one"
    )]
    ManyPlatforms {
        /// The platforms.
        found: String,
    },
    /// No layer is Wasm, and not all are files.
    #[error(
        "its form is not understood: it has a config of type {config} and layers of type {layers}; understood are images of files with a .wasm as entrypoint, and layers of type {}",
        media_type::WASM_LAYERS.join(", ")
    )]
    NotUnderstood {
        /// Type of the config.
        config: String,
        /// Types of the layers.
        layers: String,
    },
    /// Several programs and nothing that picks one.
    #[error(
        "it has several Wasm layers, and {asked}; it has {layers}. The entrypoint has to be the title of one (annotation {ANNOTATION_TITLE} of the layer), also if they are components that import each other and shall be composed (annotation {COMPOSE}=true)"
    )]
    ManyLayers {
        /// What the entrypoint says.
        asked: String,
        /// The layers.
        layers: String,
    },
    /// An exec of something that is no file and no layer.
    #[error(
        "no Wasm layer has this title (annotation {ANNOTATION_TITLE} of the layer); it has {layers}"
    )]
    NoSuchLayer {
        /// The layers.
        layers: String,
    },
    /// An annotation with a value that means nothing.
    #[error("its manifest has the annotation {COMPOSE}={0:?}: it is true or false")]
    Annotation(String),
    /// More components than can be meant.
    #[error("it has {0} Wasm layers to compose; at most {MAX_COMPOSED} are")]
    ManyComposed(usize),
    /// A layer that says it holds native code.
    #[error(
        "its layer {layer} is annotated with {annotation}: code that was compiled ahead of time; only code that this node compiled itself is run, so ship the .wasm"
    )]
    Precompiled {
        /// The layer.
        layer: String,
        /// The annotation.
        annotation: String,
    },
}

/// One image of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its manifest.
    pub manifest: Content,
    /// Its platform as `os/architecture`, or nothing.
    pub platform: String,
}

/// What an image's name stands for.
#[derive(Clone, Debug)]
pub enum Document {
    /// Images of several platforms.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

impl Document {
    /// Reads an index or a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormError> {
        #[derive(Deserialize)]
        struct Members {
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let members: Members = parse("manifest", bytes)?;
        match (members.manifests, members.layers) {
            (Some(_), Some(_)) => Err(FormError::Ambiguous),
            (Some(_), None) => Index::parse(bytes).map(Self::Index),
            _ => Manifest::parse(bytes).map(Self::Manifest),
        }
    }
}

/// The images of an index that a container on this machine can be made of.
#[derive(Clone, Debug)]
pub struct Index {
    /// Those for Wasm first.
    pub candidates: Vec<Candidate>,
}

impl Index {
    fn parse(bytes: &[u8]) -> Result<Self, FormError> {
        let index: ImageIndex = parse("index", bytes)?;
        let mut ranked = Vec::new();
        let mut found = Vec::new();
        for entry in index.manifests() {
            found.push(platform_name(entry));
            if let Some(rank) = rank(entry) {
                ranked.push((
                    rank,
                    Candidate {
                        manifest: Content::try_from(entry)?,
                        platform: platform_name(entry),
                    },
                ));
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.truncate(MAX_CANDIDATES);
        if ranked.is_empty() {
            return Err(FormError::NoPlatform {
                found: list(found.into_iter()),
            });
        }
        Ok(Self {
            candidates: ranked.into_iter().map(|(_, candidate)| candidate).collect(),
        })
    }
}

/// How likely an entry of an index is meant; none for what is no image for this machine.
fn rank(entry: &Descriptor) -> Option<u8> {
    let described = entry.annotations().iter().flatten();
    if described
        .into_iter()
        .any(|(name, _)| name == REFERENCE_TYPE)
    {
        return None;
    }
    let Some(platform) = entry.platform() else {
        return Some(1);
    };
    match (platform.os(), platform.architecture()) {
        (_, Arch::Wasm) => Some(0),
        (_, Arch::Other(name)) if name == "wasm32" => Some(0),
        (Os::Linux, Arch::Amd64) => Some(2),
        _ => None,
    }
}

fn platform_name(entry: &Descriptor) -> String {
    match entry.platform() {
        Some(platform) => short(&format!("{}/{}", platform.os(), platform.architecture())),
        None => "an image without a platform".to_owned(),
    }
}

/// The manifest of one image.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where its config is.
    pub config: Content,
    config_type: String,
    layers: Vec<Layer>,
    /// The value of [`COMPOSE`].
    compose: Option<String>,
}

/// A layer, as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    content: Content,
    media_type: String,
    title: Option<String>,
    precompiled: Option<String>,
}

/// What a process wants to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The entrypoint of a container, which may have none. It does not have to name the only
    /// program of its image.
    Entrypoint(Option<&'a str>),
    /// The first argument of an exec, which has to name what it wants.
    Exec(&'a str),
}

impl<'a> Wanted<'a> {
    fn name(self) -> Option<&'a str> {
        match self {
            Self::Entrypoint(name) => name,
            Self::Exec(name) => Some(name),
        }
    }
}

/// The layer that a container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The layer.
    pub layer: WasmLayer,
    /// The export that `name#export` asks for.
    pub export: Option<String>,
    /// The other Wasm layers of the image, if it is to be composed with them.
    pub others: Vec<WasmLayer>,
}

/// A layer that is Wasm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasmLayer {
    /// Its bytes.
    pub content: Content,
    /// What it is called in its image.
    pub title: Option<String>,
}

impl WasmLayer {
    /// What it is called in messages, on one line.
    pub fn name(&self) -> String {
        match &self.title {
            Some(title) => short(title),
            None => self.content.digest(),
        }
    }
}

impl Manifest {
    fn parse(bytes: &[u8]) -> Result<Self, FormError> {
        let manifest: ImageManifest = parse("manifest", bytes)?;
        let layers = manifest.layers().iter().map(|layer| {
            let annotations = || layer.annotations().iter().flatten();
            Ok(Layer {
                content: Content::try_from(layer)?,
                media_type: layer.media_type().to_string(),
                title: annotations()
                    .find(|(name, _)| *name == ANNOTATION_TITLE)
                    .map(|(_, title)| title.clone()),
                precompiled: annotations()
                    .find(|(name, _)| name.starts_with(PRECOMPILED))
                    .map(|(name, _)| name.clone()),
            })
        });
        Ok(Self {
            config: Content::try_from(manifest.config())?,
            config_type: manifest.config().media_type().to_string(),
            layers: layers.collect::<Result<_, _>>()?,
            compose: manifest
                .annotations()
                .as_ref()
                .and_then(|annotations| annotations.get(COMPOSE).cloned()),
        })
    }

    /// Whether any layer is Wasm as it is.
    pub fn has_wasm(&self) -> bool {
        self.layers
            .iter()
            .any(|layer| media_type::is_wasm(&layer.media_type))
    }

    /// The layer that a process runs: for an entrypoint the only one that is Wasm, or the one
    /// whose title it is; for an exec the one whose title it is. `None` if the image is files and
    /// nothing else.
    ///
    /// `compose` is what the container's annotation says; otherwise the manifest's counts.
    pub fn program(
        &self,
        wanted: Wanted<'_>,
        compose: Option<bool>,
    ) -> Result<Option<Program>, FormError> {
        let mut seen = HashSet::new();
        let wasm: Vec<&Layer> = self
            .layers
            .iter()
            .filter(|layer| media_type::is_wasm(&layer.media_type) && seen.insert(&layer.content))
            .collect();
        let asked = wanted.name();
        let (name, export) = match asked.and_then(|name| name.rsplit_once('#')) {
            Some((name, export)) if !export.is_empty() => (Some(name), Some(export)),
            _ => (asked, None),
        };
        // A title may have a `#` in it.
        let titled = match (titled(&wasm, asked), titled(&wasm, name)) {
            (Some(layer), _) => Some((layer, None)),
            (None, Some(layer)) => Some((layer, export)),
            (None, None) => None,
        };
        let (layer, export) = match (wasm.as_slice(), wanted, titled) {
            ([], ..)
                if self
                    .layers
                    .iter()
                    .all(|layer| media_type::is_files(&layer.media_type)) =>
            {
                return Ok(None);
            }
            ([], ..) => return Err(self.not_understood()),
            ([only], Wanted::Entrypoint(_), _) => (*only, export),
            (_, _, Some(found)) => found,
            (several, Wanted::Entrypoint(_), None) => return Err(many_layers(several, name)),
            (several, Wanted::Exec(_), None) => {
                return Err(FormError::NoSuchLayer {
                    layers: list(several.iter().map(ToString::to_string)),
                });
            }
        };
        let mut others: Vec<&Layer> = Vec::new();
        if self.composes(compose)? {
            others.extend(wasm.iter().filter(|other| !std::ptr::eq(**other, layer)));
        }
        if others.len() >= MAX_COMPOSED {
            return Err(FormError::ManyComposed(wasm.len()));
        }
        if let Some((layer, annotation)) = std::iter::once(&layer)
            .chain(&others)
            .find_map(|layer| Some((layer, layer.precompiled.as_ref()?)))
        {
            return Err(FormError::Precompiled {
                layer: layer.to_string(),
                annotation: short(annotation),
            });
        }
        Ok(Some(Program {
            layer: layer.into(),
            export: export.map(str::to_owned),
            others: others.into_iter().map(WasmLayer::from).collect(),
        }))
    }

    /// Whether the layers are to be composed.
    fn composes(&self, container: Option<bool>) -> Result<bool, FormError> {
        match (container, self.compose.as_deref()) {
            (Some(asked), _) => Ok(asked),
            (None, None | Some("false")) => Ok(false),
            (None, Some("true")) => Ok(true),
            (None, Some(other)) => Err(FormError::Annotation(short(other))),
        }
    }

    fn not_understood(&self) -> FormError {
        FormError::NotUnderstood {
            config: short(&self.config_type),
            layers: list(self.layers.iter().map(|layer| short(&layer.media_type))),
        }
    }
}

impl From<&Layer> for WasmLayer {
    fn from(layer: &Layer) -> Self {
        Self {
            content: layer.content.clone(),
            title: layer.title.clone(),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.content.digest();
        match &self.title {
            Some(title) => write!(formatter, "{} ({digest})", short(title)),
            None => formatter.write_str(&digest),
        }
    }
}

/// The one layer with this title, whether or not it is written as a path from the root.
fn titled<'a>(layers: &[&'a Layer], name: Option<&str>) -> Option<&'a Layer> {
    fn plain(name: &str) -> &str {
        name.trim_start_matches("./").trim_start_matches('/')
    }
    let name = plain(name?);
    let mut same = layers.iter().filter(|layer| {
        let title = layer.title.as_deref();
        !name.is_empty() && title.is_some_and(|title| plain(title) == name)
    });
    match (same.next(), same.next()) {
        (Some(layer), None) => Some(*layer),
        _ => None,
    }
}

fn many_layers(layers: &[&Layer], name: Option<&str>) -> FormError {
    FormError::ManyLayers {
        asked: match name {
            Some(name) if !name.is_empty() => {
                format!(
                    "the entrypoint {:?} is the title of none, or of several",
                    short(name)
                )
            }
            _ => "the container has no entrypoint".to_owned(),
        },
        layers: list(layers.iter().map(ToString::to_string)),
    }
}

/// The name of the snapshot that containerd makes of an image's files, from its config; none for
/// an image without files. OCI image-spec, `config.md`, "Layer ChainID".
pub fn chain_id(config: &[u8]) -> Result<Option<String>, FormError> {
    #[derive(Default, Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        rootfs: RootFs,
    }
    let config: Config = parse("config", config)?;
    let diff_ids = config.rootfs.diff_ids.into_iter();
    Ok(diff_ids.reduce(|chain, diff_id| {
        let hash = Sha256::digest(format!("{chain} {diff_id}"));
        format!("sha256:{}", hexadecimal(&hash))
    }))
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, FormError> {
    serde_json::from_slice(bytes).map_err(|error| FormError::Malformed {
        what,
        fault: short(&error.to_string()),
    })
}

/// Text of an image for a message: of bounded length and on one line.
fn short(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line: String = text
        .chars()
        .take(LONGEST)
        .map(|char| if char.is_control() { '?' } else { char })
        .collect();
    if line.len() < text.len() {
        line.push_str("...");
    }
    line
}

fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    const MOST: usize = 12;
    let count = names.len();
    if count == 0 {
        return "none".to_owned();
    }
    let mut shown: Vec<String> = names.take(MOST).collect();
    if count > MOST {
        shown.push(format!("and {} more", count - MOST));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests;
