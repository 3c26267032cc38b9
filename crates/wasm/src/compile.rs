//! Runs the compile worker: Wasm in on its stdin, an artifact out on its stdout.
//!
//! Nothing but open files is handed over, so the worker needs no path, no environment and no
//! privilege. What it says on stderr becomes the cause of the error.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::engine::Compilation;
use crate::source;

/// Longest time that a compilation may take on the clock.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(120);

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
    /// A signal ended the compile worker.
    #[error("signal {0} ended the compile worker (it may have used up its memory or time)")]
    Signaled(i32),
    /// The compile worker took too long and was killed.
    #[error("it takes longer than {0:?}")]
    TimeLimit(Duration),
    /// The files of the compile worker could not be prepared or read.
    #[error("cannot talk to the compile worker: {0}")]
    Io(#[from] io::Error),
}

/// Compiles `wasm` into the empty file `artifact` by the program `compiler`.
#[expect(
    clippy::disallowed_methods,
    reason = "only operations compile, and they reap their own children"
)]
pub(crate) fn compile(
    compiler: &Path,
    compilation: Compilation,
    wasm: Vec<u8>,
    artifact: &File,
    limit: Duration,
) -> Result<(), CompileError> {
    let input = source::sealed(&wasm)?;
    drop(wasm);
    let deadline = Instant::now() + limit;
    let mut child = Command::new(compiler)
        .arg(compilation.to_string())
        .env_clear()
        .current_dir("/")
        .stdin(input)
        .stdout(artifact.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CompileError::Missing(compiler.to_owned()),
            _ => CompileError::Start(compiler.to_owned(), error),
        })?;
    let finished = supervise(&mut child, deadline);
    if !matches!(finished, Ok(Some(_))) {
        // An error here means that it has ended by itself meanwhile.
        let _ = child.kill();
        child.wait()?;
    }
    match finished? {
        None => Err(CompileError::TimeLimit(limit)),
        Some((status, _)) if status.success() => Ok(()),
        Some((status, message)) => Err(match status.signal() {
            Some(signal) => CompileError::Signaled(signal),
            None if message.is_empty() => {
                CompileError::Refused(format!("the compile worker ended with {status}"))
            }
            None => CompileError::Refused(message),
        }),
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
            Ok(0) => return Ok(false),
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

    /// Runs a program where the compile worker would be.
    fn run(program: &str, limit: Duration) -> Result<(), CompileError> {
        let artifact = tempfile::tempfile().unwrap();
        compile(
            Path::new(program),
            Compilation::default(),
            b"\0asm\x01\0\0\0".to_vec(),
            &artifact,
            limit,
        )
    }

    #[test]
    fn a_missing_worker_is_named() {
        let error = run("/nonexistent/lighter-compiler", TIME_LIMIT).unwrap_err();
        assert!(matches!(error, CompileError::Missing(_)));
        let text = error.to_string();
        assert!(text.contains("/nonexistent/lighter-compiler"), "{text}");
        assert!(text.contains("install"), "{text}");
    }

    #[test]
    fn a_worker_that_cannot_be_executed_is_named() {
        let error = run("/etc/passwd", TIME_LIMIT).unwrap_err();
        assert!(matches!(error, CompileError::Start(_, _)), "{error}");
    }

    /// Runs a shell script where the compile worker would be.
    fn run_script(script: &str, limit: Duration) -> Result<(), CompileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compiler");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&path, mode).unwrap();
        run(path.to_str().unwrap(), limit)
    }

    #[test]
    fn the_message_of_the_worker_is_kept() {
        let error = run_script("echo bad >&2; echo thing >&2; exit 1", TIME_LIMIT).unwrap_err();
        assert!(matches!(error, CompileError::Refused(_)));
        assert_eq!(error.to_string(), "bad thing");
        let error = run_script("exit 3", TIME_LIMIT).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_worker_that_a_signal_ended_is_told_from_a_refusal() {
        let error = run_script("kill -9 $$", TIME_LIMIT).unwrap_err();
        assert!(matches!(error, CompileError::Signaled(9)), "{error}");
    }

    #[test]
    fn a_worker_that_never_ends_is_killed() {
        for script in ["exec sleep 600", "exec 2>&-; exec sleep 600"] {
            let began = Instant::now();
            let error = run_script(script, Duration::from_millis(300)).unwrap_err();
            assert!(matches!(error, CompileError::TimeLimit(_)), "{error}");
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn messages_have_one_line() {
        assert_eq!(one_line("bad\n  thing \n"), "bad thing");
    }
}
