//! What stands where a program of Lighter goes: one of ours, or something else. It is read, and never run:
//! a foreign file that root asks for its version is a foreign file that root has run.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use lighter_core::PROGRAM_MARK;
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::files;

/// No program of Lighter is larger, and nothing larger is read.
const MAX_PROGRAM_BYTES: u64 = 1 << 30;
/// How much is read at a time.
const CHUNK: usize = 1 << 20;

/// What stands at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A program of Lighter, of any release, with its SHA-256.
    Own { digest: String },
    /// Something else.
    Foreign(Foreign),
}

/// What is no program of Lighter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Program,
    Link,
    Directory,
    Other,
}

impl fmt::Display for Foreign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Program => "another program",
            Self::Link => "a symbolic link",
            Self::Directory => "a directory",
            Self::Other => "a file that is no program",
        })
    }
}

/// Looks at a place. A file is Lighter's by the mark in it, or by its digest in the record of the
/// installation, which is `recorded`. A link is nobody's program, wherever it leads to.
///
/// # Errors
/// When the file cannot be read.
pub fn look_at(place: &Path, recorded: Option<&str>) -> io::Result<Found> {
    let kind = match fs::symlink_metadata(place) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    if kind.is_symlink() {
        return Ok(Found::Foreign(Foreign::Link));
    }
    if kind.is_dir() {
        return Ok(Found::Foreign(Foreign::Directory));
    }
    if !kind.is_file() {
        return Ok(Found::Foreign(Foreign::Other));
    }
    // What has taken its place meanwhile is not followed, and not waited for.
    let file = File::options()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(place)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_PROGRAM_BYTES {
        return Ok(Found::Foreign(Foreign::Other));
    }
    let (digest, has_mark) = read(file.take(MAX_PROGRAM_BYTES))?;
    Ok(if has_mark || recorded == Some(digest.as_str()) {
        Found::Own { digest }
    } else {
        Found::Foreign(Foreign::Program)
    })
}

/// Whether these bytes are a program of Lighter.
pub fn is_own(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") && has_mark(bytes)
}

/// The digest of a file, and whether it is a program with our mark.
fn read(mut file: impl Read) -> io::Result<(String, bool)> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let (mut kept, mut marked, mut is_elf) = (0, false, None);
    loop {
        let count = file.read(&mut chunk[kept..])?;
        if count == 0 {
            return Ok((
                files::hexadecimal(&hash.finalize()),
                marked && is_elf == Some(true),
            ));
        }
        let filled = kept + count;
        hash.update(&chunk[kept..filled]);
        is_elf.get_or_insert_with(|| chunk.starts_with(b"\x7fELF"));
        marked = marked || has_mark(&chunk[..filled]);
        // The mark may lie across two chunks.
        let tail = filled.min(PROGRAM_MARK.len() - 1);
        chunk.copy_within(filled - tail..filled, 0);
        kept = tail;
    }
}

fn has_mark(bytes: &[u8]) -> bool {
    // The second byte is rarer than the first, which is zero.
    let mut windows = bytes.windows(PROGRAM_MARK.len());
    windows.any(|window| window[1] == PROGRAM_MARK[1] && window == PROGRAM_MARK)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use proptest::prelude::*;

    use super::*;

    fn own(rest: &[u8]) -> Vec<u8> {
        [b"\x7fELF".as_slice(), &PROGRAM_MARK, rest].concat()
    }

    #[test]
    fn what_stands_there_is_told_without_running_or_following_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        fs::write(place("own"), own(b"1")).unwrap();
        fs::write(place("foreign"), b"\x7fELF of runwasi").unwrap();
        fs::write(
            place("script"),
            [b"#!/bin/sh\n".as_slice(), &PROGRAM_MARK].concat(),
        )
        .unwrap();
        symlink("own", place("link")).unwrap();
        symlink("nowhere", place("dangling")).unwrap();
        fs::create_dir(place("dir")).unwrap();
        mkfifo(&place("fifo"), Mode::S_IRWXU).unwrap();
        File::create(place("huge"))
            .unwrap()
            .set_len(MAX_PROGRAM_BYTES + 1)
            .unwrap();
        let digest = files::digest(&own(b"1"));
        for (name, found) in [
            ("own", Found::Own { digest }),
            ("nothing", Found::Nothing),
            ("foreign", Found::Foreign(Foreign::Program)),
            ("script", Found::Foreign(Foreign::Program)),
            ("link", Found::Foreign(Foreign::Link)),
            ("dangling", Found::Foreign(Foreign::Link)),
            ("dir", Found::Foreign(Foreign::Directory)),
            ("fifo", Found::Foreign(Foreign::Other)),
            ("huge", Found::Foreign(Foreign::Other)),
        ] {
            assert_eq!(look_at(&place(name), None).unwrap(), found, "{name}");
        }
        // What an installation has recorded is its own, also without the mark.
        let digest = files::digest(b"\x7fELF of runwasi");
        let recorded = look_at(&place("foreign"), Some(&digest)).unwrap();
        assert_eq!(recorded, Found::Own { digest });
    }

    #[test]
    fn the_programs_have_the_mark() {
        lighter_core::keep_program_mark();
        let this = std::env::current_exe().unwrap();
        assert!(matches!(look_at(&this, None).unwrap(), Found::Own { .. }));
        let other = look_at(&fs::canonicalize("/bin/sh").unwrap(), None);
        assert_eq!(other.unwrap(), Found::Foreign(Foreign::Program));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_mark_is_found_wherever_it_is(
            before in prop_oneof![0..200_usize, CHUNK - 100..CHUNK + 100],
            cut in 0..PROGRAM_MARK.len(),
            whole: bool,
        ) {
            let mut bytes = b"\x7fELF".to_vec();
            bytes.resize(4 + before, b'l');
            bytes.extend(if whole { &PROGRAM_MARK[..] } else { &PROGRAM_MARK[..cut] });
            bytes.extend([b'x'; 99]);
            let (digest, marked) = read(bytes.as_slice()).unwrap();
            prop_assert_eq!(marked, whole);
            prop_assert_eq!(marked, is_own(&bytes));
            prop_assert_eq!(digest, files::digest(&bytes));
        }
    }
}
