//! The one place that collects children, whoever forked them.
//!
//! The shim is a subreaper: inits, operations, libcontainer's intermediate processes and
//! orphans of a create that was killed all become its children. SIGCHLD is read from a
//! signalfd and not caught by a handler: a handler would be inherited by every fork and run in
//! a guest's process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use lighter_core::Exit;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::io::unix::AsyncFd;

use crate::raw::{readable, reap};

/// Blocks SIGCHLD, so that it waits for the [`Reaper`]. Before the first child is forked.
pub fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

fn signals() -> SigSet {
    SigSet::from(Signal::SIGCHLD)
}

/// Collects every child that ends.
pub struct Reaper {
    signals: AsyncFd<OwnedFd>,
}

impl Reaper {
    /// Must be called in a tokio runtime, with [`block_signals`] done.
    pub fn new() -> io::Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals(), flags)?;
        Ok(Self {
            signals: readable(signals.as_fd().try_clone_to_owned()?)?,
        })
    }

    /// Calls `ended` for each child that ends, with its pid and how it ended, for ever.
    pub async fn run(self, mut ended: impl FnMut(i32, Exit)) -> io::Result<()> {
        loop {
            // One signal may stand for many children, so the signal only wakes.
            let mut ready = self.signals.readable().await?;
            let mut pending = [0; 1024];
            while nix::unistd::read(self.signals.get_ref(), &mut pending).is_ok() {}
            ready.clear_ready();
            while let Some((pid, exit)) = next_exit()? {
                ended(pid, exit);
            }
        }
    }
}

/// A child that has ended, if there is one.
fn next_exit() -> io::Result<Option<(i32, Exit)>> {
    loop {
        let (pid, reason) = match reap() {
            Ok(Some(ended)) => ended,
            Ok(None) | Err(Errno::ECHILD) => return Ok(None),
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let exit = Exit {
            status: reason.status(),
            at: now(),
        };
        return Ok(Some((pid, exit)));
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
