//! The programs: put beside each other by renames, so that what runs goes on with the old ones.

use std::fs;
use std::path::{Path, PathBuf};

use super::SHIM;
use super::files::{self, Prepared, digest};

/// What belongs together. The compile worker first: a shim finds one of its release or a newer one.
pub const NAMES: [&str; 3] = ["lighter-compiler", SHIM, "lighter"];

/// The folder of the programs.
pub fn folder(prefix: &Path) -> PathBuf {
    prefix.join("bin")
}

/// What putting the programs has done.
#[derive(Debug)]
pub struct Installed {
    /// The names of those that differed, or were not there.
    pub changed: Vec<&'static str>,
    /// Those that were not there.
    created: Vec<PathBuf>,
    /// Folders that were made, the deepest first.
    pub folders: Vec<PathBuf>,
}

impl Installed {
    /// Removes what was not there before.
    pub fn undo(&self) {
        for file in &self.created {
            let _ = fs::remove_file(file);
        }
        remove_folders(&self.folders);
    }
}

/// Puts the programs of `from` below `prefix`. All are written before the first gets its name.
pub fn install(from: &Path, prefix: &Path) -> Result<Installed, String> {
    let folder = folder(prefix);
    let mut wanted = Vec::new();
    for name in NAMES {
        let source = from.join(name);
        let bytes = fs::read(&source).map_err(|error| {
            let source = source.display();
            format!(
                "cannot read {source}: {error}: --from names the folder with {}",
                NAMES.join(", ")
            )
        })?;
        let place = folder.join(name);
        if fs::read(&place).map_or(true, |old| old != bytes) {
            wanted.push((name, place, bytes));
        }
    }
    let places = wanted.iter().map(|(_, place, _)| place);
    let installed = Installed {
        changed: wanted.iter().map(|(name, ..)| *name).collect(),
        created: places.filter(|place| !place.exists()).cloned().collect(),
        folders: files::make_folders(&folder)?,
    };
    let prepared = wanted
        .iter()
        .map(|(_, place, bytes)| files::prepare(place, bytes, 0o755))
        .collect::<Result<Vec<_>, _>>();
    let published = prepared.and_then(|files| files.into_iter().try_for_each(Prepared::publish));
    published.inspect_err(|_| installed.undo())?;
    Ok(installed)
}

/// Removes the programs.
pub fn remove(prefix: &Path) -> Result<(), String> {
    NAMES
        .iter()
        .try_for_each(|name| files::remove(&folder(prefix).join(name)))
}

/// Removes folders that are empty, the deepest first.
pub fn remove_folders(folders: &[PathBuf]) {
    for folder in folders {
        let _ = fs::remove_dir(folder);
    }
}

/// The digest of an installed program; nothing when it is not there.
pub fn installed(prefix: &Path, name: &str) -> Option<String> {
    Some(digest(&fs::read(folder(prefix).join(name)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(bytes: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in NAMES {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn programs_are_replaced_when_they_differ() {
        let prefix = tempfile::tempdir().unwrap();
        let install = |bytes| install(source(bytes).path(), prefix.path()).unwrap();
        let first = install(b"1");
        assert_eq!((first.changed.len(), first.folders.len()), (3, 1));
        let held = fs::File::open(prefix.path().join("bin").join(SHIM)).unwrap();
        assert!(install(b"1").changed.is_empty());
        let second = install(b"2");
        assert_eq!(second.changed.len(), 3);
        second.undo();
        assert!(
            installed(prefix.path(), SHIM).is_some(),
            "it was there before"
        );
        let old = std::io::read_to_string(held).unwrap();
        assert_eq!(old, "1", "what runs has its old file still");
        remove(prefix.path()).unwrap();
        assert_eq!(fs::read_dir(prefix.path().join("bin")).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_program_is_named_and_nothing_is_written() {
        let (from, prefix) = (source(b"1"), tempfile::tempdir().unwrap());
        fs::remove_file(from.path().join("lighter-compiler")).unwrap();
        let error = install(from.path(), prefix.path()).unwrap_err();
        assert!(error.contains("lighter-compiler: No such file"), "{error}");
        assert!(!prefix.path().join("bin").exists());
    }
}
