//! The read-only mount.
#![allow(unsafe_code)] // open_tree(2) and mount_setattr(2) have no safe binding.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// Clones the mount of the directory `dir` into one of its own, in no mount namespace: read-only,
/// and without what is mounted below it.
///
/// It lives as long as the descriptor or anything that was opened below it. The descriptor itself
/// must not get into a process that a container can reach: it is the mount's root.
///
/// # Errors
/// Those of open_tree(2) and mount_setattr(2): without CAP_SYS_ADMIN, or before Linux 5.12.
pub fn read_only_mount(dir: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        // What the host mounts there later must not appear here.
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a NUL, and what the kernel returns is a new descriptor, which
    // nobody else has.
    let mount = unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        let opened = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
        OwnedFd::from_raw_fd(Errno::result(opened)? as i32)
    };
    // SAFETY: the path ends with a NUL, and the structure lives and has the size that is given.
    let changed = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(changed)?;
    Ok(mount)
}
