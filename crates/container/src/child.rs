//! Work of an operation that is done in a child of it.
// fork and _exit have no safe form.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use lighter_core::Failure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
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
        work,
    )
}

/// Runs `work` in a child that goes on when this process is killed, with its group or alone, and
/// waits for it. `work` has to end by itself. Of the descriptors of this process the child has
/// stdio and `keep`.
///
/// Only for a forked operation, which has one thread.
pub fn detached<T: Serialize + DeserializeOwned>(
    keep: &[RawFd],
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
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
        work,
    )
}

/// Runs `prepare` and `work` in a child, and waits for the child's end.
fn in_child<T: Serialize + DeserializeOwned>(
    prepare: impl FnOnce(RawFd),
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
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
    let mut bytes = Vec::new();
    let read = File::from(answer).read_to_end(&mut bytes);
    while let Err(Errno::EINTR) = waitpid(pid, None) {}
    read.map_err(|error| failed("read from a child", error))?;
    serde_json::from_slice::<Result<T, Failure>>(&bytes).unwrap_or_else(|_| {
        Err(Failure::internal(
            "a part of the operation was killed before it could answer",
        ))
    })
}

/// Limits what this process may allocate. The hard limit stays.
fn limit_memory() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) {
        let _ = setrlimit(Resource::RLIMIT_DATA, MAX_APART_MEMORY.min(hard), hard);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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
            detached(&[], || {
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
        let open = detached(&[kept.as_raw_fd()], || Ok(open_descriptors())).unwrap();
        assert_eq!(
            open.len(),
            5,
            "stdio, the answer and what is kept: {open:?}"
        );
    }
}
