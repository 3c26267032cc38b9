//! Waiting for an operation: for its answer, for its end and for a time limit.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use lighter_core::{Answer, ErrorClass, Failure};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;

use crate::raw::{own, readable};

/// More than any operation hands over.
const MAX_DESCRIPTORS: usize = 8;

/// A forked process at work for the shim.
#[derive(Debug)]
pub struct Operation {
    /// Process id, a child of the shim.
    pub pid: i32,
    /// Readable once the process has ended.
    pub pidfd: OwnedFd,
    /// Non-blocking sequenced-packet socket; one message of JSON, `Answer<T>`.
    pub answer: OwnedFd,
}

impl Operation {
    /// The operation's answer and the descriptors that came with it. `what` names it in errors
    /// ("create of container a").
    ///
    /// An operation that takes longer than `limit` is killed.
    pub(crate) async fn finish<T: DeserializeOwned>(
        self,
        what: &str,
        limit: Duration,
    ) -> Result<(T, Vec<OwnedFd>), Failure> {
        let group = Pid::from_raw(self.pid);
        let failed = |error: std::io::Error| Failure::internal(format!("{what}: {error}"));
        let answer = readable(self.answer).map_err(failed)?;
        let pidfd = readable(self.pidfd).map_err(failed)?;
        let message = tokio::time::timeout(limit, async {
            tokio::select! {
                biased;
                ready = answer.readable() => ready.map(drop),
                ready = pidfd.readable() => ready.map(drop),
            }
        })
        .await;
        match message {
            Err(_) => {
                kill_group(group);
                return Err(Failure::new(
                    ErrorClass::DeadlineExceeded,
                    format!("{what} did not end within {} s", limit.as_secs()),
                ));
            }
            Ok(ready) => ready.map_err(failed)?,
        }
        let (bytes, descriptors) = receive(answer.get_ref()).ok_or_else(|| {
            kill_group(group);
            Failure::internal(format!(
                "{what}: the operation was killed before it could answer"
            ))
        })?;
        let answer = serde_json::from_slice::<Answer<T>>(&bytes).map_err(|error| {
            Failure::internal(format!(
                "{what}: the operation's answer is malformed: {error}"
            ))
        })?;
        for warning in &answer.warnings {
            log::warn!("{what}: {warning}");
        }
        Ok((answer.outcome?, descriptors))
    }
}

/// Kills an operation with all that it has started: hooks, the compile worker.
fn kill_group(leader: Pid) {
    let _ = killpg(leader, Signal::SIGKILL);
}

/// The one message. Its buffer has just its size: the shim's memory is every guest's too.
fn receive(answer: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let fd = answer.as_raw_fd();
    let length = recv(fd, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC).ok()?;
    let mut message = vec![0; length];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut message)];
    let received =
        recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    let length = received.bytes;
    let mut descriptors = Vec::new();
    for control in received.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(rights) = control {
            descriptors.extend(own(rights));
        }
    }
    (length > 0).then_some((message, descriptors))
}
