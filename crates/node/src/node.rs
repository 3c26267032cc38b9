//! Where things are on this node.

use std::path::PathBuf;

use lighter_wasm::ArtifactCache;

/// What all tasks work on.
#[derive(Debug)]
pub struct Node {
    /// The folder of compiled code.
    pub folder: PathBuf,
    /// The compile worker.
    pub compiler: PathBuf,
    /// Both.
    pub cache: ArtifactCache,
}

impl Node {
    /// `compiler` is the file lighter-compiler beside this program unless it is given.
    pub fn new(folder: PathBuf, compiler: Option<PathBuf>) -> Result<Self, String> {
        let compiler = match compiler {
            Some(path) => path,
            None => std::env::current_exe()
                .map_err(|error| format!("cannot find the path of this program: {error}"))?
                .with_file_name("lighter-compiler"),
        };
        Ok(Self {
            cache: ArtifactCache::new(folder.clone(), compiler.clone()),
            folder,
            compiler,
        })
    }
}
