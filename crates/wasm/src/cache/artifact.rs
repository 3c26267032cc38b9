//! One artifact: found whole, locked while it is mapped, published in one step.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;

use super::error::{FolderError, at};
use super::folder::remove;
use super::key::Key;
use super::lock::lock_shared;
use super::trailer::{self, Trailer};
use crate::classify::World;
use crate::engine::Compilation;
use crate::source::Fingerprint;

/// A use is noted at most this often, to spare the disk.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// Code that this node compiled, complete and ready to be mapped.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) path: PathBuf,
    pub(crate) world: World,
    pub(crate) compilation: Compilation,
    /// Holds a shared lock, as long as it or a copy of it is open, also in a fork: what is
    /// locked is not evicted. What maps the code keeps that of [`Artifact::read_only`].
    pub(crate) file: File,
    pub(super) trailer: Trailer,
    /// Whether it was compiled for this very call.
    pub(crate) is_new: bool,
}

/// The artifact `key` in `folder`. None if there is none, or if it is not what was published
/// under that name: cut, changed, or another one.
pub(super) fn open(folder: &Path, key: &Key) -> Result<Option<Artifact>, FolderError> {
    let path = folder.join(key.to_string());
    let failed = |error| at(&path, error);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    lock_shared(&file, &path)?;
    let metadata = file.metadata().map_err(failed)?;
    // Evicted while we waited for the lock.
    if metadata.nlink() == 0 {
        return Ok(None);
    }
    let own = metadata.is_file() && metadata.uid() == geteuid().as_raw();
    let Some(trailer) = read_trailer(&file, metadata.len()).map_err(failed)? else {
        return Ok(None);
    };
    if !own || trailer.key != *key {
        return Ok(None);
    }
    if metadata.modified().map_err(failed)? != trailer.written_at() {
        if !is_undamaged(&file, &trailer).map_err(failed)? {
            return Ok(None);
        }
        set_times(&file, &trailer).map_err(failed)?;
    }
    note_use(&file, &metadata).map_err(failed)?;
    Ok(Some(Artifact {
        path,
        world: trailer.world,
        compilation: key.compilation,
        file,
        trailer,
        is_new: false,
    }))
}

impl Artifact {
    /// The same file, opened by another path and locked too.
    pub(super) fn locked_again(&self, path: &Path) -> io::Result<File> {
        let file = File::open(path)?;
        lock_shared(&file, path).map_err(io::Error::other)?;
        if file.metadata()?.ino() == self.file.metadata()?.ino() {
            return Ok(file);
        }
        Err(io::Error::other("another one is there now"))
    }
}

/// Makes the complete file at `unfinished`, whose code ends before `trailer` begins, the
/// artifact of its key in `folder`.
pub(super) fn publish(
    folder: &Path,
    unfinished: &Path,
    file: &File,
    trailer: Trailer,
) -> Result<Artifact, FolderError> {
    let failed = |error| at(unfinished, error);
    file.write_all_at(&trailer.bytes(), trailer.code_bytes)
        .and_then(|()| set_times(file, &trailer))
        // Without it, a power cut could leave a complete name on incomplete code.
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    // Locked before it has its name, so that nobody evicts it before it was used once.
    let locked = File::open(unfinished).map_err(failed)?;
    lock_shared(&locked, unfinished)?;
    let path = folder.join(trailer.key.to_string());
    fs::rename(unfinished, &path).map_err(|error| at(&path, error))?;
    Ok(Artifact {
        path,
        world: trailer.world,
        compilation: trailer.key.compilation,
        file: locked,
        trailer,
        is_new: true,
    })
}

