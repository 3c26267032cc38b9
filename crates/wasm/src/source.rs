//! The Wasm file of an image, as bytes that do not change under the compiler.

use std::cell::OnceCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use lighter_core::{ErrorClass, Failure};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use crate::composition;

/// SHA-256 of the bytes of a Wasm binary; shown as 64 hexadecimal digits. Artifacts are named
/// by it, as the whole world names files by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// BLAKE3 of the bytes of a Wasm binary: says as much as [`Digest`] and takes a fifteenth of
/// its time on a processor without instructions for SHA. It finds bytes that were seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(blake3::Hash);

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.to_hex())
    }
}

impl Fingerprint {
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes))
    }

    /// Of components in this order, by the text that stands for them. No file has the same one.
    pub(crate) fn of_composition(identity: &str) -> Self {
        let key = blake3::derive_key(
            "lighter 2026-11-21 components that become one",
            identity.as_bytes(),
        );
        Self(blake3::Hash::from_bytes(key))
    }

    /// Of the first `length` bytes of `file`.
    pub(crate) fn of_file(file: &File, length: u64) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        read_pieces(file, length, |piece| {
            hasher.update(piece);
        })?;
        Ok(Self(hasher.finalize()))
    }
}

/// Makes a file of bytes that are somewhere else, after having compared them with their digest.
pub type Fetch<'a> = dyn Fn() -> io::Result<File> + 'a;

/// One of several components that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is called in messages: one line.
    pub name: String,
    /// SHA-256, as 64 hexadecimal digits.
    pub digest: String,
}

/// Components that become one: the first is the program, the others are there for what it
/// imports.
pub struct Composition<'a> {
    parts: &'a [Part],
    fetch: &'a dyn Fn(&Part) -> io::Result<File>,
}

impl<'a> Composition<'a> {
    /// Of these components. `fetch` makes a file of one, after having compared its bytes with the
    /// digest; it is called for all of them, or not at all.
    pub fn new(parts: &'a [Part], fetch: &'a dyn Fn(&Part) -> io::Result<File>) -> Self {
        Self { parts, fetch }
    }

    /// The text that stands for it, known before the bytes are.
    pub(crate) fn identity(&self) -> String {
        composition::identity(self.parts.iter().map(|part| part.digest.as_str()))
    }

    /// What the compile worker reads: all components in one open file, of at most `limit` bytes,
    /// that nobody can change any more.
    pub(crate) fn input(&self, limit: u64) -> io::Result<File> {
        let mut files = Vec::new();
        let mut total = 0u64;
        for part in self.parts {
            let file = regular((self.fetch)(part)?)?;
            let length = file.metadata()?.len();
            total = total.saturating_add(length);
            if total > limit {
                return Err(too_long(limit));
            }
            files.push((part.name.as_str(), length, file));
        }
        let described = files.iter().map(|(name, length, _)| (*name, *length));
        let head = composition::head(described).map_err(io::Error::other)?;
        let mut input = memory_file()?;
        input.write_all(head.as_bytes())?;
        for (_, length, file) in &files {
            let mut written = Ok(());
            let count = read_pieces(file, *length, |piece| {
                if written.is_ok() {
                    written = input.write_all(piece);
                }
            })?;
            written?;
            if count != *length {
                return Err(changed());
            }
        }
        seal(input)
    }
}

/// A regular file. Nothing here moves the file's offset, and nothing but its contents counts:
/// a volume or a file system of the network can forge times and inode numbers.
///
/// Or bytes whose SHA-256 is known before they are there: they are fetched when they are needed,
/// which they are not once they have been compiled. Or components that are fetched and composed
/// then.
pub(crate) struct Source<'a> {
    file: OnceCell<File>,
    origin: Origin<'a>,
}

