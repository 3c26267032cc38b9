//! Waiting for an operation: for its messages, for its end and for a time limit.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use lighter_core::{Answer, ErrorClass, Failure, Message};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::raw::{kill_pidfd, own, readable};

/// More than any operation passes.
const MAX_DESCRIPTORS: usize = 12;
/// How long a killed operation may take to end: it may be in a system call.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether what a killed operation has started is gone.
const KILL_INTERVAL: Duration = Duration::from_millis(2);

/// A forked process at work for the shim.
#[derive(Debug)]
pub struct Operation {
    /// Process id, a child of the shim.
    pub pid: i32,
    /// Readable once the process has ended.
    pub pidfd: OwnedFd,
    /// Non-blocking sequenced-packet socket; messages of JSON, [`lighter_core::Message`].
    pub answer: OwnedFd,
}

/// A process that an operation has forked, and that waits for a byte at `opener`.
pub(crate) struct Forked {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) opener: OwnedFd,
}

impl Operation {
    /// The operation's answer and the descriptors that came with it. `what` names it in errors
    /// ("create of container a").
    ///
    /// An operation that takes longer than `limit` is killed, and so is one whose caller does not
    /// wait any more.
    pub(crate) async fn finish<T: DeserializeOwned>(
        self,
        what: &str,
        limit: Duration,
    ) -> Result<(T, Vec<OwnedFd>), Failure> {
        let never = std::future::pending();
        self.make(what, limit, never, |_| {}).await
    }

    /// The same for an operation that makes a process. `claim` is called when it has forked it. When
    /// `cancelled` is ready the operation is killed.
    ///
    /// If this fails, the operation and what it has started have ended.
    pub(crate) async fn make<T: DeserializeOwned>(
        self,
        what: &str,
        limit: Duration,
        cancelled: impl Future<Output = Failure>,
        mut claim: impl FnMut(Forked),
    ) -> Result<(T, Vec<OwnedFd>), Failure> {
        let failed = |error: io::Error| Failure::internal(format!("{what}: {error}"));
        let mut running = Running::new(self).map_err(failed)?;
        let messages = async {
            loop {
                let Some((bytes, mut passed_fds)) = running.message().await.map_err(failed)? else {
                    return Err(Failure::internal(format!(
                        "{what}: the operation was killed before it could answer"
                    )));
                };
                let message = serde_json::from_slice::<Message<T>>(&bytes).map_err(|error| {
                    Failure::internal(format!(
                        "{what}: the operation's answer is malformed: {error}"
                    ))
                })?;
                match message {
                    Message::Done(answer) => return Ok((answer, passed_fds)),
                    Message::Forked { pid } => {
                        if let (Some(opener), Some(pidfd)) = (passed_fds.pop(), passed_fds.pop()) {
                            claim(Forked { pid, pidfd, opener });
                        }
                    }
                }
            }
        };
        let ended = tokio::select! {
            biased;
            ended = messages => ended,
            failure = cancelled => Err(failure),
            () = tokio::time::sleep(limit) => Err(Failure::new(
                ErrorClass::DeadlineExceeded,
                format!("{what} did not end within {} s", limit.as_secs()),
            )),
        };
        let (answer, passed_fds): (Answer<T>, _) = match ended {
            Ok(done) => {
                running.is_done = true;
                done
            }
            Err(failure) => {
                running.end().await;
                return Err(failure);
            }
        };
        for warning in &answer.warnings {
            log::warn!("{what}: {warning}");
        }
        Ok((answer.outcome?, passed_fds))
    }
}

/// An operation under way. It is killed if it is dropped before it has sent its answer.
struct Running {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    messages: AsyncFd<OwnedFd>,
    is_done: bool,
}

impl Running {
    fn new(operation: Operation) -> io::Result<Self> {
        let pid = Pid::from_raw(operation.pid);
        let registered =
            readable(operation.pidfd).and_then(|pidfd| Ok((pidfd, readable(operation.answer)?)));
        let (pidfd, messages) = registered.inspect_err(|_| {
            // It was forked in this slice of the event loop, so it has not been reaped.
            let _ = kill(pid, Signal::SIGKILL);
        })?;
        Ok(Self {
            pid,
            pidfd,
            messages,
            is_done: false,
        })
    }

    /// Its next message. Nothing if it has ended without one.
    async fn message(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let received = tokio::select! {
            biased;
            received = self.messages.async_io(Interest::READABLE, receive) => received,
            ready = self.pidfd.readable() => {
                ready.map(drop)?;
                // It may have sent one before it ended.
                receive(self.messages.get_ref())
            }
        };
        match received {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Kills the operation with all that it has started: hooks, the compile worker.
    fn kill(&self) {
        // In this order: one that has just been forked is not the leader of its group yet.
        kill_pidfd(self.pidfd.get_ref());
        let _ = killpg(self.pid, Signal::SIGKILL);
    }

    /// Kills them and waits until they have ended: what is cleaned up after them must not be made
    /// again by them.
    async fn end(mut self) {
        self.is_done = true;
        self.kill();
        let ended = async {
            let _ = self.pidfd.readable().await;
            while killpg(self.pid, None).is_ok() {
                tokio::time::sleep(KILL_INTERVAL).await;
            }
        };
        let _ = tokio::time::timeout(KILL_TIMEOUT, ended).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_done {
            self.kill();
        }
    }
}

/// One message. Its buffer has just its size: the shim's memory is every guest's too.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let fd = socket.as_raw_fd();
    let length = recv(fd, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
    let mut message = vec![0; length];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut message)];
    let received = recvmsg::<()>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let length = received.bytes;
    let mut passed_fds = Vec::new();
    for control in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = control {
            passed_fds.extend(own(rights));
        }
    }
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((message, passed_fds))
}
