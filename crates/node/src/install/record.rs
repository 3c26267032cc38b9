//! What an installation has done, so that it can be undone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files;

/// What is remembered of an installation.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Record {
    /// The release that installed.
    pub version: String,
    /// Where the programs are: below its `bin`.
    pub prefix: PathBuf,
    /// The programs' names, and their SHA-256.
    pub programs: Vec<(String, String)>,
    /// The configuration that containerd reads.
    pub config: PathBuf,
    /// What was changed for it; nothing when it had all that is needed, or when that was undone.
    pub change: Option<Change>,
    /// Folders that were made, the deepest first.
    pub folders: Vec<PathBuf>,
}

/// A changed file.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Change {
    pub file: PathBuf,
    pub kind: Kind,
    /// The file as it was before; nothing when there was none.
    pub backup: Option<PathBuf>,
    /// The SHA-256 of what was written.
    pub written: String,
    /// The version of its syntax.
    pub syntax: u8,
    /// The handler of this name that was there before, as TOML.
    pub previous: Option<String>,
    /// Handlers that had to be said again.
    pub kept: Vec<String>,
}

/// What a changed file is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file of ours alone.
    DropIn,
    /// TOML.
    Edit,
    /// A Go template.
    Template,
}

fn file(state: &Path) -> PathBuf {
    state.join("install.json")
}

impl Record {
    /// That of the node, if Lighter is installed.
    pub fn load(state: &Path) -> Result<Option<Self>, String> {
        let path = file(state);
        let Some(text) = files::read(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            format!(
                "{}: {error}: another release has written it, or it is damaged; use that release, or remove it and install again",
                path.display()
            )
        })
    }

    /// Keeps it. Answers the folders that were made for it.
    pub fn save(&self, state: &Path) -> Result<Vec<PathBuf>, String> {
        let made = files::make_folders(state)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        files::replace(&file(state), text.as_bytes(), 0o600)?;
        Ok(made)
    }

    /// Forgets it.
    pub fn remove(state: &Path) -> Result<(), String> {
        files::remove(&file(state))
    }
}
