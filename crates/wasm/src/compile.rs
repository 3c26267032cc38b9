//! Runs the compile worker: Wasm in on its stdin, an artifact out on its stdout. Or components in
//! and the one that they become out.
//!
//! Nothing but open files and limits is handed over, so the worker needs no path of the host
//! but its cgroup's, and no privilege. What it says on stderr is its report or the cause of
//! the error.

mod cgroup;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lighter_core::ErrorClass;
use lighter_seal::SealedExecutable;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::cgroup::Cgroup;
use crate::cache::CacheLimits;
use crate::composition::Composed;
use crate::engine::{Compilation, VERSION};
use crate::report::{HOST_FAULT, NO_ROOM, Report};

pub(crate) use self::cgroup::sweep_all as remove_left_cgroups;
pub(crate) use self::cgroup::{enter_job_cgroup, remove_job_cgroup};

/// Why a binary was not compiled. The texts follow "cannot compile NAME".
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The program of the compile worker is not installed.
    #[error(
        "the compile worker is missing at {0}: install the file lighter-compiler of this release \
         beside the shim"
    )]
    Missing(PathBuf),
    /// The compile worker could not be started.
    #[error("cannot start the compile worker {0}: {1}")]
    Start(PathBuf, #[source] io::Error),
    /// The compile worker refused the binary; the text is its own.
    #[error("{0}")]
    Refused(String),
    /// The compile worker could not do its work, whatever the binary is; the text is its own.
    #[error("{0}")]
    Failed(String),
    /// The compile worker found no room for what it has made; the text is its own.
    #[error("{0}")]
    NoRoom(String),
    /// A signal ended the compile worker.
    #[error("signal {0} ended the compile worker")]
    Signaled(i32),
    /// The compile worker made a system call that compiling does not need.
    #[error(
        "the compile worker was killed for a system call that it must not make: the Wasm attacks \
         the compiler, or this is a bug of Lighter"
    )]
    Forbidden,
    /// The compile worker ran out of memory.
    #[error("it needs more than {} MiB of memory (option `memory` of the cache)", .0 >> 20)]
    Memory(u64),
    /// The compile worker took too much processor time, or did not end, and was killed.
    #[error("it takes longer than {0} s of processor time (option `seconds` of the cache)")]
    TimeLimit(u64),
    /// The code is longer than all that the cache may hold.
    #[error("its code is longer than {} MiB (option `bytes` of the cache)", .0 >> 20)]
    TooLong(u64),
    /// The compile worker is of another release.
    #[error("the compile worker {0} is of another release ({1}); this one is {VERSION}")]
    OtherRelease(PathBuf, String),
    /// The compile worker read something else than it was given.
    #[error("the compile worker has compiled something else, which is a bug of Lighter")]
    OtherSource,
    /// The worker cannot be limited.
    #[error("the compile worker cannot be given a cgroup: {path}: {error}")]
    Cgroup {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The files of the compile worker could not be prepared or read.
    #[error("cannot talk to the compile worker: {0}")]
    Io(#[from] io::Error),
}

impl CompileError {
    /// What containerd acts on.
    pub(crate) fn class(&self) -> ErrorClass {
        match self {
            Self::Refused(_) | Self::Forbidden => ErrorClass::InvalidArgument,
            Self::Memory(_) | Self::TimeLimit(_) | Self::TooLong(_) | Self::NoRoom(_) => {
                ErrorClass::ResourceExhausted
            }
            // Somebody has to install something.
            Self::Missing(_) | Self::OtherRelease(..) => ErrorClass::FailedPrecondition,
            Self::Start(_, error) | Self::Cgroup { error, .. } | Self::Io(error) => {
                ErrorClass::of_io(error)
            }
            Self::Failed(_) | Self::Signaled(_) | Self::OtherSource => ErrorClass::Internal,
        }
    }

    /// Whether the binary is to blame, so that another try ends in the same way.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Refused(_)
            | Self::Forbidden
            | Self::Memory(_)
            | Self::TimeLimit(_)
            | Self::TooLong(_) => true,
            // The compiler has crashed. Other signals are sent by somebody.
            Self::Signaled(signal) => matches!(
                *signal,
                libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGABRT
            ),
            Self::Missing(_)
            | Self::Start(..)
            | Self::Failed(_)
            | Self::NoRoom(_)
            | Self::OtherRelease(..)
            | Self::OtherSource
            | Self::Cgroup { .. }
            | Self::Io(_) => false,
        }
    }
}

/// Compiles `wasm`, which nobody writes to and which is read from its beginning, into the empty file
/// `artifact` by the program `compiler`. `started` is told its process id.
pub(crate) fn compile(
    compiler: &Path,
    compilation: Compilation,
    wasm: File,
    artifact: &File,
    limits: &CacheLimits,
    started: &dyn Fn(u32),
) -> Result<Report, CompileError> {
    let task = compilation.to_string();
    let text = work(compiler, &task, wasm, artifact, limits, started)?;
    check_release(compiler, Report::parse(&text), |report| &report.version)
}

