//! The fork that an operation runs in.
// fork, close_range and _exit have no safe form: this file and child.rs hold them all.
#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use lighter_core::{Answer, Failure, Message};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::pipe2;
use serde::Serialize;

use crate::warnings;

/// The longest text of a failure, in bytes: an answer has to fit one message of a socket.
const MAX_MESSAGE: usize = 32 * 1024;

/// An operation under way in a child of this process.
///
/// It sends one or two messages of JSON, [`Message`], with the descriptors that the operation hands
/// over. The child may die without one, so wait for [`Operation::pidfd`] as well. Init inherits the
/// sending end: read until [`Message::Done`], never wait for the end of file.
#[derive(Debug)]
pub struct Operation {
    /// Process id of the fork; the shim's reaper collects it.
    pub pid: i32,
    /// Readable once the fork has ended.
    pub pidfd: OwnedFd,
    /// Sequenced-packet socket, non-blocking, on which the messages arrive.
    pub answer: OwnedFd,
}

impl Operation {
    /// Runs `work` in a fork of this process.
    ///
    /// Before `work` runs, the fork closes every descriptor but 0 to 2 and its own, so that
    /// no init can hold another container's FIFOs or the shim's sockets, and is set to die
    /// with the shim. It returns to no caller: it ends by `_exit`, and a panic becomes an
    /// answer.
    ///
    /// The caller must have one thread, and collect children. It fails as fork, socketpair and
    /// pidfd_open do; there is no fork then.
    pub fn fork<T: Serialize>(
        work: impl FnOnce(&mut ShimLink) -> Result<T, Failure>,
    ) -> io::Result<Self> {
        let (answer, sender) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        nix::fcntl::fcntl(
            &answer,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        let parent = nix::unistd::getpid();
        // SAFETY: the process has one thread (the caller's duty), so the child owns a
        // consistent copy of everything. It touches no object of the parent's runtime and
        // leaves by _exit, so no destructor of the parent's frames runs in it.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => run(parent, sender.as_fd(), work),
            pid => match pidfd_open(pid) {
                Ok(pidfd) => Ok(Self { pid, pidfd, answer }),
                Err(error) => {
                    // Nobody could wait for it. It has not been collected: the pid is its own.
                    let _ = kill(pid, libc::SIGKILL);
                    Err(error)
                }
            },
        }
    }
}

/// The way from an operation to the shim.
#[derive(Debug)]
pub struct ShimLink<'a> {
    socket: BorrowedFd<'a>,
    /// Descriptors that go with the operation's result.
    pub passed_fds: Vec<OwnedFd>,
}

impl ShimLink<'_> {
    /// Forks a sibling, see [`fork_sibling`], in which `work` runs once the shim knows its pid.
    ///
    /// Until then the sibling ends with whichever of the operation and the shim ends first. So no
    /// process of an operation that was killed runs without the shim's knowledge.
    pub(crate) fn fork_claimed(&self, work: impl FnOnce() -> i32) -> io::Result<i32> {
        let (gate, opener) = pipe2(OFlag::O_CLOEXEC)?;
        let (socket, other_end) = (self.socket.as_raw_fd(), opener.as_raw_fd());
        let (pid, pidfd) = fork_sibling(|| {
            // The sibling's copies of what is not its own. Only if nobody has the other end of the pipe
            // does it end with those that have it.
            for fd in [socket, other_end] {
                // SAFETY: what owns them in this process are frames that never run again.
                unsafe { libc::close(fd) };
            }
            match nix::unistd::read(&gate, &mut [0]) {
                Ok(1) => work(),
                _ => 1,
            }
        })?;
        let forked = Message::<()>::Forked { pid };
        send(self.socket, &forked, &[pidfd, opener])?;
        Ok(pid)
    }
}

/// Sends one message, with descriptors.
fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &Message<T>,
    passed_fds: &[OwnedFd],
) -> io::Result<()> {
    let passed_fds: Vec<RawFd> = passed_fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&passed_fds)];
    let rights = &rights[..usize::from(!passed_fds.is_empty())];
    let text = serde_json::to_vec(message)?;
    let text = [IoSlice::new(&text)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &text, rights, flags, None)?;
    Ok(())
}

