//! Index and manifest of an image: JSON of the right form, with any layers and annotations.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

#[derive(Arbitrary, Debug)]
enum Text<'a> {
    /// One of those that mean something here.
    Known(u8),
    Any(&'a str),
}

const KNOWN: [&str; 22] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "org.opencontainers.image.title",
    "lighter.dev/compose",
    "runwasi.io/precompiled/wasmtime",
    "vnd.docker.reference.type",
    "true",
    "false",
    "app.wasm",
    "./app.wasm",
    "lib.wasm",
    "a#b",
    "#",
    "linux",
    "wasip1",
    "wasm",
    "wasm32",
    "amd64",
];

#[derive(Arbitrary, Debug)]
struct Descriptor<'a> {
    kind: Text<'a>,
    /// So that some are the same.
    digest: u8,
    digest_text: Option<&'a str>,
    size: u64,
    annotations: Vec<(Text<'a>, Text<'a>)>,
    platform: Option<(Text<'a>, Text<'a>)>,
}

#[derive(Arbitrary, Debug)]
struct Form<'a> {
    is_index: bool,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
    annotations: Vec<(Text<'a>, Text<'a>)>,
}

fuzz_target!(|form: Form<'_>| {
    let descriptors: Vec<Value> = form.layers.iter().map(Descriptor::json).collect();
    let mut document = json!({
        "schemaVersion": 2,
        "annotations": annotations(&form.annotations),
    });
    if form.is_index {
        document["manifests"] = descriptors.into();
    } else {
        document["config"] = form.config.json();
        document["layers"] = descriptors.into();
    }
    lighter_fuzz::image::check(document.to_string().as_bytes());
});

impl Text<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Known(index) => KNOWN[usize::from(*index) % KNOWN.len()],
            Self::Any(text) => text,
        }
    }
}

impl Descriptor<'_> {
    fn json(&self) -> Value {
        let digest = match self.digest_text {
            Some(text) => text.to_owned(),
            None => format!("sha256:{:064x}", self.digest % 8),
        };
        let mut json = json!({
            "mediaType": self.kind.text(),
            "digest": digest,
            "size": self.size,
            "annotations": annotations(&self.annotations),
        });
        if let Some((os, architecture)) = &self.platform {
            json["platform"] = json!({ "os": os.text(), "architecture": architecture.text() });
        }
        json
    }
}

fn annotations(list: &[(Text<'_>, Text<'_>)]) -> Map<String, Value> {
    list.iter()
        .map(|(name, value)| (name.text().to_owned(), value.text().into()))
        .collect()
}
