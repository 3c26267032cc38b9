//! Fills a tmpfs with what it covers: the option `tmpcopyup`, which runc knows and the kernel does not.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown, lchown, symlink};
use std::path::Path;

use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::mount_tree::{Attributes, MountTree};

/// Copies what the tmpfs at `mount_point` covers into it, and makes it read-only then.
///
/// The tmpfs is taken away and put back, with the mounts below it. For a mount namespace in which nobody
/// runs but an init that waits, and for what the image has: nobody puts a link there meanwhile.
pub(crate) fn fill(mount_point: &Path, read_only: bool) -> io::Result<()> {
    let tmpfs = MountTree::clone_of(mount_point, true)?;
    umount2(mount_point, MntFlags::MNT_DETACH)?;
    // The tmpfs has no path now.
    tmpfs.enter()?;
    let copied = copy_directory(mount_point, Path::new("."));
    if copied.is_ok() && read_only {
        let attributes = Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            ..Attributes::default()
        };
        tmpfs.change(attributes, false)?;
    }
    tmpfs.attach(mount_point)?;
    copied
}

/// Copies the entries of a directory, and its own owner and mode. Links are copied, never followed.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        copy_entry(&entry?, to)?;
    }
    let metadata = fs::metadata(from)?;
    chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(to, metadata.permissions())
}

fn copy_entry(entry: &DirEntry, to: &Path) -> io::Result<()> {
    let (from, to) = (entry.path(), to.join(entry.file_name()));
    let metadata = fs::symlink_metadata(&from)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        fs::create_dir(&to)?;
        return copy_directory(&from, &to);
    }
    let (uid, gid) = (Some(metadata.uid()), Some(metadata.gid()));
    if kind.is_symlink() {
        symlink(fs::read_link(&from)?, &to)?;
        return lchown(&to, uid, gid);
    }
    if kind.is_file() {
        fs::copy(&from, &to)?;
    } else if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
        let kind = SFlag::from_bits_truncate(metadata.mode() & SFlag::S_IFMT.bits());
        mknod(&to, kind, Mode::empty(), metadata.rdev())?;
    } else {
        // A socket means nothing without the process that listens on it.
        return Ok(());
    }
    // The owner first: to change it takes the set-user-ID bit away.
    lchown(&to, uid, gid)?;
    fs::set_permissions(&to, metadata.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tree_is_copied_as_it_is() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (from.path(), to.path());
        fs::create_dir(from.join("dir")).unwrap();
        fs::write(from.join("dir/file"), "text").unwrap();
        fs::set_permissions(from.join("dir/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        nix::unistd::mkfifo(&from.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        fs::set_permissions(from, fs::Permissions::from_mode(0o1777)).unwrap();

        copy_directory(from, to).unwrap();

        assert_eq!(fs::read_to_string(to.join("dir/file")).unwrap(), "text");
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&to.join("dir/file")), 0o4751);
        assert_eq!(mode(&to.join("fifo")), 0o600);
        assert_eq!(mode(to), 0o1777);
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
    }
}
