use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(number: u8) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest([number])))
}

fn layer(number: u8, media_type: &str, title: Option<&str>) -> Value {
    let mut layer = json!({ "mediaType": media_type, "digest": digest(number), "size": 8 });
    if let Some(title) = title {
        layer["annotations"] = json!({ ANNOTATION_TITLE: title });
    }
    layer
}

fn manifest(layers: &[Value]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "config": { "mediaType": media_type::WASM_CONFIG, "digest": digest(0), "size": 2 },
        "layers": layers,
    })
}

fn parsed(manifest: &Value) -> Result<Manifest, FormError> {
    match Document::parse(manifest.to_string().as_bytes())? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => panic!("not a manifest"),
    }
}

fn program(layers: &[Value], entrypoint: Option<&str>) -> Result<Option<Program>, FormError> {
    parsed(&manifest(layers))?.program(Wanted::Entrypoint(entrypoint), None)
}

/// Digest and export of what runs.
fn runs(layers: &[Value], entrypoint: &str) -> (String, Option<String>) {
    let program = program(layers, Some(entrypoint)).unwrap().unwrap();
    assert_eq!(program.others, []);
    (program.layer.content.digest(), program.export)
}

fn message(layers: &[Value], entrypoint: Option<&str>) -> String {
    program(layers, entrypoint).unwrap_err().to_string()
}

fn index(entries: &[(u8, &str)]) -> Result<Document, FormError> {
    let entries: Vec<Value> = entries
        .iter()
        .map(|(number, platform)| {
            let mut entry = layer(*number, media_type::MANIFEST, None);
            if let Some((os, architecture)) = platform.split_once('/') {
                entry["platform"] = json!({ "os": os, "architecture": architecture });
            }
            entry
        })
        .collect();
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": entries,
    });
    Document::parse(index.to_string().as_bytes())
}

fn candidates(entries: &[(u8, &str)]) -> Vec<String> {
    let Document::Index(index) = index(entries).unwrap() else {
        panic!("not an index");
    };
    index
        .candidates
        .into_iter()
        .map(|candidate| candidate.platform)
        .collect()
}

#[test]
fn the_only_wasm_layer_runs_in_every_form() {
    for form in media_type::WASM_LAYERS {
        let only = [layer(1, form, None)];
        for entrypoint in ["/app.wasm", "app.wasm", "x", ""] {
            assert_eq!(runs(&only, entrypoint), (digest(1), None), "{form}");
        }
        assert!(program(&only, None).unwrap().is_some());
    }
    let beside_others = [
        layer(1, media_type::LAYER, None),
        layer(2, "text/plain", None),
        layer(3, media_type::WASM, None),
        layer(3, media_type::WASM, Some("the same again")),
    ];
    assert_eq!(runs(&beside_others, "/app.wasm"), (digest(3), None));
}

#[test]
fn an_export_follows_a_hash() {
    let only = [layer(1, media_type::WASM, Some("app.wasm"))];
    for (entrypoint, export) in [
        ("/app.wasm#run", Some("run")),
        ("#run", Some("run")),
        ("/app.wasm#", None),
    ] {
        let expected = export.map(str::to_owned);
        assert_eq!(runs(&only, entrypoint), (digest(1), expected));
    }
    let two = [
        layer(1, media_type::WASM, Some("a.wasm")),
        layer(2, media_type::WASM, Some("a.wasm#run")),
    ];
    assert_eq!(runs(&two, "/a.wasm#run"), (digest(2), None));
    assert_eq!(runs(&two, "/a.wasm#go"), (digest(1), Some("go".to_owned())));
}

