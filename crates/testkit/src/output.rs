//! How a command ended and what it printed.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Output {
    pub(crate) line: String,
    /// How the process ended.
    pub status: ExitStatus,
    /// Its stdout, invalid UTF-8 replaced.
    pub stdout: String,
    /// Its stdout, byte for byte.
    pub stdout_bytes: Vec<u8>,
    /// Its stderr, invalid UTF-8 replaced.
    pub stderr: String,
    /// From start to end of the process.
    pub elapsed: Duration,
}

impl Output {
    /// The exit code, or 128 plus the signal that ended the process, as a shell has it.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().expect("ended by exit or by signal"))
    }

    /// Demands exit code 0 and answers stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        self.exits(0);
        self.stdout
    }

    /// Demands an exit code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert!(
            self.code() == code,
            "`{}` exited {} and not {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.code(),
            self.stdout,
            self.stderr
        );
        self
    }

    /// Demands failure and that stderr contains each of `texts`.
    #[track_caller]
    pub fn fails_with(&self, texts: &[&str]) -> &Self {
        assert!(
            !self.status.success(),
            "`{}` succeeded\n{}",
            self.line,
            self.stdout
        );
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "stderr of `{}` has no {text:?}:\n{}",
                self.line,
                self.stderr
            );
        }
        self
    }
}
