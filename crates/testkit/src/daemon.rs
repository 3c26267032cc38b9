//! A daemon process: started with its log in a file, stopped by its pid.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::call::Call;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the command, with stdout and stderr appended to the file `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log);
        let file = file.unwrap_or_else(|error| panic!("cannot open {}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("duplicate a descriptor"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self {
            name,
            child,
            log: log.to_path_buf(),
        }
    }

    /// Waits until `probe` succeeds.
    ///
    /// # Panics
    /// When the daemon ends before, or after a minute; with the end of its log.
    pub(crate) fn await_ready(&mut self, probe: impl Fn() -> Call) {
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for an own child") {
                panic!("{} ended with {status}\n{}", self.name, self.log_end(40));
            }
            if probe().limit(START_LIMIT).output().status.success() {
                return;
            }
            if Instant::now() > end {
                panic!("{} does not answer\n{}", self.name, self.log_end(40));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log.
    pub(crate) fn log_end(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        let first = all.len().saturating_sub(lines);
        format!(
            "--- end of the log of {}\n{}",
            self.name,
            all[first..].join("\n")
        )
    }

    /// Sends `signal`, SIGKILL after ten seconds, and reaps. Does nothing when it has ended.
    pub(crate) fn stop(&mut self, signal: Signal) {
        let end = Instant::now() + STOP_LIMIT;
        let _ = self
            .child
            .try_wait()
            .is_ok_and(|ended| ended.is_some() || kill(Pid::from_raw(self.pid()), signal).is_err());
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_end(60));
        }
        self.stop(Signal::SIGTERM);
    }
}
