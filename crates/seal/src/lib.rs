//! Files of the host that processes of a container can reach, opened so that nobody can write to
//! them.
//!
//! `/proc/PID/exe` and `/proc/PID/fd` lead to the very file that a process executes or has open,
//! through the mount that it was opened through. So what counts is that mount: a detached clone
//! of the *directory*, made read-only, with the file opened below it. Whoever gets hold of such a
//! file cannot undo it. mount_setattr(2) changes a mount by its root alone, and the root is the
//! directory, which nothing leads to. (A clone of the file itself has the file as its root: root
//! in a container, with a user namespace of its own, makes that writable again.)

mod executable;
mod mount;

pub use executable::SealedExecutable;
pub use mount::read_only_mount;