#[test]
fn of_several_layers_the_entrypoint_picks() {
    let several = [
        layer(1, media_type::WASM, Some("one.wasm")),
        layer(2, media_type::WASM, Some("/bin/two.wasm")),
        layer(3, media_type::WASM, Some("same.wasm")),
        layer(4, media_type::WASM, Some("same.wasm")),
        layer(5, media_type::WASM, None),
    ];
    assert_eq!(runs(&several, "/one.wasm").0, digest(1));
    assert_eq!(runs(&several, "one.wasm").0, digest(1));
    assert_eq!(runs(&several, "./bin/two.wasm").0, digest(2));
    for entrypoint in [
        None,
        Some(""),
        Some("/"),
        Some("/two.wasm"),
        Some("/same.wasm"),
        Some("/none"),
    ] {
        let message = message(&several, entrypoint);
        for text in [
            "one.wasm",
            "/bin/two.wasm",
            &digest(5),
            "title",
            "lighter.dev/compose=true",
        ] {
            assert!(message.contains(text), "{text} in {message}");
        }
    }
}

/// Program and others of an image with this annotation, by their titles.
fn composes(
    annotation: Option<&str>,
    wanted: Wanted<'_>,
    container: Option<bool>,
) -> Result<Vec<String>, FormError> {
    let mut manifest = manifest(&[
        layer(1, media_type::WASM, Some("app.wasm")),
        layer(2, media_type::LAYER, None),
        layer(3, media_type::RUNWASI_LAYER, Some("lib.wasm")),
        layer(3, media_type::WASM, Some("the same again")),
        layer(4, media_type::WASM, None),
    ]);
    if let Some(value) = annotation {
        manifest["annotations"] = json!({ COMPOSE: value });
    }
    let program = parsed(&manifest)?.program(wanted, container)?.unwrap();
    let all = std::iter::once(&program.layer).chain(&program.others);
    Ok(all.map(WasmLayer::name).collect())
}

#[test]
fn layers_are_composed_when_that_is_asked_for() {
    let app = Wanted::Entrypoint(Some("/app.wasm"));
    let all = ["app.wasm".to_owned(), "lib.wasm".to_owned(), digest(4)];
    for (annotation, container) in [
        (Some("true"), None),
        (None, Some(true)),
        (Some("false"), Some(true)),
        (Some("nonsense"), Some(true)),
    ] {
        assert_eq!(composes(annotation, app, container).unwrap(), all);
    }
    for (annotation, container) in [
        (None, None),
        (Some("false"), None),
        (Some("true"), Some(false)),
    ] {
        assert_eq!(composes(annotation, app, container).unwrap(), all[..1]);
    }
    let error = composes(Some("nonsense"), app, None).unwrap_err();
    assert_eq!(error, FormError::Annotation("nonsense".to_owned()));
    // The one that is named is the program.
    let library = composes(Some("true"), Wanted::Exec("lib.wasm"), None).unwrap();
    assert_eq!(
        library,
        ["lib.wasm".to_owned(), "app.wasm".to_owned(), digest(4)]
    );
    let nothing = composes(Some("true"), Wanted::Entrypoint(None), None).unwrap_err();
    assert!(matches!(nothing, FormError::ManyLayers { .. }), "{nothing}");
}

#[test]
fn nothing_is_composed_with_one_layer() {
    let mut manifest = manifest(&[layer(1, media_type::WASM, None)]);
    manifest["annotations"] = json!({ COMPOSE: "true" });
    let manifest = parsed(&manifest).unwrap();
    let program = manifest.program(Wanted::Entrypoint(None), None);
    assert_eq!(program.unwrap().unwrap().others, []);
}

#[test]
fn more_layers_than_anybody_composes_are_refused() {
    let of = |count: u8| {
        let layers: Vec<Value> = (0..count)
            .map(|number| layer(number, media_type::WASM, Some(&format!("{number}"))))
            .collect();
        let manifest = parsed(&manifest(&layers)).unwrap();
        manifest.program(Wanted::Entrypoint(Some("0")), Some(true))
    };
    assert_eq!(of(64).unwrap().unwrap().others.len(), 63);
    assert_eq!(of(65), Err(FormError::ManyComposed(65)));
}

/// A manifest of 4 MiB has so many.
#[test]
fn layers_without_end_are_searched_at_once() {
    let layers: Vec<Value> = (0..25_000)
        .map(|number| {
            let digest = format!("sha256:{number:064x}");
            json!({ "mediaType": media_type::WASM, "digest": digest, "size": 8 })
        })
        .collect();
    let manifest = parsed(&manifest(&layers)).unwrap();
    let begin = std::time::Instant::now();
    let error = manifest.program(Wanted::Exec("app.wasm"), None);
    assert!(matches!(error, Err(FormError::NoSuchLayer { .. })));
    let took = begin.elapsed();
    assert!(took < std::time::Duration::from_millis(500), "{took:?}");
}

