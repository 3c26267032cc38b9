//! The tar of an image's files.
//!
//! It is not compressed. Its bytes then follow from its files alone, whatever release of a
//! compressor made it; and every client reads it, as the form that all others are made from.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tar::{Builder, EntryType, Header};

use crate::pack::path::ImagePath;

/// Files and the folders that they are in, by their relative paths.
#[derive(Clone, Debug, Default)]
pub struct Layer(BTreeMap<String, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File { mode: u32, bytes: Vec<u8> },
}

impl Layer {
    /// Adds a file of root's.
    pub fn file(&mut self, path: &ImagePath, mode: u32, bytes: Vec<u8>) -> Result<(), String> {
        let name = path.relative();
        if name.is_empty() || self.0.contains_key(name) {
            return Err(format!("two things of the image are called {path}"));
        }
        self.parents(path)?;
        self.0.insert(name.to_owned(), Entry::File { mode, bytes });
        Ok(())
    }

    /// Adds a folder, if it is not there.
    pub fn folder(&mut self, path: &ImagePath) -> Result<(), String> {
        self.parents(path)?;
        match path.relative() {
            "" => Ok(()),
            name => self.insert_folder(name),
        }
    }

    /// Whether there is a file of this path.
    pub fn has_file(&self, path: &ImagePath) -> bool {
        matches!(self.0.get(path.relative()), Some(Entry::File { .. }))
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn parents(&mut self, path: &ImagePath) -> Result<(), String> {
        let name = path.relative();
        name.match_indices('/')
            .try_for_each(|(end, _)| self.insert_folder(&name[..end]))
    }

    fn insert_folder(&mut self, name: &str) -> Result<(), String> {
        match self.0.entry(name.to_owned()).or_insert(Entry::Folder) {
            Entry::Folder => Ok(()),
            Entry::File { .. } => Err(format!("/{name} is a file of the image and a folder")),
        }
    }

    /// The archive: sorted, of root's, of one time.
    pub fn tar(&self, time: SystemTime) -> Result<Vec<u8>, String> {
        let seconds = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut tar = Builder::new(Vec::new());
        for (name, entry) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mtime(seconds);
            header.set_uid(0);
            header.set_gid(0);
            match entry {
                Entry::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(0o755);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{name}/"), &[][..])
                }
                Entry::File { mode, bytes } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, name, bytes.as_slice())
                }
            }
            .map_err(|error| format!("/{name} cannot be put into a layer: {error}"))?;
        }
        tar.into_inner().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> ImagePath {
        text.parse().unwrap()
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut layer = Layer::default();
        layer
            .file(&path("/b/c/d"), 0o640, b"bytes".to_vec())
            .unwrap();
        layer.file(&path("/a"), 0o755, Vec::new()).unwrap();
        layer.folder(&path("/b/e")).unwrap();
        layer.folder(&path("/b/e")).unwrap();
        layer.folder(&path("/")).unwrap();
        let bytes = layer.tar(SystemTime::UNIX_EPOCH).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let found: Vec<(String, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 0));
                let path = entry.path().unwrap().display().to_string();
                (path, header.mode().unwrap())
            })
            .collect();
        let expected = [
            ("a", 0o755),
            ("b/", 0o755),
            ("b/c/", 0o755),
            ("b/c/d", 0o640),
            ("b/e/", 0o755),
        ];
        assert_eq!(found, expected.map(|(name, mode)| (name.to_owned(), mode)));
    }

    #[test]
    fn a_path_is_one_thing() {
        let mut layer = Layer::default();
        layer.file(&path("/a"), 0o644, Vec::new()).unwrap();
        assert!(layer.file(&path("/a"), 0o644, Vec::new()).is_err());
        assert!(layer.file(&path("/a/b"), 0o644, Vec::new()).is_err());
        assert!(layer.folder(&path("/a")).is_err());
        layer.file(&path("/b/c"), 0o644, Vec::new()).unwrap();
        assert!(layer.file(&path("/b"), 0o644, Vec::new()).is_err());
        assert!(layer.file(&path("/"), 0o644, Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn the_order_of_adding_does_not_matter_and_contents_are_kept(
            files in proptest::collection::btree_map(
                "(/[a-z]{1,3}){1,3}|/long{60}(/name{80}){2}",
                proptest::collection::vec(any::<u8>(), 0..600), 1..6),
            seconds in 0..253_402_300_799u64,
        ) {
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let add = |layer: &mut Layer, (name, bytes): (&String, &Vec<u8>)|
                layer.file(&path(name), 0o644, bytes.clone());
            let (mut forth, mut back) = (Layer::default(), Layer::default());
            let fits = files.iter().all(|file| add(&mut forth, file).is_ok());
            prop_assert_eq!(fits, files.iter().rev().all(|file| add(&mut back, file).is_ok()));
            if fits {
                let tar = forth.tar(time).unwrap();
                prop_assert_eq!(&tar, &back.tar(time).unwrap());
                let mut read = std::collections::BTreeMap::new();
                for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
                    let mut entry = entry.unwrap();
                    prop_assert_eq!(entry.header().mtime().unwrap(), seconds);
                    if entry.header().entry_type().is_file() {
                        let mut bytes = Vec::new();
                        entry.read_to_end(&mut bytes).unwrap();
                        let name = format!("/{}", entry.path().unwrap().display());
                        read.insert(name, bytes);
                    }
                }
                prop_assert_eq!(read, files);
            }
        }
    }
}