/// Composes the components that stand in `input` (see `composition`) into the empty file `wasm`.
pub(crate) fn compose(
    compiler: &Path,
    input: File,
    wasm: &File,
    limits: &CacheLimits,
) -> Result<Composed, CompileError> {
    let text = work(compiler, COMPOSE, input, wasm, limits, &|_| {})?;
    check_release(compiler, Composed::parse(&text), |composed| {
        &composed.version
    })
}

/// The first argument of a worker that composes.
const COMPOSE: &str = "compose";

/// Has a worker do `task`, and returns what it says after it has succeeded.
fn work(
    compiler: &Path,
    task: &str,
    input: File,
    output: &File,
    limits: &CacheLimits,
    started: &dyn Fn(u32),
) -> Result<String, CompileError> {
    let deadline = Instant::now() + Duration::from_secs(limits.clock_seconds());
    let cgroup = Cgroup::make(limits)?;
    let mut child = start(compiler, task, input, output, limits, &cgroup)?;
    started(child.id());
    let finished = supervise(&mut child, deadline);
    if !matches!(finished, Ok(Some(_))) {
        // An error here means that it has ended by itself meanwhile.
        let _ = child.kill();
        child.wait()?;
    }
    match finished? {
        None => Err(CompileError::TimeLimit(limits.seconds)),
        Some((status, text)) if status.success() => Ok(text),
        Some((status, text)) => Err(failure(status, text, limits, &cgroup)),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only operations compile, and they reap their own children"
)]
fn start(
    compiler: &Path,
    task: &str,
    input: File,
    output: &File,
    limits: &CacheLimits,
    cgroup: &Cgroup,
) -> Result<Child, CompileError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => CompileError::Missing(compiler.to_owned()),
        _ => CompileError::Start(compiler.to_owned(), error),
    };
    // Whatever a hostile module makes of the worker, its file is not to be written to.
    let program = SealedExecutable::open(compiler).map_err(failed)?;
    let cores = cgroup::cores(limits);
    Command::new(program.path())
        .arg0(compiler)
        .arg(task)
        .args([limits.memory, limits.seconds, limits.bytes].map(|limit| limit.to_string()))
        .args(cgroup.folders())
        .env_clear()
        // It must not open the files that say how many processors there are.
        .env("RAYON_NUM_THREADS", cores.to_string())
        .current_dir("/")
        .stdin(input)
        .stdout(output.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)
}

/// What a worker that succeeded has said, if it is of this release.
fn check_release<T>(
    compiler: &Path,
    said: Option<T>,
    version: impl Fn(&T) -> &String,
) -> Result<T, CompileError> {
    let other = |version: &str| CompileError::OtherRelease(compiler.to_owned(), version.to_owned());
    match said {
        Some(said) if version(&said) == VERSION => Ok(said),
        Some(said) => Err(other(version(&said))),
        None => Err(other("it does not report what it did")),
    }
}

/// Why a worker ended without success.
fn failure(
    status: ExitStatus,
    text: String,
    limits: &CacheLimits,
    cgroup: &Cgroup,
) -> CompileError {
    // What Rust says when the system gives no memory, before it aborts or as an error.
    let no_memory = ["memory allocation of ", "out of memory"]
        .iter()
        .any(|sign| text.contains(sign));
    match status.signal() {
        _ if no_memory || cgroup.has_killed() => CompileError::Memory(limits.memory),
        Some(libc::SIGXCPU) => CompileError::TimeLimit(limits.seconds),
        Some(libc::SIGXFSZ) => CompileError::TooLong(limits.bytes),
        Some(libc::SIGSYS) => CompileError::Forbidden,
        Some(signal) => CompileError::Signaled(signal),
        None if text.is_empty() => {
            CompileError::Failed(format!("the compile worker ended with {status}"))
        }
        None if status.code() == Some(HOST_FAULT.into()) => CompileError::Failed(text),
        None if status.code() == Some(NO_ROOM.into()) => CompileError::NoRoom(text),
        None => CompileError::Refused(text),
    }
}