#[test]
fn an_exec_has_to_name_the_layer() {
    let only = [layer(1, media_type::WASM, Some("app.wasm"))];
    let exec = |name| {
        let manifest = parsed(&manifest(&only)).unwrap();
        manifest.program(Wanted::Exec(name), None)
    };
    let program = exec("/app.wasm#run").unwrap().unwrap();
    assert_eq!(program.layer.content.digest(), digest(1));
    assert_eq!(program.export.as_deref(), Some("run"));
    for name in ["ls", "/app", "", "#run"] {
        let error = exec(name).unwrap_err();
        assert!(matches!(error, FormError::NoSuchLayer { .. }), "{error}");
        assert!(error.to_string().contains("app.wasm (sha256:"), "{error}");
    }
}

#[test]
fn images_of_files_are_left_to_their_rootfs() {
    let files = [
        layer(1, "application/vnd.oci.image.layer.v1.tar+gzip", None),
        layer(2, "application/vnd.docker.image.rootfs.diff.tar.gzip", None),
    ];
    assert_eq!(program(&files, Some("/app.wasm")), Ok(None));
    assert_eq!(program(&[], None), Ok(None));
}

#[test]
fn other_forms_are_named() {
    let helm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    let message = message(&[layer(1, helm, None)], None);
    for text in [helm, media_type::WASM_CONFIG, media_type::RUNWASI_LAYER] {
        assert!(message.contains(text), "{text} in {message}");
    }
}

#[test]
fn a_layer_that_says_it_is_precompiled_is_refused() {
    let mut layer = layer(1, media_type::RUNWASI_LAYER, None);
    layer["annotations"] = json!({ "runwasi.io/precompiled/wasmtime/24": digest(2) });
    let message = message(&[layer], Some("/app.wasm"));
    assert!(message.contains("ahead of time"), "{message}");
}

#[test]
fn an_index_offers_wasm_first_and_no_attestation() {
    assert_eq!(
        candidates(&[
            (1, "linux/amd64"),
            (2, "linux/arm64"),
            (3, "wasi/wasm"),
            (4, "unknown/unknown"),
            (5, "wasip1/wasm32"),
            (6, ""),
        ]),
        [
            "wasi/wasm",
            "wasip1/wasm32",
            "an image without a platform",
            "linux/amd64"
        ]
    );
    let error = index(&[(1, "linux/arm64"), (2, "windows/amd64")]).unwrap_err();
    assert!(
        error.to_string().contains("linux/arm64, windows/amd64"),
        "{error}"
    );
    let mut attestation = layer(1, media_type::MANIFEST, None);
    attestation["annotations"] = json!({ REFERENCE_TYPE: "attestation-manifest" });
    let index = json!({ "schemaVersion": 2, "manifests": [attestation] });
    let error = Document::parse(index.to_string().as_bytes()).unwrap_err();
    assert!(matches!(error, FormError::NoPlatform { .. }), "{error}");
}

#[test]
fn what_can_be_read_as_two_images_is_refused() {
    let mut both = manifest(&[layer(1, media_type::WASM, None)]);
    both["manifests"] = json!([]);
    assert_eq!(parsed(&both).unwrap_err(), FormError::Ambiguous);
}

#[test]
fn other_digests_than_sha_256_are_refused() {
    for bad in [
        "sha512:".to_owned() + &"a".repeat(128),
        "sha256:".to_owned() + &"a".repeat(63),
        "sha256:".to_owned() + &"A".repeat(64),
        "md5:0".to_owned(),
        "../../etc/passwd".to_owned(),
        String::new(),
    ] {
        assert!(Content::new(&bad, 1).is_err(), "{bad}");
        let mut layer = layer(1, media_type::WASM, None);
        layer["digest"] = json!(bad);
        assert!(parsed(&manifest(&[layer])).is_err(), "{bad}");
    }
}

