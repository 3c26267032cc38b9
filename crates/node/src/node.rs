//! Where things are on this node.

use std::path::{Path, PathBuf};

use lighter_trace::TraceOptions;
use lighter_wasm::{ArtifactCache, NodeOptions};

/// What all tasks work on.
#[derive(Debug)]
pub struct Node {
    /// The folder of compiled code.
    pub folder: PathBuf,
    /// The compile worker.
    pub compiler: PathBuf,
    /// Both.
    pub cache: ArtifactCache,
    /// How spans are exported.
    pub traces: Option<TraceOptions>,
}

impl Node {
    /// `compiler` is the file lighter-compiler beside this program unless it is given.
    /// `options` is the file that the runtime handler's ConfigPath names.
    pub fn new(
        folder: PathBuf,
        compiler: Option<PathBuf>,
        options: Option<&Path>,
    ) -> Result<Self, String> {
        let options = match options {
            None => NodeOptions::default(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| error.to_string())
                .and_then(|text| NodeOptions::parse(&text).map_err(|error| error.to_string()))
                .map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let compiler = match compiler {
            Some(path) => path,
            None => std::env::current_exe()
                .map_err(|error| format!("cannot find the path of this program: {error}"))?
                .with_file_name("lighter-compiler"),
        };
        Ok(Self {
            cache: ArtifactCache::new(folder.clone(), compiler.clone()).with_limits(options.cache),
            folder,
            compiler,
            traces: options.traces,
        })
    }
}
