//! Where the state of containers is, for root alone: a pod's annotations and a process's
//! environment are in it, and both may hold secrets.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use lighter_core::{STATE_FILE, STATE_ROOT};

use crate::manage::ContainerLocation;

/// What libcontainer writes beside [`STATE_FILE`]: the hooks, with their environment.
const CONFIG_FILE: &str = "youki_config.json";

/// Makes the directories that the container's own is made in.
pub(crate) fn create(location: &ContainerLocation) -> io::Result<()> {
    create_private(Path::new(STATE_ROOT))?;
    create_private(&location.state_folder())
}

/// Takes from everybody else what libcontainer has written for a container.
pub(crate) fn restrict(location: &ContainerLocation) -> io::Result<()> {
    for name in [STATE_FILE, CONFIG_FILE] {
        fs::set_permissions(location.state().join(name), Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Makes the directory `path` for this user alone. One that is there already, of an older release or
/// made by a kubelet for a volume, is taken from everybody else.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "{} belongs to somebody else: remove it",
            path.display()
        )));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// An empty file at `path` that nobody else can read.
pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_directory_is_made_private_also_if_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        create_private(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn what_is_no_directory_of_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(create_private(&link).is_err());
        if nix::unistd::geteuid().is_root() {
            let path = dir.path().join("other");
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(create_private(&path).is_err());
        }
    }

    #[test]
    fn a_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create_private_file(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }
}
