//! One at a time: who holds a lock compiles, and everybody else waits for the result.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{FolderError, at};

/// For what its holder does in a moment.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a lock is tried that another process holds.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_millis(20);

/// A lock with a name in the file system. The file is there only as long as somebody holds it
/// or waits for it; the kernel unlocks it when its last holder dies.
#[derive(Debug)]
pub(super) struct Lock {
    /// Unlocked when it and its copies in forks are closed, after [`Lock::drop`].
    /// Close-on-exec, so that no worker keeps it.
    file: File,
    path: PathBuf,
    /// Whether the name goes when this value does.
    is_owner: bool,
}

impl Lock {
    /// Waits until nobody else holds the lock, but no longer than until `deadline`.
    pub(super) fn take(path: &Path, deadline: Instant) -> Result<Self, FolderError> {
        let began = Instant::now();
        let mut interval = MIN_INTERVAL;
        loop {
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(FolderError::busy(path, began.elapsed()));
            }
            std::thread::sleep(interval);
            interval = (interval * 2).min(MAX_INTERVAL);
        }
    }

    /// The lock, if nobody holds it.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>, FolderError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Self::held(file, path),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {
                Ok(None)
            }
            Err(TryLockError::Error(error)) => Err(at(path, error)),
        }
    }

    /// None if whoever had it before has removed its name: ours locks nothing any more.
    fn held(file: File, path: &Path) -> Result<Option<Self>, FolderError> {
        let ours = file.metadata().map_err(|error| at(path, error))?;
        match fs::symlink_metadata(path) {
            Ok(current) if current.ino() == ours.ino() => Ok(Some(Self {
                file,
                path: path.to_owned(),
                is_owner: true,
            })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(path, error)),
        }
    }

    /// Gives it another name, which nothing has.
    pub(super) fn rename(&mut self, path: PathBuf) -> Result<(), FolderError> {
        fs::rename(&self.path, &path).map_err(|error| at(&path, error))?;
        self.path = path;
        Ok(())
    }

    /// Says to those who wait what its holder does.
    pub(super) fn note(&self, note: &str) {
        // Nobody needs to know: it is for a message.
        let _ = self.file.set_len(0);
        let _ = self.file.write_all_at(note.as_bytes(), 0);
    }

    /// What a process needs to hold it too.
    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Leaves the name to a process that gets a copy of this: closing the file is all that
    /// becomes of this one.
    pub(super) fn hand_over(&mut self) {
        self.is_owner = false;
    }

    /// Takes the name over, in the process that got the copy.
    pub(super) fn adopt(&mut self) {
        self.is_owner = true;
    }

    pub(super) fn release(self) {
        drop(self);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is unlocked, so that nobody finds the name of a lock that is not held. If
        // it fails, an empty file stays and the next holder removes it.
        if self.is_owner {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Shares `file` with others that map it. Unlike a lock of nix, this one is not given up when one
/// of several copies is dropped.
///
/// Whoever evicts an artifact holds it alone for a moment. A guest that broke out of Wasm can do
/// so for as long as it runs, as its process has the file open.
pub(super) fn lock_shared(file: &File, path: &Path) -> Result<(), FolderError> {
    let began = Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(at(path, error));
            }
            Err(_) if began.elapsed() >= LOCK_TIMEOUT => {
                return Err(FolderError::busy(path, began.elapsed()));
            }
            Err(_) => std::thread::sleep(MIN_INTERVAL),
        }
    }
}

fn open(path: &Path) -> Result<File, FolderError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| at(path, error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_lock_excludes_others_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::take(&path, soon()).unwrap();
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                        lock.release();
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_that_is_held_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path, soon()).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        lock.release();
        assert!(Lock::try_take(&path).unwrap().is_some());
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_that_stays_held_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = Lock::take(&path, soon()).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = Lock::take(&path, deadline).unwrap_err();
        assert!(matches!(error, FolderError::Busy { .. }), "{error}");
        assert!(error.to_string().contains("x.lock"), "{error}");
        lock.release();
    }

    #[test]
    fn a_lock_that_was_handed_over_goes_with_its_new_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let mut lock = Lock::take(&path, soon()).unwrap();
        let mut copy = Lock {
            file: lock.file.try_clone().unwrap(),
            path: path.clone(),
            is_owner: false,
        };
        lock.hand_over();
        lock.release();
        assert!(path.exists());
        assert!(Lock::try_take(&path).unwrap().is_none());
        copy.adopt();
        copy.release();
        assert!(!path.exists());
    }
}
