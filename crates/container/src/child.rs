//! Work of an operation that is done in a child of it.
// fork and _exit have no safe form.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use lighter_core::Failure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fork::{close_all_but, die_with, shorten};
use crate::title;

/// Bytes that a child of an operation may allocate, which reads what a registry has sent: documents
/// of 4 MiB at most, and a layer in pieces.
const MAX_APART_MEMORY: u64 = 256 << 20;

/// Runs `work` in a child of this process and waits for it. What `work` allocates ends with the
/// child, and is limited; descriptors of this process are its too.
///
/// Only for a forked operation, which has one thread.
pub fn apart<T: Serialize + DeserializeOwned>(
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let parent = nix::unistd::getpid();
    in_child(
        |_| {
            die_with(parent);
            limit_memory();
        },
        None,
        work,
    )?
    .ok_or_else(|| Failure::internal("a part of the operation did not end"))
}

/// Runs `work` in a child that goes on when this process is killed, with its group or alone, and
/// waits for it, but no longer than `patience`: `None` says that it goes on. `work` has to end by
/// itself. Of the descriptors of this process the child has stdio and `keep`.
///
/// Only for a forked operation, which has one thread.
pub fn detached<T: Serialize + DeserializeOwned>(
    keep: &[RawFd],
    patience: Duration,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    in_child(
        |sender| {
            let mut keep = [&[0, 1, 2, sender], keep].concat();
            keep.sort_unstable();
            keep.dedup();
            close_all_but(&keep);
            // It is no shim, whose command line it has inherited.
            title::set(&["lighter-job".to_owned()]);
            // It keeps no directory of the container.
            let _ = nix::unistd::chdir("/");
            let _ = nix::unistd::setsid();
        },
        Some(patience),
        work,
    )
}

/// Runs `prepare` and `work` in a child, and waits for the child's end, but no longer than `patience`.
fn in_child<T: Serialize + DeserializeOwned>(
    prepare: impl FnOnce(RawFd),
    patience: Option<Duration>,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let failed =
        |what: &str, error: io::Error| Failure::internal(format!("cannot {what}: {error}"));
    let (answer, sender) =
        pipe2(OFlag::O_CLOEXEC).map_err(|error| failed("make a pipe", error.into()))?;
    // SAFETY: the process has one thread (the caller's duty), so the child owns a consistent copy
    // of everything. It leaves by _exit, so no destructor of the parent's frames runs in it.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(failed("fork", io::Error::last_os_error())),
        0 => {
            prepare(sender.as_raw_fd());
            let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                Err(Failure::internal(
                    "a part of the operation panicked, which is a bug of Lighter",
                ))
            });
            let answer = serde_json::to_vec(&answer.map_err(shorten)).unwrap_or_default();
            let sent = File::from(sender).write_all(&answer);
            // SAFETY: as in `run`.
            unsafe { libc::_exit(i32::from(sent.is_err())) }
        }
        pid => nix::unistd::Pid::from_raw(pid),
    };
    drop(sender);
    if let Some(patience) = patience
        && !answers_within(&answer, patience)
    {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = File::from(answer).read_to_end(&mut bytes);
    while let Err(Errno::EINTR) = waitpid(pid, None) {}
    read.map_err(|error| failed("read from a child", error))?;
    let answer = serde_json::from_slice::<Result<T, Failure>>(&bytes).unwrap_or_else(|_| {
        Err(Failure::internal(
            "a part of the operation was killed before it could answer",
        ))
    });
    answer.map(Some)
}

/// Whether a child answers, or ends, in that time.
fn answers_within(answer: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut answer = [PollFd::new(answer.as_fd(), PollFlags::POLLIN)];
        match poll(&mut answer, timeout) {
            Ok(0) if left.is_zero() => return false,
            // Woken early: the time limit is in whole milliseconds.
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Limits what this process may allocate. The hard limit stays.
fn limit_memory() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) {
        let _ = setrlimit(Resource::RLIMIT_DATA, MAX_APART_MEMORY.min(hard), hard);
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;
    use crate::fork::tests::{open_descriptors, reap};
    use crate::fork::{Operation, kill};

    #[test]
    fn what_is_done_apart_answers_and_leaves_nothing() {
        let secret = std::cell::Cell::new(1);
        let answer = apart(|| {
            secret.set(2);
            Ok(vec![secret.get(), 7])
        });
        assert_eq!(answer.unwrap(), [2, 7]);
        assert_eq!(secret.get(), 1);
        let failure = apart(|| Err::<(), _>(Failure::invalid("no"))).unwrap_err();
        assert_eq!(failure, Failure::invalid("no"));
        let failure = apart::<()>(|| panic!("boom")).unwrap_err();
        assert!(failure.message.contains("bug"), "{failure}");
        let failure = apart::<()>(|| {
            kill(nix::unistd::getpid().as_raw(), libc::SIGKILL).unwrap();
            Ok(())
        });
        assert!(failure.unwrap_err().message.contains("killed"));
    }

    #[test]
    fn what_is_done_apart_has_bounded_memory() {
        let allocate = |bytes: usize| std::hint::black_box(vec![1u8; bytes]).len();
        let failure = apart(|| Ok(allocate(1 << 30))).unwrap_err();
        assert!(failure.message.contains("killed"), "{failure}");
        assert_eq!(apart(|| Ok(allocate(1 << 20))), Ok(1 << 20));
    }

    #[test]
    fn what_is_detached_goes_on_without_its_caller() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let kept = File::open("/etc/passwd").unwrap();
        let operation = Operation::fork(|_| {
            detached(&[], Duration::from_secs(60), || {
                std::thread::sleep(Duration::from_millis(300));
                let open = open_descriptors();
                std::fs::write(&done, format!("{open:?}"))
                    .map_err(|error| Failure::internal(error.to_string()))?;
                Ok(open)
            })
        })
        .unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let group = nix::unistd::Pid::from_raw(operation.pid);
        nix::sys::signal::killpg(group, Signal::SIGKILL).unwrap();
        reap(&operation);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done.exists() {
            assert!(Instant::now() < deadline, "it was killed too");
            std::thread::sleep(Duration::from_millis(10));
        }
        let patience = Duration::from_secs(60);
        let open = detached(&[kept.as_raw_fd()], patience, || Ok(open_descriptors()));
        let open = open.unwrap().unwrap();
        assert_eq!(
            open.len(),
            5,
            "stdio, the answer and what is kept: {open:?}"
        );
    }

    #[test]
    fn what_takes_longer_than_the_patience_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let began = Instant::now();
        let answer = detached(&[], Duration::from_millis(100), || {
            std::thread::sleep(Duration::from_millis(1000));
            std::fs::write(&done, "").map_err(|error| Failure::internal(error.to_string()))?;
            Ok(1)
        });
        assert_eq!(answer, Ok(None));
        assert!(began.elapsed() < Duration::from_millis(900));
        while !done.exists() {
            assert!(began.elapsed() < Duration::from_secs(20), "it was killed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
