//! A session keyring for each container.
//!
//! A process inherits the session keyring of its parent (session-keyring(7)): without one of its own,
//! root in a container could read and change the keys of the shim's session, which are those of who
//! started containerd. libcontainer leaves it so.
// keyctl has no safe form.
#![allow(unsafe_code)]

use std::ffi::CString;

use lighter_core::Failure;
use nix::errno::Errno;

use crate::manage::ContainerLocation;

/// `KEY_USR_SEARCH` (linux/key.h): processes of an exec find the keyring by its name.
const KEY_USR_SEARCH: u32 = 0x0008_0000;

/// Gives this process, and what it forks from now on, the session keyring of the container. It is
/// created if it is not there. A kernel without keyrings has nothing to share.
///
/// Its name is runc's, with containerd's namespace: two may have containers of one id.
pub(crate) fn join(location: &ContainerLocation) -> Result<(), Failure> {
    let name = format!("_ses.{}.{}", location.namespace, location.id);
    let failed = |errno: Errno| {
        Failure::internal(format!("cannot join the session keyring {name}: {errno}"))
    };
    let c_name = CString::new(name.as_str()).map_err(|_| failed(Errno::EINVAL))?;
    match join_session_keyring(&c_name) {
        Ok(serial) => allow_search(serial).map_err(failed),
        // Container hosts often refuse it, by a filter or by a quota: runc goes on, too.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES | Errno::EDQUOT) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

fn join_session_keyring(name: &CString) -> Result<libc::c_long, Errno> {
    // SAFETY: the name ends with a NUL and lives until the call returns.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    };
    Errno::result(serial)
}

/// Adds the permission to those that a new keyring has (keyrings(7)).
fn allow_search(serial: libc::c_long) -> Result<(), Errno> {
    /// `KEY_POS_ALL | KEY_USR_VIEW | KEY_USR_READ`, which the kernel gives a session keyring.
    const INITIAL: u32 = 0x3f03_0000;
    let permissions = INITIAL | KEY_USR_SEARCH;
    // SAFETY: the arguments are integers.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, serial, permissions) };
    Errno::result(result).map(drop)
}