/// The life of the child. Never returns.
fn run<T: Serialize>(
    parent: nix::unistd::Pid,
    socket: BorrowedFd<'_>,
    work: impl FnOnce(&mut ShimLink) -> Result<T, Failure>,
) -> ! {
    // The first act, before anything can open or inherit more.
    close_all_but(&[0, 1, 2, socket.as_raw_fd()]);
    raise_oom_score();
    let mut link = ShimLink {
        socket,
        passed_fds: Vec::new(),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        die_with(parent);
        unblock_signals();
        // The shim kills the group of an operation that failed to answer: hooks and the
        // compile worker are in it, init has a session of its own.
        let _ = nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0));
        work(&mut link)
    }));
    let answer = outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(Failure::internal(format!(
            "the operation panicked, which is a bug of Lighter: {text}"
        )))
    });
    let answer = Answer {
        outcome: answer.map_err(shorten),
        warnings: warnings::take(),
    };
    if answer.outcome.is_err() {
        link.passed_fds.clear();
    }
    let sent = send(socket, &Message::Done(answer), &link.passed_fds);
    // SAFETY: _exit ends the process at once; nothing of the parent's is dropped.
    unsafe { libc::_exit(i32::from(sent.is_err())) }
}

/// Forks a sibling: a child of this process's parent, which is the shim. It does not inherit
/// the signal that follows the parent's death.
///
/// In the child `work` runs, and the process ends with the status that it returns. The parent gets
/// its pid and its pidfd.
///
/// Only for a forked operation, which has one thread.
pub(crate) fn fork_sibling(work: impl FnOnce() -> i32) -> io::Result<(i32, OwnedFd)> {
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: RawFd = -1;
    // SAFETY: without CLONE_VM and with no stack given, clone works as fork does: the child
    // owns a copy of everything, of one thread as the caller has, and leaves by _exit. The kernel
    // writes an int where the third argument points to, which is one.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = catch_unwind(AssertUnwindSafe(work)).unwrap_or(1);
            // SAFETY: as in `run`.
            unsafe { libc::_exit(status) }
        }
        pid => {
            // SAFETY: the kernel has just made this descriptor, and nobody else has it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((pid as i32, pidfd))
        }
    }
}