/// Where the bytes are before they are a file.
enum Origin<'a> {
    File,
    Content(String, &'a Fetch<'a>),
    Composition(Composition<'a>),
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file: OnceCell::from(regular(file)?),
            origin: Origin::File,
        })
    }

    /// The bytes with the SHA-256 `digest` (64 hexadecimal digits), which `fetch` gets.
    pub(crate) fn content(digest: &str, fetch: &'a Fetch<'a>) -> Self {
        Self {
            file: OnceCell::new(),
            origin: Origin::Content(digest.to_owned(), fetch),
        }
    }

    /// What these components become. It has no bytes before they were composed, which the cache
    /// has done by the compile worker.
    pub(crate) fn composition(composition: Composition<'a>) -> Self {
        Self {
            file: OnceCell::new(),
            origin: Origin::Composition(composition),
        }
    }

    /// The SHA-256, if it is known without reading.
    pub(crate) fn digest(&self) -> Option<&str> {
        match &self.origin {
            Origin::Content(digest, _) => Some(digest),
            _ => None,
        }
    }

    /// The components, if it is made of several.
    pub(crate) fn components(&self) -> Option<&Composition<'a>> {
        match &self.origin {
            Origin::Composition(composition) => Some(composition),
            _ => None,
        }
    }

    fn file(&self) -> io::Result<&File> {
        if let (None, Origin::Content(_, fetch)) = (self.file.get(), &self.origin) {
            // Nobody else is here to set it: a cell is one thread's.
            let _ = self.file.set(regular(fetch()?)?);
        }
        self.file
            .get()
            .ok_or_else(|| io::Error::other("there is no file"))
    }

    /// The fingerprint of the file as it is now, read in pieces.
    pub(crate) fn fingerprint(&self, limit: u64) -> io::Result<Fingerprint> {
        let mut hasher = blake3::Hasher::new();
        read_all(self.file()?, limit, |piece| {
            hasher.update(piece);
        })?;
        Ok(Fingerprint(hasher.finalize()))
    }

    /// The file once more, for another process.
    pub(crate) fn reopened(&self) -> io::Result<File> {
        self.file()?.try_clone()
    }
}

/// A private copy of `file`, which nobody can change any more, if it has this fingerprint.
///
/// What is compiled has to be the very bytes that were hashed: a volume can be written by
/// another container meanwhile, which could otherwise put its own code into the cache under
/// the digest of somebody else's.
pub(crate) fn sealed_copy(file: &File, limit: u64, fingerprint: Fingerprint) -> io::Result<File> {
    let mut copy = memory_file()?;
    let mut hasher = blake3::Hasher::new();
    let mut written = Ok(());
    read_all(file, limit, |piece| {
        hasher.update(piece);
        if written.is_ok() {
            written = copy.write_all(piece);
        }
    })?;
    written?;
    if Fingerprint(hasher.finalize()) != fingerprint {
        return Err(changed());
    }
    seal(copy)
}

/// All bytes of a file that nobody can change any more.
pub(crate) fn bytes_of(sealed: &File) -> io::Result<Vec<u8>> {
    let length = sealed.metadata()?.len();
    let mut bytes = Vec::with_capacity(length as usize);
    read_pieces(sealed, length, |piece| bytes.extend_from_slice(piece))?;
    Ok(bytes)
}

/// Reads to the end of the file, which may come later than its length said.
fn read_all(file: &File, limit: u64, take: impl FnMut(&[u8])) -> io::Result<()> {
    let is_too_long = file.metadata()?.len() > limit;
    if is_too_long || read_pieces(file, limit + 1, take)? > limit {
        return Err(too_long(limit));
    }
    Ok(())
}

