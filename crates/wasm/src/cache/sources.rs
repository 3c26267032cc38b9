//! What this node has learnt about Wasm bytes: their SHA-256 and their world.
//!
//! Working out both for 18 MB takes 150 ms where the processor has no instructions for SHA; a
//! start would pay that each time. BLAKE3 takes 7 ms, so a record that is named by it holds
//! the answer. A record is written only by who had the very bytes in memory and computed all
//! three; it is as trustworthy as an artifact, and lies in the same folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{FolderError, at};
use super::folder::{Folder, names, remove};
use crate::classify::World;
use crate::source::{Digest, Fingerprint};

/// What there is to know of a Wasm binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// SHA-256, as 64 hexadecimal digits.
    pub(super) digest: String,
    pub(super) world: World,
}

impl Known {
    pub(super) fn new(digest: Digest, world: World) -> Self {
        Self {
            digest: digest.to_string(),
            world,
        }
    }

    /// One line: digest, world, and the beginning of the BLAKE3 of both, as a record may be
    /// cut or damaged when the machine stops.
    pub fn text(&self) -> String {
        let facts = format!("{} {}", self.digest, self.world.name());
        let check = check(&facts);
        format!("{facts} {check}\n")
    }

    /// Reads what [`Known::text`] has written. A record that is damaged is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (facts, found) = text.strip_suffix('\n')?.rsplit_once(' ')?;
        let (digest, world) = facts.split_once(' ')?;
        (found == check(facts)).then_some(Self {
            digest: digest.to_owned(),
            world: World::from_name(world)?,
        })
    }
}

fn check(facts: &str) -> String {
    let mut digits = blake3::hash(facts.as_bytes()).to_hex().to_string();
    digits.truncate(16);
    digits
}

/// What is known of the bytes with this fingerprint.
pub(super) fn find(
    folder: &Folder,
    fingerprint: Fingerprint,
) -> Result<Option<Known>, FolderError> {
    read(&path_of(folder, fingerprint))
}

/// Notes what is known. Only the holder of the lock of `fingerprint` calls this.
pub(super) fn note(
    folder: &Folder,
    fingerprint: Fingerprint,
    known: &Known,
) -> Result<(), FolderError> {
    // Not synced: a record that is lost or cut is made again.
    let unfinished = folder.work().join(format!("{fingerprint}.source"));
    fs::write(&unfinished, known.text()).map_err(|error| at(&unfinished, error))?;
    let path = path_of(folder, fingerprint);
    fs::rename(&unfinished, &path).map_err(|error| at(&path, error))
}

/// Forgets all sources but those that `keep` wants by their SHA-256.
pub(super) fn retain(folder: &Folder, keep: impl Fn(&str) -> bool) -> Result<(), FolderError> {
    let sources = folder.sources();
    for name in names(&sources)? {
        let path = sources.join(name);
        if !read(&path)?.is_some_and(|known| keep(&known.digest)) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn path_of(folder: &Folder, fingerprint: Fingerprint) -> PathBuf {
    folder.sources().join(fingerprint.to_string())
}

/// A record that is damaged is none.
fn read(path: &Path) -> Result<Option<Known>, FolderError> {
    match fs::read(path) {
        Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(Known::parse)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_until_it_is_forgotten() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("cache")).unwrap();
        let fingerprint = Fingerprint::of(b"one");
        let known = Known::new(Digest::of(b"one"), World::Service3);
        assert_eq!(find(&folder, fingerprint).unwrap(), None);
        note(&folder, fingerprint, &known).unwrap();
        assert_eq!(find(&folder, fingerprint).unwrap(), Some(known.clone()));
        assert_eq!(find(&folder, Fingerprint::of(b"two")).unwrap(), None);
        retain(&folder, |digest| digest == known.digest).unwrap();
        assert!(find(&folder, fingerprint).unwrap().is_some());
        retain(&folder, |_| false).unwrap();
        assert!(find(&folder, fingerprint).unwrap().is_none());
        assert!(names(&folder.work()).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_record_is_none() {
        let text = Known::new(Digest::of(b"one"), World::Module).text();
        assert!(Known::parse(&text).is_some());
        for length in 0..text.len() {
            assert_eq!(Known::parse(&text[..length]), None);
        }
        assert_eq!(Known::parse(&text.replace("module", "service")), None);
        assert_eq!(Known::parse(&"\0".repeat(100)), None);
    }
}