/// Waits for the end of the worker. `None`: the deadline passed and it still runs.
fn supervise(child: &mut Child, deadline: Instant) -> io::Result<Option<(ExitStatus, String)>> {
    let mut message = Vec::new();
    if let Some(mut stderr) = child.stderr.take()
        && !read_until(&mut stderr, &mut message, deadline)?
    {
        return Ok(None);
    }
    // Its stderr is closed, so it has ended or is about to; unless it closed it on purpose.
    loop {
        if let Some(status) = child.try_wait()? {
            let text = String::from_utf8_lossy(&message);
            return Ok(Some((status, one_line(&text))));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Reads to the end of the stream; false when the deadline comes first.
fn read_until(
    stream: &mut ChildStderr,
    message: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<bool> {
    const LONGEST: usize = 4096;
    let mut buffer = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) if left.is_zero() => return Ok(false),
            // Woken early: the time limit is in whole milliseconds.
            Ok(0) => continue,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(true);
        }
        let room = LONGEST.saturating_sub(message.len());
        message.extend_from_slice(&buffer[..count.min(room)]);
    }
}

/// `text` without line breaks, as part of a message of one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> CacheLimits {
        CacheLimits {
            seconds: 30,
            ..CacheLimits::default()
        }
    }

    /// Runs a program where the compile worker would be.
    fn run(program: &str, limits: &CacheLimits) -> Result<Report, CompileError> {
        let artifact = tempfile::tempfile().unwrap();
        compile(
            Path::new(program),
            Compilation::default(),
            crate::source::sealed(b"\0asm\x01\0\0\0").unwrap(),
            &artifact,
            limits,
            &|_| {},
        )
    }

    #[test]
    fn a_missing_worker_is_named() {
        let error = run("/nonexistent/lighter-compiler", &limits()).unwrap_err();
        assert!(matches!(error, CompileError::Missing(_)));
        assert_eq!(error.class(), ErrorClass::FailedPrecondition);
        let text = error.to_string();
        assert!(text.contains("/nonexistent/lighter-compiler"), "{text}");
        assert!(text.contains("install"), "{text}");
    }

    #[test]
    fn a_worker_that_cannot_be_executed_is_named() {
        let error = run("/etc/passwd", &limits()).unwrap_err();
        assert!(matches!(error, CompileError::Start(_, _)), "{error}");
    }

    /// Runs a shell script where the compile worker would be.
    fn run_script(script: &str, limits: &CacheLimits) -> Result<Report, CompileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compiler");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&path, mode).unwrap();
        run(path.to_str().unwrap(), limits)
    }

    #[test]
    fn the_message_of_the_worker_is_kept() {
        let error = run_script("echo bad >&2; echo thing >&2; exit 1", &limits()).unwrap_err();
        assert!(matches!(error, CompileError::Refused(_)));
        assert_eq!(error.to_string(), "bad thing");
        assert!(error.is_lasting());
        let error = run_script("exit 3", &limits()).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(!error.is_lasting());
    }

    #[test]
    fn a_fault_of_the_host_is_not_the_binarys() {
        for (status, class) in [
            (HOST_FAULT, ErrorClass::Internal),
            (NO_ROOM, ErrorClass::ResourceExhausted),
        ] {
            let script = format!("echo no space left on device >&2; exit {status}");
            let error = run_script(&script, &limits()).unwrap_err();
            assert_eq!(error.to_string(), "no space left on device");
            assert_eq!(error.class(), class);
            assert!(!error.is_lasting());
        }
        for (signal, is_lasting) in [("KILL", false), ("TERM", false), ("SEGV", true)] {
            let script = format!("ulimit -c 0; kill -s {signal} $$");
            let error = run_script(&script, &limits()).unwrap_err();
            assert_eq!(error.is_lasting(), is_lasting, "{error}");
        }
    }

    #[test]
    fn a_worker_of_another_release_is_named() {
        let digits = "0a".repeat(32);
        for (says, named) in [
            ("", "does not report"),
            ("a warning", "does not report"),
            (
                &format!("compiled {digits} 0123456789abcdef wasmtime 1.0.0"),
                "wasmtime 1.0.0",
            ),
        ] {
            let error = run_script(&format!("echo '{says}' >&2"), &limits()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("another release"), "{text}");
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn what_a_signal_means_is_said() {
        for (signal, means) in [
            ("KILL", "signal 9"),
            ("SYS", "must not make"),
            ("XCPU", "longer than 30 s"),
            ("XFSZ", "longer than 4096 MiB"),
        ] {
            let script = format!("ulimit -c 0; kill -s {signal} $$");
            let error = run_script(&script, &limits()).unwrap_err().to_string();
            assert!(error.contains(means), "{error}");
        }
        let script = "echo memory allocation of 9 bytes failed >&2; kill -s ABRT $$";
        let error = run_script(script, &limits()).unwrap_err().to_string();
        assert!(error.contains("more than 2048 MiB"), "{error}");
        assert!(error.contains("`memory`"), "{error}");
    }

    #[test]
    fn a_worker_that_uses_too_much_memory_is_named() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let limits = CacheLimits {
            memory: 32 << 20,
            ..limits()
        };
        // `tail` keeps the one line that it gets, whatever its length.
        let script = "shift 4; for folder; do echo $$ > $folder/cgroup.procs; done
            head -c 200000000 /dev/zero | tail -n 1 > /dev/null; kill -9 $$";
        let error = run_script(script, &limits).unwrap_err();
        assert!(matches!(error, CompileError::Memory(_)), "{error}");
        assert_eq!(
            error.to_string(),
            "it needs more than 32 MiB of memory (option `memory` of the cache)"
        );
    }

    #[test]
    fn a_worker_that_never_ends_is_killed() {
        let limits = CacheLimits {
            seconds: 1,
            ..limits()
        };
        for script in ["exec sleep 600", "exec 2>&-; exec sleep 600"] {
            let began = Instant::now();
            let error = run_script(script, &limits).unwrap_err();
            assert!(matches!(error, CompileError::TimeLimit(1)), "{error}");
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn messages_have_one_line() {
        assert_eq!(one_line("bad\n  thing \n"), "bad thing");
    }
}
