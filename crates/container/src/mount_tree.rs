//! A tree of mounts that is in no mount namespace yet, by the file descriptor that open_tree(2) gives.
// open_tree, mount_setattr and move_mount have no safe form.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::fchdir;

/// A clone of mounts. It goes with the value, unless it has been attached.
pub(crate) struct MountTree {
    root: OwnedFd,
}

/// What mount_setattr(2) changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

impl MountTree {
    /// Clones the mount at `path`, from `path` downwards; with the mounts below it, if `recursive`.
    pub(crate) fn clone_of(path: &Path, recursive: bool) -> Result<Self, Errno> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | depth(recursive);
        // SAFETY: the path ends with a NUL, and what the kernel returns is a new descriptor, which
        // nobody else has.
        let root = unsafe {
            let opened = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
            OwnedFd::from_raw_fd(Errno::result(opened)? as RawFd)
        };
        Ok(Self { root })
    }

    /// Changes the mount, or all of the tree, if `recursive`.
    pub(crate) fn change(&self, attributes: Attributes, recursive: bool) -> Result<(), Errno> {
        self.set(
            libc::mount_attr {
                attr_set: attributes.set,
                attr_clr: attributes.clear,
                propagation: 0,
                userns_fd: 0,
            },
            recursive,
        )
    }

    /// Shows files that the host's user N owns as owned by the user that N is in the user namespace
    /// `users`, and the other way round.
    pub(crate) fn map_ids(&self, users: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
        self.set(
            libc::mount_attr {
                attr_set: libc::MOUNT_ATTR_IDMAP,
                attr_clr: 0,
                propagation: 0,
                userns_fd: users.as_raw_fd() as u64,
            },
            recursive,
        )
    }

    /// Parts all of the tree from what it was cloned from: no mount and no unmount goes from one to
    /// the other.
    pub(crate) fn make_private(&self) -> Result<(), Errno> {
        self.set(
            libc::mount_attr {
                attr_set: 0,
                attr_clr: 0,
                propagation: libc::MS_PRIVATE,
                userns_fd: 0,
            },
            true,
        )
    }

    fn set(&self, attributes: libc::mount_attr, recursive: bool) -> Result<(), Errno> {
        let flags = libc::AT_EMPTY_PATH as libc::c_uint | depth(recursive);
        // SAFETY: the path ends with a NUL, and the structure lives and has the size that is given.
        let changed = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.root.as_raw_fd(),
                c"".as_ptr(),
                flags,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        Errno::result(changed).map(drop)
    }

    /// Mounts the tree at `target`.
    pub(crate) fn attach(&self, target: &Path) -> Result<(), Errno> {
        let target = CString::new(target.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        // SAFETY: both paths end with a NUL.
        let moved = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.root.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(moved).map(drop)
    }

    /// Makes its root this process's working directory.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        fchdir(&self.root)
    }

    /// Whether its root is a directory, and not a file.
    pub(crate) fn is_directory(&self) -> Result<bool, Errno> {
        let mode = fstat(self.root.as_fd())?.st_mode;
        Ok(mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
    }
}

fn depth(recursive: bool) -> libc::c_uint {
    if recursive {
        libc::AT_RECURSIVE as libc::c_uint
    } else {
        0
    }
}
