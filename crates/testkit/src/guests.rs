//! The guests that `test/guests/build.sh` makes.

use std::path::PathBuf;

use crate::paths::cache;

/// The file of a built guest: `hello` is `hello.wasm`, and a name that has a file as it stands
/// (`ids`, `libnss_evil.so.2`) is that file. `test/guests/README.md` lists them.
///
/// # Panics
/// When there is no such file; the text names the command that builds it.
pub fn guest(name: &str) -> PathBuf {
    let folder = cache().join("guests");
    [folder.join(format!("{name}.wasm")), folder.join(name)]
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no guest {name} in {}: run test/guests/build.sh",
                folder.display()
            )
        })
}
