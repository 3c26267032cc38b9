//! The programs: put beside each other by renames, so that what runs goes on with the old ones.

use std::fs;
use std::path::{Path, PathBuf};

use super::SHIM;
use super::files::{self, digest};

/// What belongs together. The compile worker first: a shim finds one of its release or a newer one.
pub const NAMES: [&str; 3] = ["lighter-compiler", SHIM, "lighter"];

/// The folder of the programs.
pub fn folder(prefix: &Path) -> PathBuf {
    prefix.join("bin")
}

/// Puts the programs of `from` below `prefix`. Answers the names of those that were new or differed, and
/// the folders that were made. All are written before the first gets its name.
pub fn install(from: &Path, prefix: &Path) -> Result<(Vec<&'static str>, Vec<PathBuf>), String> {
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
    let made = files::make_folders(&folder)?;
    let prepared = wanted
        .iter()
        .map(|(_, place, bytes)| files::prepare(place, bytes, 0o755))
        .collect::<Result<Vec<_>, _>>();
    let prepared = prepared.inspect_err(|_| remove_folders(&made))?;
    for file in prepared {
        file.publish()?;
    }
    Ok((wanted.iter().map(|(name, ..)| *name).collect(), made))
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
        let (new, made) = install(source(b"1").path(), prefix.path()).unwrap();
        assert_eq!((new.len(), made.len()), (3, 1));
        let held = fs::File::open(prefix.path().join("bin").join(SHIM)).unwrap();
        assert!(
            install(source(b"1").path(), prefix.path())
                .unwrap()
                .0
                .is_empty()
        );
        assert_eq!(
            install(source(b"2").path(), prefix.path()).unwrap().0.len(),
            3
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