/// Gives `descriptors` the numbers from 3 on, for a program that is about to be executed, and
/// `kept` a number above them, which the program does not get.
///
/// Only for a process that ends by exec or `_exit`.
pub(crate) fn place_descriptors(descriptors: &[RawFd], kept: RawFd) -> io::Result<std::fs::File> {
    let first_free = 3 + descriptors.len() as RawFd;
    // Out of the way first: one may have a number that another is about to get.
    let aside = |fd: RawFd| {
        // SAFETY: the arguments are integers.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, first_free) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(copy)
    };
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let kept = unsafe { OwnedFd::from_raw_fd(aside(kept)?) };
    let copies: Vec<RawFd> = descriptors
        .iter()
        .copied()
        .map(aside)
        .collect::<Result<_, _>>()?;
    for (number, copy) in (3..).zip(copies) {
        // SAFETY: what had this number belongs to a frame of the caller that never runs again.
        if unsafe { libc::dup2(copy, number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(kept.into())
}

/// Sends the signal with this number: nix has no name for those above 31.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill takes integers; a wrong one is an error.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Closes every descriptor except `keep`, which must be sorted.
pub(crate) fn close_all_but(keep: &[RawFd]) {
    let mut first = 0;
    for &fd in keep {
        close_range(first, fd - 1);
        first = fd + 1;
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: only called in a process whose owners of these descriptors never run
        // again: a fork that leaves by _exit.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// An operation without a shim would go on building a container that nobody watches.
pub(crate) fn die_with(parent: nix::unistd::Pid) {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if nix::unistd::getppid() != parent {
        // SAFETY: as in `run`.
        unsafe { libc::_exit(1) }
    }
}

/// An operation may be killed for want of memory as any process may, whatever protects containerd
/// and the shim. A container whose spec says nothing of it inherits this.
///
/// Never lower than it was. Without `/proc` the score stays.
fn raise_oom_score() {
    const PATH: &str = "/proc/self/oom_score_adj";
    if std::fs::read_to_string(PATH).is_ok_and(|score| score.starts_with('-')) {
        let _ = std::fs::write(PATH, "0");
    }
}

/// The shim blocks signals that it reads from a signalfd; hooks and init must not inherit that.
fn unblock_signals() {
    let _ = nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

pub(crate) fn shorten(mut failure: Failure) -> Failure {
    if failure.message.len() > MAX_MESSAGE {
        let end = failure.message.floor_char_boundary(MAX_MESSAGE);
        failure.message.truncate(end);
    }
    failure
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the arguments are integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Pins glibc's name look-ups to code that is linked into this binary.
///
/// Inside a container, look-ups would else follow the image's `/etc/nsswitch.conf` and load
/// the image's `libnss_*` into our process: its code would run as ours, before any limit on
/// the guest holds (libcontainer looks up the home directory when `HOME` is unset). Call it
/// once at start; forks inherit it.
pub fn pin_name_service() {
    unsafe extern "C" {
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            service: *const libc::c_char,
        ) -> libc::c_int;
    }
    for (database, services) in [
        (c"passwd", c"files"),
        (c"group", c"files"),
        (c"shadow", c"files"),
        (c"hosts", c"files dns"),
        (c"services", c"files"),
        (c"protocols", c"files"),
        (c"networks", c"files"),
        (c"initgroups", c"files"),
    ] {
        // SAFETY: both are constant strings that end with a NUL, which glibc copies.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, Instant};

    // The test harness has threads; these forks only touch what they were given, so that is
    // no danger here.
    pub(crate) fn answer(operation: &Operation) -> Option<Result<Vec<i32>, Failure>> {
        received(operation).map(|answer| answer.outcome)
    }

    fn received(operation: &Operation) -> Option<Answer<Vec<i32>>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut buffer = vec![0; 64 * 1024];
        while Instant::now() < deadline {
            match nix::unistd::read(&operation.answer, &mut buffer) {
                Ok(0) => break,
                Ok(length) => match serde_json::from_slice(&buffer[..length]) {
                    Ok(Message::Done(answer)) => return Some(answer),
                    _ => return None,
                },
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    }

    pub(crate) fn reap(operation: &Operation) {
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(operation.pid), None);
    }

    pub(crate) fn open_descriptors() -> Vec<i32> {
        let mut open: Vec<i32> = (0..1024)
            .filter(|fd| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok())
            .collect();
        open.sort_unstable();
        open
    }

    #[test]
    fn a_fork_has_no_descriptor_of_its_parent() {
        let secret = File::open("/etc/passwd").unwrap();
        let operation = Operation::fork(|_| Ok(open_descriptors())).unwrap();
        let seen = answer(&operation).unwrap().unwrap();
        reap(&operation);
        assert!(!seen.contains(&secret.as_raw_fd()), "{seen:?}");
        assert_eq!(seen.len(), 4, "stdio and the answer: {seen:?}");
    }

    #[test]
    fn a_panic_is_an_answer() {
        let operation =
            Operation::fork(|_| -> Result<Vec<i32>, Failure> { panic!("boom") }).unwrap();
        let failure = answer(&operation).unwrap().unwrap_err();
        reap(&operation);
        assert!(failure.message.contains("boom"), "{failure}");
    }

    #[test]
    fn a_long_failure_still_arrives() {
        let operation = Operation::fork(|_| -> Result<Vec<i32>, Failure> {
            Err(Failure::internal("ä".repeat(1 << 20)))
        })
        .unwrap();
        let failure = answer(&operation).unwrap().unwrap_err();
        reap(&operation);
        assert!(failure.message.len() <= MAX_MESSAGE);
    }

    #[test]
    fn warnings_come_with_the_answer_of_their_operation_alone() {
        let warned = Operation::fork(|_| {
            warnings::warn("not as asked".to_owned());
            Ok(vec![1])
        });
        let warned = warned.unwrap();
        assert_eq!(received(&warned).unwrap().warnings, ["not as asked"]);
        reap(&warned);
        let quiet = Operation::fork(|_| Ok(vec![1])).unwrap();
        assert!(received(&quiet).unwrap().warnings.is_empty());
        reap(&quiet);
    }

    #[test]
    fn an_operation_is_not_protected_from_the_oom_killer() {
        let operation = Operation::fork(|_| {
            let score = std::fs::read_to_string("/proc/self/oom_score_adj");
            let score = score.map_err(|error| Failure::internal(error.to_string()))?;
            Ok(vec![score.trim().parse::<i32>().unwrap_or(-1)])
        })
        .unwrap();
        assert!(answer(&operation).unwrap().unwrap()[0] >= 0);
        reap(&operation);
    }

    #[test]
    fn signals_are_not_blocked_in_a_fork() {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGUSR1);
        blocked.thread_block().unwrap();
        let operation = Operation::fork(|_| {
            let mask = SigSet::thread_get_mask().map_err(|e| Failure::internal(e.to_string()))?;
            Ok(mask.iter().map(|signal| signal as i32).collect::<Vec<_>>())
        })
        .unwrap();
        assert_eq!(answer(&operation).unwrap().unwrap(), Vec::<i32>::new());
        reap(&operation);
        blocked.thread_unblock().unwrap();
    }
}