fn regular(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Hands over at most `limit` bytes of the file; says how many there were.
fn read_pieces(file: &File, limit: u64, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    const PIECE: u64 = 1 << 18;
    let mut buffer = vec![0; file.metadata()?.len().clamp(1, PIECE) as usize];
    let mut offset = 0;
    while offset < limit {
        let wanted = (limit - offset).min(buffer.len() as u64) as usize;
        match file.read_at(&mut buffer[..wanted], offset) {
            Ok(0) => break,
            Ok(count) => {
                offset += count as u64;
                take(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(offset)
}

fn changed() -> io::Error {
    io::Error::other("it is written to while it is being read")
}

fn too_long(limit: u64) -> io::Error {
    let message = format!(
        "it is longer than {} MiB, the most that this node accepts (option `source-bytes` of the cache)",
        limit >> 20
    );
    io::Error::other(Failure::new(ErrorClass::ResourceExhausted, message))
}

/// `bytes` as an open file without a name whose contents nobody can change any more.
pub(crate) fn sealed(bytes: &[u8]) -> io::Result<File> {
    let mut file = memory_file()?;
    file.write_all(bytes)?;
    seal(file)
}

fn memory_file() -> io::Result<File> {
    let descriptor = memfd_create(c"wasm", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    Ok(File::from(descriptor))
}

/// Ends all writing to the file, which is then read from its beginning.
fn seal(mut file: File) -> io::Result<File> {
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LIMIT: u64 = 1 << 21;

    fn source(bytes: &[u8]) -> Source<'static> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Source::new(file).unwrap()
    }

    /// A copy of the source, if its bytes are these.
    fn copied(source: &Source<'_>, limit: u64, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let fingerprint = Fingerprint::of(bytes);
        bytes_of(&sealed_copy(&source.reopened()?, limit, fingerprint)?)
    }

    #[test]
    fn the_digest_is_sha_256() {
        assert_eq!(
            Digest::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_fingerprint_is_of_all_bytes() {
        let long: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
        let source = source(&long);
        let fingerprint = source.fingerprint(LIMIT).unwrap();
        assert_eq!(fingerprint, Fingerprint::of(&long));
        assert_eq!(copied(&source, LIMIT, &long).unwrap(), long);
        let part = Fingerprint::of_file(source.file().unwrap(), 300_000).unwrap();
        assert_eq!(part, Fingerprint::of(&long[..300_000]));
        assert_eq!(
            Fingerprint::of(b"abc").to_string(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
    }

    #[test]
    fn what_is_no_file_or_too_long_is_refused() {
        let folder = File::open("/").unwrap();
        let error = Source::new(folder).err().unwrap().to_string();
        assert!(error.contains("regular file"), "{error}");
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(LIMIT + 1).unwrap();
        let source = Source::new(sparse).unwrap();
        for error in [
            source.fingerprint(LIMIT).unwrap_err(),
            copied(&source, LIMIT, b"").unwrap_err(),
        ] {
            assert!(error.to_string().contains("than 2 MiB"), "{error}");
        }
        copied(&source, LIMIT + 1, &vec![0; LIMIT as usize + 1]).unwrap();
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_refused() {
        // Files of procfs have a length of zero and are read nevertheless.
        let growing = Source::new(File::open("/proc/self/status").unwrap()).unwrap();
        assert!(growing.fingerprint(10).is_err());
    }

    #[test]
    fn other_bytes_than_those_that_were_hashed_are_not_copied() {
        let error = copied(&source(b"new"), LIMIT, b"old").unwrap_err();
        assert!(error.to_string().contains("written to"), "{error}");
    }

    #[test]
    fn content_is_fetched_once_and_only_when_it_is_needed() {
        let fetched = std::cell::Cell::new(0);
        let fetch = || {
            fetched.set(fetched.get() + 1);
            let mut file = tempfile::tempfile()?;
            file.write_all(b"bytes")?;
            Ok(file)
        };
        let source = Source::content("0", &fetch);
        assert_eq!((source.digest(), fetched.get()), (Some("0"), 0));
        assert_eq!(
            source.fingerprint(LIMIT).unwrap(),
            Fingerprint::of(b"bytes")
        );
        assert_eq!(copied(&source, LIMIT, b"bytes").unwrap(), b"bytes");
        assert_eq!(fetched.get(), 1);
        let fails = || -> io::Result<File> { Err(io::Error::other("gone")) };
        let error = Source::content("0", &fails).fingerprint(LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }

    fn file_of(bytes: &[u8]) -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        Ok(file)
    }

    #[test]
    fn components_are_handed_over_whole() {
        let parts = ["one", "two"].map(|name| Part {
            name: name.to_owned(),
            digest: Digest::of(name.as_bytes()).to_string(),
        });
        let fetch = |part: &Part| file_of(part.name.as_bytes());
        let composition = Composition::new(&parts, &fetch);
        let mut bytes = Vec::new();
        let mut input = composition.input(6).unwrap();
        assert!(input.set_len(1).is_err());
        input.read_to_end(&mut bytes).unwrap();
        let read = composition::read(&bytes).unwrap();
        assert_eq!(read.len(), 2);
        for component in read {
            assert_eq!(component.bytes, component.name.as_bytes());
        }
        let error = composition.input(5).unwrap_err().to_string();
        assert!(error.contains("source-bytes"), "{error}");
        let fails = |_: &Part| -> io::Result<File> { Err(io::Error::other("gone")) };
        let error = Composition::new(&parts, &fails).input(6).unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }

    #[test]
    fn a_composition_is_no_file() {
        let text = composition::identity(["0a"].into_iter());
        assert_ne!(
            Fingerprint::of_composition(&text),
            Fingerprint::of(text.as_bytes())
        );
    }

    #[test]
    fn a_sealed_copy_cannot_be_changed() {
        let mut file = sealed(b"bytes").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bytes");
        assert!(file.write_all(b"more").is_err());
        assert!(file.set_len(1).is_err());
    }
}
