//! Commands with a time limit: a test never hangs, it fails with what the command printed.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How long a call may take when [`Call::limit`] says nothing else.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait for the outputs' end after the process has ended: a daemon that it left
/// behind may hold them open.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2);
/// Short enough to be no part of what the benchmark measures.
const POLL: Duration = Duration::from_micros(300);

/// A command that is ready to run.
#[must_use = "a call does nothing before run, output or spawn"]
pub struct Call {
    command: Command,
    limit: Duration,
    stdin: Vec<u8>,
    line: String,
}

impl Call {
    /// A call of `program` with `arguments`; stdin is empty, the limit 60 s.
    pub fn new<I, S>(program: impl AsRef<OsStr>, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let arguments: Vec<OsString> = arguments
            .into_iter()
            .map(|argument| argument.as_ref().to_owned())
            .collect();
        let mut line = program.as_ref().to_string_lossy().into_owned();
        for argument in &arguments {
            line.push(' ');
            line.push_str(&argument.to_string_lossy());
        }
        let mut command = Command::new(program);
        command.args(arguments);
        Self {
            command,
            limit: DEFAULT_LIMIT,
            stdin: Vec::new(),
            line,
        }
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Kills the command and fails when it takes longer.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// What the command reads on stdin before end of file.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs to the end.
    #[track_caller]
    pub fn output(mut self) -> Output {
        let limit = self.limit;
        let stdin = std::mem::take(&mut self.stdin);
        let mut running = self.spawn();
        drop(running.feed(stdin));
        running.wait(limit)
    }

    /// Runs to the end; stdin has its end of file only when `ready` has answered true.
    #[track_caller]
    pub(crate) fn output_with_stdin_until(mut self, ready: impl Fn() -> bool) -> Output {
        let limit = self.limit;
        let stdin = std::mem::take(&mut self.stdin);
        let mut running = self.spawn();
        let open = running.feed(stdin);
        let end = Instant::now() + limit;
        while !running.ended() && Instant::now() < end && !ready() {
            thread::sleep(Duration::from_millis(20));
        }
        drop(open);
        running.wait(limit)
    }

    /// Runs to the end, demands success and answers stdout.
    #[track_caller]
    pub fn ok(self) -> String {
        self.output().ok()
    }

    /// Starts the command with a pipe at stdin that stays open.
    #[track_caller]
    pub fn spawn(mut self) -> Running {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{}`: {error}", self.line));
        Running {
            stdin: child.stdin.take(),
            stdout: Capture::start(child.stdout.take().expect("stdout is a pipe")),
            stderr: Capture::start(child.stderr.take().expect("stderr is a pipe")),
            child,
            line: self.line,
            started: Instant::now(),
        }
    }
}

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
    fn feed(&mut self, bytes: Vec<u8>) -> Sender<()> {
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

    fn ended(&mut self) -> bool {
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

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Output {
    line: String,
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
