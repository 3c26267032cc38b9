//! A command while it runs.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::output::Output;

/// How long to wait for the outputs' end after the process has ended: a daemon that it left
/// behind may hold them open.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2);
/// Short enough to be no part of what the benchmark measures.
const POLL: Duration = Duration::from_micros(300);

/// What a command has printed so far, collected by a thread.
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: thread::JoinHandle<()>,
}

impl Capture {
    fn start(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut block = vec![0; 1 << 16];
            while let Ok(count @ 1..) = source.read(&mut block) {
                sink.lock()
                    .expect("the reader does not panic")
                    .extend(&block[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes
            .lock()
            .expect("the reader does not panic")
            .clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

/// A command that runs. Dropping it kills its process group.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
    line: String,
    started: Instant,
}

impl Running {
    /// Starts the command as the leader of a process group; `line` names it in failures.
    #[track_caller]
    pub(crate) fn start(command: &mut Command, line: String) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        Self {
            stdin: child.stdin.take(),
            stdout: Capture::start(child.stdout.take().expect("stdout is a pipe")),
            stderr: Capture::start(child.stderr.take().expect("stderr is a pipe")),
            child,
            line,
            started: Instant::now(),
        }
    }

    /// The command's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to the command's stdin.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let pipe = self.stdin.as_mut().expect("stdin was closed before");
        pipe.write_all(bytes.as_ref())
            .unwrap_or_else(|error| panic!("cannot write to stdin of `{}`: {error}", self.line));
    }

    /// Writes to stdin from a thread, since the command may print before it has read all. End
    /// of file follows when the answer is dropped.
    pub(crate) fn feed(&mut self, bytes: Vec<u8>) -> Sender<()> {
        let (sender, receiver) = channel::<()>();
        let pipe = self.stdin.take();
        thread::spawn(move || {
            if let Some(mut pipe) = pipe {
                // A command that ends without having read everything is no failure.
                let _ = pipe.write_all(&bytes);
                let _ = receiver.recv();
            }
        });
        sender
    }

    pub(crate) fn ended(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("wait for an own child")
            .is_some()
    }

    /// Brings end of file to the command's stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What it has printed on stdout until now.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed on stderr until now.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until stdout contains `text`.
    #[track_caller]
    pub fn await_stdout(&mut self, text: &str, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.stdout().contains(text) {
            let ended = self.ended();
            if ended || Instant::now() > end {
                // The last bytes may arrive after the process has ended.
                thread::sleep(Duration::from_millis(50));
                if self.stdout().contains(text) {
                    return;
                }
                let what = if ended { "ended" } else { "still runs" };
                panic!(
                    "`{}` {what} and has not printed {text:?}{}",
                    self.line,
                    self.printed()
                );
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal to the command itself (not to its children).
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal `{}`: {error}", self.line));
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// After `limit`, with what the command has printed; the command is killed.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for an own child") {
                break status;
            }
            if Instant::now() > end {
                self.kill();
                panic!(
                    "`{}` ran longer than {limit:?}{}",
                    self.line,
                    self.printed()
                );
            }
            thread::sleep(POLL);
        };
        let elapsed = self.started.elapsed();
        let end = Instant::now() + OUTPUT_LIMIT;
        while !(self.stdout.reader.is_finished() && self.stderr.reader.is_finished())
            && Instant::now() < end
        {
            thread::sleep(POLL);
        }
        Output {
            line: std::mem::take(&mut self.line),
            status,
            stdout: self.stdout.text(),
            stdout_bytes: self.stdout.bytes(),
            stderr: self.stderr.text(),
            elapsed,
        }
    }

    fn kill(&mut self) {
        // The group has the child's id as long as the child is not reaped, which only wait does.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(
                Pid::from_raw(self.child.id().cast_signed()),
                Signal::SIGKILL,
            );
            let _ = self.child.wait();
        }
    }

    fn printed(&self) -> String {
        format!(
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout(),
            self.stderr()
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
