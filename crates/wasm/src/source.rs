//! The Wasm file of an image, as bytes that do not change under the compiler.

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

/// SHA-256 of the bytes of a Wasm binary; shown as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// A regular file of limited size. Nothing here moves the file's offset.
#[derive(Debug)]
pub(crate) struct Source {
    file: File,
}

impl Source {
    /// Longest Wasm file that is accepted, in bytes: it is read into memory when it has to be
    /// compiled.
    pub(crate) const LIMIT: u64 = 1 << 30;

    pub(crate) fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        if metadata.len() > Self::LIMIT {
            return Err(too_long());
        }
        Ok(Self { file })
    }

    /// The first bytes of the file: eight, or fewer when it is shorter.
    pub(crate) fn header(&self) -> io::Result<Vec<u8>> {
        let mut header = Vec::with_capacity(8);
        let mut buffer = [0; 8];
        while header.len() < buffer.len() {
            let wanted = buffer.len() - header.len();
            match self
                .file
                .read_at(&mut buffer[..wanted], header.len() as u64)?
            {
                0 => break,
                count => header.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(header)
    }

    /// The digest of the file as it is now, read in pieces.
    pub(crate) fn digest(&self) -> io::Result<Digest> {
        let mut hasher = Sha256::new();
        self.read_pieces(|piece| hasher.update(piece))?;
        Ok(Digest(hasher.finalize().into()))
    }

    /// A private copy of the file as it is now.
    ///
    /// What is compiled has to be the very bytes that were hashed: a volume can be written by
    /// another container meanwhile, which could otherwise put its own code into the cache under
    /// the digest of somebody else's.
    pub(crate) fn copy(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_pieces(|piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    fn read_pieces(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        const PIECE: u64 = 1 << 18;
        let length = self.file.metadata()?.len();
        let mut buffer = vec![0; length.clamp(1, PIECE) as usize];
        let mut offset = 0;
        loop {
            match self.file.read_at(&mut buffer, offset) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    offset += count as u64;
                    if offset > Self::LIMIT {
                        return Err(too_long());
                    }
                    take(&buffer[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn too_long() -> io::Error {
    io::Error::other(format!(
        "it is longer than {} MiB, the most that Lighter accepts",
        Source::LIMIT >> 20
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

    fn source(bytes: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Source::new(file).unwrap()
    }

    #[test]
    fn the_digest_is_sha_256_of_all_bytes() {
        assert_eq!(
            source(b"abc").digest().unwrap().to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let long: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
        let source = source(&long);
        assert_eq!(source.digest().unwrap(), Digest::of(&long));
        assert_eq!(source.copy().unwrap(), long);
        assert_eq!(source.header().unwrap(), long[..8]);
    }

    #[test]
    fn short_files_have_short_headers() {
        assert_eq!(source(b"").header().unwrap(), b"");
        assert_eq!(source(b"\0asm").header().unwrap(), b"\0asm");
    }

    #[test]
    fn what_is_no_file_or_too_long_is_refused() {
        let folder = File::open("/").unwrap();
        let error = Source::new(folder).unwrap_err().to_string();
        assert!(error.contains("regular file"), "{error}");
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(Source::LIMIT + 1).unwrap();
        let error = Source::new(sparse).unwrap_err().to_string();
        assert!(error.contains("1024 MiB"), "{error}");
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