/// Removes an artifact, unless it has been replaced meanwhile.
pub(super) fn forget(artifact: &Artifact) -> Result<(), FolderError> {
    let failed = |error| at(&artifact.path, error);
    let ours = artifact.file.metadata().map_err(failed)?;
    match fs::symlink_metadata(&artifact.path) {
        Ok(current) if current.ino() == ours.ino() => remove(&artifact.path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// The end of a file of `length` bytes, if it is a trailer that fits it.
///
/// That the length is right is what makes mapping safe: touching a page behind the end of a
/// file that was cut is a SIGBUS.
pub(super) fn read_trailer(file: &File, length: u64) -> io::Result<Option<Trailer>> {
    let Some(code_bytes) = length.checked_sub(trailer::LENGTH) else {
        return Ok(None);
    };
    let mut bytes = vec![0; trailer::LENGTH as usize];
    match file.read_exact_at(&mut bytes, code_bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    Ok(Trailer::parse(&bytes).filter(|trailer| trailer.code_bytes == code_bytes))
}

/// Whether the code is what the compile worker wrote. Reads all of it.
pub(super) fn is_undamaged(file: &File, trailer: &Trailer) -> io::Result<bool> {
    let checksum = Fingerprint::of_file(file, trailer.code_bytes)?;
    Ok(checksum.to_string() == trailer.checksum)
}

fn set_times(file: &File, trailer: &Trailer) -> io::Result<()> {
    let times = FileTimes::new()
        .set_modified(trailer.written_at())
        .set_accessed(SystemTime::now());
    file.set_times(times)
}

/// The time of access says when it was used last, whatever the file system is mounted with.
fn note_use(file: &File, metadata: &fs::Metadata) -> io::Result<()> {
    let now = SystemTime::now();
    let fresh = metadata
        .accessed()
        .is_ok_and(|last| now.duration_since(last).is_ok_and(|age| age < NOTED_EVERY));
    if fresh {
        return Ok(());
    }
    file.set_times(FileTimes::new().set_accessed(now))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::source::Digest;

    const CODE: &[u8] = b"native code";

    fn key() -> Key {
        Key::of(&Digest::of(b"wasm").to_string(), Compilation::default())
    }

    fn publish_in(folder: &Path) -> Artifact {
        let unfinished = folder.join("unfinished");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&unfinished)
            .unwrap();
        file.write_all(CODE).unwrap();
        let trailer = Trailer {
            key: key(),
            world: World::Module,
            source_bytes: 4,
            code_bytes: CODE.len() as u64,
            checksum: Fingerprint::of(CODE).to_string(),
            engine: "0".repeat(16),
            written: 1_000_000_000,
            milliseconds: 5,
        };
        publish(folder, &unfinished, &file, trailer).unwrap()
    }

    #[test]
    fn what_was_published_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path(), &key()).unwrap().is_none());
        let published = publish_in(folder.path());
        let found = open(folder.path(), &key()).unwrap().unwrap();
        assert_eq!(found.path, published.path);
        assert_eq!(found.trailer, published.trailer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_changed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = publish_in(folder.path()).path;
        let whole = fs::read(&path).unwrap();
        let found = || open(folder.path(), &key()).unwrap().is_some();
        for byte in 0..CODE.len() {
            let mut changed = whole.clone();
            changed[byte] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(!found(), "byte {byte}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(!found(), "cut to {length}");
        }
        fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
        assert!(!found());
        // As a copy from a backup is: the contents are right, the time is not.
        fs::write(&path, &whole).unwrap();
        assert!(found());
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        assert_eq!(
            modified,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
        );
    }

    #[test]
    fn another_artifact_under_its_name_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = publish_in(folder.path()).path;
        let other = Key::of(&Digest::of(b"other").to_string(), Compilation::default());
        fs::rename(path, folder.path().join(other.to_string())).unwrap();
        assert!(open(folder.path(), &other).unwrap().is_none());
    }

    #[test]
    fn only_the_artifact_itself_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let old = publish_in(folder.path());
        let new = publish_in(folder.path());
        forget(&old).unwrap();
        assert!(new.path.exists());
        forget(&new).unwrap();
        assert!(!new.path.exists());
        forget(&new).unwrap();
    }

    #[test]
    fn it_is_locked_while_it_or_a_copy_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let Artifact { file, path, .. } = publish_in(folder.path());
        let free = || File::open(&path).unwrap().try_lock().is_ok();
        assert!(!free());
        let copy = file.try_clone().unwrap();
        drop(file);
        assert!(!free());
        drop(copy);
        assert!(free());
    }
}
