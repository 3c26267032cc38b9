//! The Wasm file of an image, as bytes that do not change under the compiler.

use std::cell::OnceCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

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
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes))
    }

    /// One of `count` numbers from 0 on, evenly spread.
    pub(crate) fn spread(&self, count: u32) -> u32 {
        let [a, b, c, d, ..] = *self.0.as_bytes();
        u32::from_le_bytes([a, b, c, d]) % count.max(1)
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

/// A regular file. Nothing here moves the file's offset, and nothing but its contents counts:
/// a volume or a file system of the network can forge times and inode numbers.
///
/// Or bytes whose SHA-256 is known before they are there: they are fetched when they are needed,
/// which they are not once they have been compiled.
pub(crate) struct Source<'a> {
    file: OnceCell<File>,
    content: Option<(String, &'a Fetch<'a>)>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file: OnceCell::from(regular(file)?),
            content: None,
        })
    }

    /// The bytes with the SHA-256 `digest` (64 hexadecimal digits), which `fetch` gets.
    pub(crate) fn content(digest: &str, fetch: &'a Fetch<'a>) -> Self {
        Self {
            file: OnceCell::new(),
            content: Some((digest.to_owned(), fetch)),
        }
    }

    /// The SHA-256, if it is known without reading.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.content.as_ref().map(|(digest, _)| digest.as_str())
    }

    fn file(&self) -> io::Result<&File> {
        if let (None, Some((_, fetch))) = (self.file.get(), &self.content) {
            // Nobody else is here to set it: a cell is one thread's.
            let _ = self.file.set(regular(fetch()?)?);
        }
        self.file
            .get()
            .ok_or_else(|| io::Error::other("there is no file"))
    }

    /// The fingerprint of the file as it is now, read in pieces.
    pub(crate) fn fingerprint(&self, limit: u64) -> io::Result<Fingerprint> {
        self.check_length(limit)?;
        let mut hasher = blake3::Hasher::new();
        self.read(limit, |piece| {
            hasher.update(piece);
        })?;
        Ok(Fingerprint(hasher.finalize()))
    }

    /// A private copy of the file as it is now.
    ///
    /// What is compiled has to be the very bytes that were hashed: a volume can be written by
    /// another container meanwhile, which could otherwise put its own code into the cache under
    /// the digest of somebody else's.
    pub(crate) fn copy(&self, limit: u64) -> io::Result<Vec<u8>> {
        let length = self.check_length(limit)?;
        let mut bytes = Vec::with_capacity(length as usize);
        self.read(limit, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    fn check_length(&self, limit: u64) -> io::Result<u64> {
        let length = self.file()?.metadata()?.len();
        if length > limit {
            return Err(too_long(limit));
        }
        Ok(length)
    }

    /// Reads to the end of the file, which may come later than its length said.
    fn read(&self, limit: u64, take: impl FnMut(&[u8])) -> io::Result<()> {
        if read_pieces(self.file()?, limit + 1, take)? > limit {
            return Err(too_long(limit));
        }
        Ok(())
    }
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

fn too_long(limit: u64) -> io::Error {
    io::Error::other(format!(
        "it is longer than {} MiB, the most that this node accepts (option `source-bytes` of the cache)",
        limit >> 20
    ))
}

/// `bytes` as an open file without a name whose contents nobody can change any more.
pub(crate) fn sealed(bytes: &[u8]) -> io::Result<File> {
    let descriptor = memfd_create(c"wasm", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(descriptor);
    file.write_all(bytes)?;
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
        assert_eq!(source.copy(LIMIT).unwrap(), long);
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
            source.copy(LIMIT).unwrap_err(),
        ] {
            assert!(error.to_string().contains("than 2 MiB"), "{error}");
        }
        source.copy(LIMIT + 1).unwrap();
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_refused() {
        // Files of procfs have a length of zero and are read nevertheless.
        let growing = Source::new(File::open("/proc/self/status").unwrap()).unwrap();
        assert!(growing.fingerprint(10).is_err());
        assert!(growing.copy(1 << 20).unwrap().len() > 10);
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
        assert_eq!(source.copy(LIMIT).unwrap(), b"bytes");
        assert_eq!(fetched.get(), 1);
        let fails = || -> io::Result<File> { Err(io::Error::other("gone")) };
        let error = Source::content("0", &fails).copy(LIMIT).unwrap_err();
        assert_eq!(error.to_string(), "gone");
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
