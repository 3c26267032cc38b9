//! What has to hold of the documents of an image.

use lighter_image::media_type::WASM_LAYERS;
use lighter_image::{Document, FormError, Index, Manifest, Program, Wanted, WasmLayer, chain_id};
use serde_json::Value;

use crate::allocation::bounded;

/// The shortest descriptor has some hundred bytes, and becomes as many with its strings.
const FACTOR: usize = 64;

/// Longest message that an image can make: it goes into logs and events.
const MAX_MESSAGE: usize = 20_000;

/// Reads `bytes` as each of the documents, and asks a manifest for programs.
pub fn check(bytes: &[u8]) {
    match bounded(bytes.len(), FACTOR, || chain_id(bytes)) {
        Ok(chain) => drop(chain),
        Err(error) => check_message(&error),
    }
    match bounded(bytes.len(), FACTOR, || Document::parse(bytes)) {
        Ok(Document::Index(index)) => check_index(&index),
        Ok(Document::Manifest(manifest)) => check_manifest(&manifest, bytes),
        Err(error) => check_message(&error),
    }
}

fn check_index(index: &Index) {
    assert!((1..=16).contains(&index.candidates.len()));
    for candidate in &index.candidates {
        check_digest(&candidate.manifest.digest());
    }
}

fn check_manifest(manifest: &Manifest, bytes: &[u8]) {
    check_digest(&manifest.config.digest());
    // What nobody reads may have escapes that stand for no character.
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    for name in ["app.wasm", "/app.wasm", "./lib.wasm#run", "a#b", "#", ""] {
        let wanted = [Wanted::Entrypoint(Some(name)), Wanted::Exec(name)];
        for wanted in [Wanted::Entrypoint(None)].into_iter().chain(wanted) {
            for compose in [None, Some(true), Some(false)] {
                let asked = || manifest.program(wanted, compose);
                match bounded(bytes.len(), FACTOR, asked) {
                    Ok(Some(program)) => check_program(&program, compose, &json),
                    Ok(None) => assert!(!manifest.has_wasm()),
                    Err(error) => check_message(&error),
                }
            }
        }
    }
}

/// What runs is what the manifest calls Wasm, and what no annotation calls precompiled.
fn check_program(program: &Program, compose: Option<bool>, json: &Value) {
    assert!(compose != Some(false) || program.others.is_empty());
    assert!(program.others.len() < 64);
    let mut seen = vec![&program.layer.content];
    for other in &program.others {
        assert!(!seen.contains(&&other.content), "a layer is there twice");
        seen.push(&other.content);
    }
    for layer in std::iter::once(&program.layer).chain(&program.others) {
        let layers = json["layers"].as_array().into_iter().flatten();
        let mut same = layers.filter(|each| is_layer(each, layer));
        assert!(
            same.any(|each| !is_precompiled(each)),
            "{layer:?} is no Wasm layer of the manifest"
        );
        assert!(!layer.name().contains(char::is_control));
    }
    // It goes from one process to another.
    let text = serde_json::to_string(program).expect("a program has names and numbers");
    assert_eq!(
        serde_json::from_str::<Program>(&text).ok().as_ref(),
        Some(program)
    );
}

fn is_layer(json: &Value, layer: &WasmLayer) -> bool {
    let kind = json["mediaType"].as_str();
    json["digest"] == layer.content.digest().as_str()
        && json["size"] == layer.content.size()
        && kind.is_some_and(|kind| WASM_LAYERS.contains(&kind))
        && json["annotations"]["org.opencontainers.image.title"].as_str() == layer.title.as_deref()
}

fn is_precompiled(json: &Value) -> bool {
    let annotations = json["annotations"].as_object();
    annotations
        .into_iter()
        .flatten()
        .any(|(name, _)| name.starts_with("runwasi.io/precompiled"))
}

fn check_digest(digest: &str) {
    let digits = digest.strip_prefix("sha256:").expect("it is a SHA-256");
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    assert!(
        digits.len() == 64 && digits.bytes().all(is_digit),
        "{digest}"
    );
}

fn check_message(error: &FormError) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.len() <= MAX_MESSAGE, "{} bytes", text.len());
}
