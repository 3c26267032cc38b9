//! Media types of images and artifacts, and where each comes from.
//!
//! What is called a *layer* here is an entry of a manifest's `layers`, whatever it holds.

/// An index: manifests of several platforms. OCI image-spec, `image-index.md`.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// A manifest: one config and its layers. OCI image-spec, `manifest.md`.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What an index is with Docker: "image manifest version 2, schema 2" of the registry (distribution).
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a manifest is with Docker; same source.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The config of an image: entrypoint, environment, `diff_ids`. OCI image-spec, `config.md`.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The config of a Wasm artifact: world, imports, exports. CNCF TAG Runtime, "Wasm OCI Artifact
/// layout". `wkg oci push` and Spin write it. No client takes an entrypoint from it: there is none.
pub const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The config of wasm-to-oci, Krustlet and wasmCloud before there was the former: `{}`.
pub const OLD_WASM_CONFIG: &str = "application/vnd.wasm.config.v1+json";

/// A layer of files. OCI image-spec, `layer.md`; also with the suffixes `+gzip` and `+zstd`.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The beginning of what a layer of files is called by OCI: compressed, not distributable.
pub const LAYER_PREFIX: &str = "application/vnd.oci.image.layer.";
/// The beginning of what a layer of files is called by Docker.
pub const DOCKER_LAYER_PREFIX: &str = "application/vnd.docker.image.rootfs.";

/// A layer that is a module or component. Registered with IANA by the WebAssembly web API;
/// the CNCF's artifact has layers of this type only, and runwasi takes it too.
pub const WASM: &str = "application/wasm";
/// A layer that is a module or component, as runwasi's `oci-tar-builder` writes it beside
/// an image config of architecture `wasm`.
pub const RUNWASI_LAYER: &str = "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm";
/// A layer that is a module: wasm-to-oci, Krustlet, ORAS examples, older Spin.
pub const OLD_WASM_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The same with wasmCloud and with older versions of wasm-to-oci.
pub const OLD_WASM_MODULE_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

/// The types of layers that are a Wasm binary as it is.
pub const WASM_LAYERS: [&str; 4] = [WASM, RUNWASI_LAYER, OLD_WASM_LAYER, OLD_WASM_MODULE_LAYER];

/// Whether a layer of this type is a Wasm binary as it is.
pub fn is_wasm(layer: &str) -> bool {
    WASM_LAYERS.contains(&layer)
}

/// Whether a layer of this type is an archive of files, which clients unpack.
pub fn is_files(layer: &str) -> bool {
    layer.starts_with(LAYER_PREFIX) || layer.starts_with(DOCKER_LAYER_PREFIX)
}
