//! Images of the tests, in the node's containerd.

use std::fs;
use std::path::Path;

use lighter_testkit::{Call, Image};

use crate::wait::LIMIT;

/// Debian's busybox.
pub const BUSYBOX: &str = "docker.io/lighter/busybox:latest";
/// Guests, each as `/NAME.wasm`, without an entrypoint.
pub const GUESTS: &str = "docker.io/lighter/guests:latest";

/// What is in [`GUESTS`].
const NAMES: &[&str] = &[
    "busy",
    "cat",
    "env-args",
    "exit",
    "files",
    "fill",
    "grow",
    "hello",
    "http-hello",
    "not-wasm",
    "sleep",
    "sockets",
    "stderr",
    "trap",
];

/// The two images of most tests.
pub(crate) fn images() -> [Image; 2] {
    let guests = NAMES.iter().fold(Image::new("guests"), |image, name| {
        image.guest(&format!("/{name}.wasm"), name)
    });
    [Image::busybox(), guests]
}

/// Brings an image to the node.
#[track_caller]
pub fn import(image: &Image) {
    let file = tempfile::NamedTempFile::new().expect("make a temporary file");
    fs::write(file.path(), image.archive()).expect("write the archive");
    import_archive(file.path());
}

/// The same with an archive of one.
#[track_caller]
pub fn import_archive(file: &Path) {
    let path = file.display().to_string();
    let import = ["--namespace", "k8s.io", "images", "import"];
    let options = ["--all-platforms", "--no-unpack", &path];
    Call::new("ctr", import.into_iter().chain(options))
        .limit(LIMIT)
        .ok();
}