#[test]
fn the_chain_id_is_that_of_the_specification() {
    let config = |diff_ids: &[&str]| json!({ "rootfs": { "diff_ids": diff_ids } }).to_string();
    let chain = |diff_ids: &[&str]| chain_id(config(diff_ids).as_bytes()).unwrap();
    assert_eq!(chain(&[]), None);
    assert_eq!(chain_id(b"{}").unwrap(), None);
    assert_eq!(chain(&["sha256:a"]).as_deref(), Some("sha256:a"));
    let both = format!(
        "sha256:{}",
        hexadecimal(&Sha256::digest("sha256:a sha256:b"))
    );
    assert_eq!(chain(&["sha256:a", "sha256:b"]), Some(both));
}

#[test]
fn text_of_an_image_is_kept_short_and_on_one_line() {
    let long = "x".repeat(10_000) + "\n\x1b[31m";
    let layers: Vec<Value> = (0..100)
        .map(|number| layer(number, &long, Some(&long)))
        .collect();
    let message = message(&layers, Some(&long));
    assert!(message.len() < 5_000, "{}", message.len());
    assert_eq!(short("a\nb\x1b"), "a?b?");
}

fn verify(content: &Content, pieces: &[Vec<u8>]) -> Result<(), FormError> {
    let mut verifier = Verifier::new(content);
    for piece in pieces {
        verifier.update(piece)?;
    }
    verifier.finish()
}

#[test]
fn lies_about_content_are_told_apart() {
    let of = |bytes: &[u8], size| {
        let digest = format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)));
        Content::new(&digest, size).unwrap()
    };
    let pieces = [b"by".to_vec(), b"tes".to_vec()];
    assert_eq!(verify(&of(b"bytes", 5), &pieces), Ok(()));
    for (size, fault) in [(6, "has 5 bytes"), (4, "more than the 4"), (0, "more than")] {
        let error = verify(&of(b"bytes", size), &pieces)
            .unwrap_err()
            .to_string();
        assert!(error.contains(fault), "{error}");
    }
    let error = verify(&of(b"other", 5), &pieces).unwrap_err();
    assert!(matches!(error, FormError::OtherBytes(_)), "{error}");
}

/// JSON of the shape of manifests and indexes, and of none.
fn document() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        prop::sample::select(vec![
            media_type::WASM.to_owned(),
            media_type::RUNWASI_LAYER.to_owned(),
            media_type::LAYER.to_owned(),
            media_type::MANIFEST.to_owned(),
            ANNOTATION_TITLE.to_owned(),
            "runwasi.io/precompiled/x".to_owned(),
            "app.wasm".to_owned(),
            "wasm".to_owned(),
            "linux".to_owned(),
            "amd64".to_owned(),
            digest(1),
            digest(2),
        ]),
        ".{0,8}",
    ];
    let leaf = prop_oneof![
        text.prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null),
        any::<f64>().prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "annotations",
        "platform",
        "os",
        "architecture",
        "rootfs",
        "diff_ids",
        ANNOTATION_TITLE,
    ]);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(|members| {
                members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            }),
        ]
    })
}

/// A manifest that is right but for one value somewhere.
fn damaged() -> impl Strategy<Value = Value> {
    let types = prop::sample::select(vec![
        media_type::WASM,
        media_type::RUNWASI_LAYER,
        media_type::LAYER,
        "text/plain",
    ]);
    let title = prop::option::of(prop::sample::select(vec![
        "a.wasm", "b.wasm", "/a.wasm", "",
    ]));
    let layers = prop::collection::vec((0u8..4, types, title), 0..4);
    (layers, document(), 0usize..12).prop_map(|(layers, value, place)| {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(number, media_type, title)| layer(*number, media_type, *title))
            .collect();
        let mut manifest = manifest(&layers);
        match place {
            0 => manifest["config"] = value,
            1 => manifest["layers"] = value,
            2 => manifest["schemaVersion"] = value,
            3 => manifest["manifests"] = value,
            4 if !layers.is_empty() => manifest["layers"][0] = value,
            5 if !layers.is_empty() => manifest["layers"][0]["size"] = value,
            6 if !layers.is_empty() => manifest["layers"][0]["digest"] = value,
            7 if !layers.is_empty() => manifest["layers"][0]["annotations"] = value,
            _ => {}
        }
        manifest
    })
}

