//! The folder of the cache: whose it is, and whether code can be run from there.
//!
//! ```text
//! artifacts/          root's alone, checked at every use
//!   code/             complete artifacts, renamed here after fsync (see `artifact`)
//!   sources/          what is known of bytes that were compiled here (see `sources`)
//!   work/             locks and unfinished files of those who compile
//!   turns/            who compiles and who waits (see `turns`); made by the first who compiles
//!   failures/         what could not be compiled lately (see `failures`); made by the first
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use super::error::{FolderError, at};

/// Said wherever the folder is not this user's alone.
const WHY: &str =
    "nobody but its owner may be able to write native code there: fix it or remove the folder";

/// A folder that has been found to be safe to map code from.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, made with mode 0700 if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                fs::symlink_metadata(path)
            }
            other => other,
        }
        .map_err(|error| at(path, error))?;
        let fault = if !metadata.is_dir() {
            format!("is not a folder; {WHY}")
        } else if metadata.uid() != geteuid().as_raw() {
            let own = geteuid();
            format!("belongs to user {}, not {own}; {WHY}", metadata.uid())
        } else if metadata.mode() & 0o077 != 0 {
            format!("has mode {:03o}, not 700; {WHY}", metadata.mode() & 0o777)
        } else if is_noexec(path)? {
            "is on a file system that is mounted noexec, so that no code in it can be run: mount \
             it with the option exec, or keep the folder elsewhere"
                .to_owned()
        } else {
            let folder = Self {
                path: path.to_owned(),
            };
            for part in [folder.code(), folder.sources(), folder.work()] {
                if !part.is_dir() {
                    make(&part)?;
                }
            }
            return Ok(folder);
        };
        Err(FolderError::Unfit {
            path: path.to_owned(),
            fault,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A part of it that is not needed by a start that finds its code.
    pub(super) fn made(&self, part: &str) -> Result<PathBuf, FolderError> {
        let path = self.path.join(part);
        if !path.is_dir() {
            make(&path)?;
        }
        Ok(path)
    }

    pub(super) fn code(&self) -> PathBuf {
        self.path.join("code")
    }

    pub(super) fn sources(&self) -> PathBuf {
        self.path.join("sources")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }
}

fn make(path: &Path) -> Result<(), FolderError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| at(path, error))
}

fn is_noexec(path: &Path) -> Result<bool, FolderError> {
    statvfs(path)
        .map(|status| status.flags().contains(FsFlags::ST_NOEXEC))
        .map_err(|error| at(path, error.into()))
}

/// The names in a folder of the cache, in order.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, FolderError> {
    let failed = |error| at(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A new, empty file for this user alone; what was left under its name is removed first.
pub(super) fn create(path: &Path) -> Result<File, FolderError> {
    remove(path)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| at(path, error))
}

/// Removes a file that another process may remove too.
pub(super) fn remove(path: &Path) -> Result<(), FolderError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn fault_of(path: &Path) -> String {
        Folder::open(path).unwrap_err().to_string()
    }

    #[test]
    fn the_folder_is_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        Folder::open(&path).unwrap();
        let folder = Folder::open(&path).unwrap();
        for part in [path, folder.code(), folder.sources(), folder.work()] {
            assert_eq!(fs::metadata(part).unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("shared");
        fs::create_dir(&path).unwrap();
        for mode in [0o701, 0o710, 0o720, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let fault = fault_of(&path);
            assert!(fault.contains(&format!("mode {mode:o}")), "{fault}");
        }
    }

    #[test]
    fn what_only_looks_like_a_folder_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(fault_of(&file).contains("is not a folder"));
        let link = parent.path().join("link");
        symlink(parent.path(), &link).unwrap();
        assert!(fault_of(&link).contains("is not a folder"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("foreign");
        fs::create_dir(&path).unwrap();
        if std::os::unix::fs::chown(&path, Some(65534), None).is_err() {
            // Only root can give a folder away; anybody else meets one of root's instead.
            assert!(fault_of(Path::new("/root")).contains("belongs to user 0"));
            return;
        }
        assert!(fault_of(&path).contains("belongs to user 65534"));
    }
}
