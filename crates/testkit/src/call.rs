//! Commands with a time limit: a test never hangs, it fails with what the command printed.

use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::output::Output;
use crate::running::Running;

/// How long a call may take when [`Call::limit`] says nothing else.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

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

    /// Runs it on a terminal of this size (by script(1)), as a user does. All of its output is
    /// on stdout then.
    pub fn on_terminal(mut self, columns: u16, lines: u16) -> Self {
        let quoted = |text: &OsStr| format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"));
        let mut line = format!("stty cols {columns} rows {lines}; exec ");
        line.push_str(&quoted(self.command.get_program()));
        for argument in self.command.get_args() {
            line.push(' ');
            line.push_str(&quoted(argument));
        }
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        self.command = command;
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
        Running::start(&mut self.command, self.line)
    }
}
