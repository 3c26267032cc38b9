//! One at a time: who holds a lock compiles, and everybody else waits for the result.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::{FolderError, at};

/// A lock with a name in the file system. The file is there only as long as somebody holds it
/// or waits for it; the kernel unlocks it when its holder dies.
pub(super) struct Lock {
    /// Unlocked when it is closed, after [`Lock::drop`]. Close-on-exec, so that no worker
    /// keeps it.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits until nobody else holds the lock.
    pub(super) fn take(path: &Path) -> Result<Self, FolderError> {
        loop {
            let file = open(path)?;
            match file.lock() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|error| at(path, error))?,
            }
            if let Some(lock) = Self::held(file, path)? {
                return Ok(lock);
            }
        }
    }

    /// The lock, if nobody holds it.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>, FolderError> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Self::held(file, path),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(path, error)),
        }
    }

    /// None if whoever had it before has removed its name: ours locks nothing any more.
    fn held(file: File, path: &Path) -> Result<Option<Self>, FolderError> {
        let ours = file.metadata().map_err(|error| at(path, error))?;
        match fs::symlink_metadata(path) {
            Ok(current) if current.ino() == ours.ino() => Ok(Some(Self {
                _file: file,
                path: path.to_owned(),
            })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(path, error)),
        }
    }

    pub(super) fn release(self) {
        drop(self);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is unlocked, so that nobody finds the name of a lock that is not held. If
        // it fails, an empty file stays and the next holder removes it.
        let _ = fs::remove_file(&self.path);
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

    #[test]
    fn a_lock_excludes_others_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::take(&path).unwrap();
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
        let lock = Lock::take(&path).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        lock.release();
        assert!(Lock::try_take(&path).unwrap().is_some());
        assert!(!path.exists());
    }
}