/// Reads it as far as that goes; what runs then has to be a layer of it that is called Wasm.
fn check(bytes: &[u8], entrypoint: Option<&str>) -> Result<(), TestCaseError> {
    let _ = chain_id(bytes);
    match Document::parse(bytes) {
        Ok(Document::Index(index)) => {
            prop_assert!(!index.candidates.is_empty());
            prop_assert!(index.candidates.len() <= MAX_CANDIDATES);
        }
        Ok(Document::Manifest(manifest)) => {
            for compose in [None, Some(true)] {
                let wanted = Wanted::Entrypoint(entrypoint);
                check_program(bytes, &manifest, manifest.program(wanted, compose))?;
                if let Some(name) = entrypoint {
                    let program = manifest.program(Wanted::Exec(name), compose);
                    check_program(bytes, &manifest, program)?;
                }
            }
        }
        Err(error) => prop_assert!(error.to_string().len() < 8_000),
    }
    Ok(())
}

fn check_program(
    bytes: &[u8],
    manifest: &Manifest,
    program: Result<Option<Program>, FormError>,
) -> Result<(), TestCaseError> {
    match program {
        Ok(Some(program)) => {
            let text: Value = serde_json::from_slice(bytes).unwrap();
            for wasm in std::iter::once(&program.layer).chain(&program.others) {
                let described = text["layers"].as_array().unwrap().iter().any(|layer| {
                    layer["digest"] == json!(wasm.content.digest())
                        && layer["size"] == json!(wasm.content.size())
                        && media_type::is_wasm(layer["mediaType"].as_str().unwrap())
                });
                prop_assert!(described, "{program:?}");
                prop_assert_eq!(wasm.content.sha256().len(), 64);
            }
            prop_assert!(!program.others.contains(&program.layer));
            prop_assert!(text.get("manifests").is_none_or(Value::is_null));
        }
        Ok(None) => prop_assert!(!manifest.has_wasm()),
        Err(error) => prop_assert!(error.to_string().len() < 8_000),
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes, Some("/app.wasm"))?;
    }

    #[test]
    fn any_json_is_read_without_harm(document in document(), entrypoint in prop::option::of(".{0,8}")) {
        check(document.to_string().as_bytes(), entrypoint.as_deref())?;
    }

    #[test]
    fn what_runs_is_a_wasm_layer_of_the_manifest(
        manifest in damaged(),
        entrypoint in prop::option::of(prop::sample::select(vec!["/a.wasm", "b.wasm", "a.wasm#f", "", "#"])),
    ) {
        check(manifest.to_string().as_bytes(), entrypoint)?;
    }

    #[test]
    fn a_manifest_cut_anywhere_is_refused(cut in 0usize..300) {
        let whole = manifest(&[layer(1, media_type::WASM, None)]).to_string();
        if cut < whole.len() {
            prop_assert!(Document::parse(&whole.as_bytes()[..cut]).is_err());
        }
    }

    #[test]
    fn only_the_promised_bytes_are_accepted(
        bytes in prop::collection::vec(any::<u8>(), 0..64),
        other in prop::collection::vec(any::<u8>(), 0..64),
        size in 0u64..64,
        piece in 1usize..16,
    ) {
        let digest = format!("sha256:{}", hexadecimal(&Sha256::digest(&bytes)));
        let content = Content::new(&digest, size).unwrap();
        let pieces: Vec<Vec<u8>> = other.chunks(piece).map(<[u8]>::to_vec).collect();
        let right = bytes == other && size == bytes.len() as u64;
        prop_assert_eq!(verify(&content, &pieces).is_ok(), right);
        let pieces: Vec<Vec<u8>> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
        prop_assert_eq!(verify(&content, &pieces).is_ok(), size == bytes.len() as u64);
    }
}
