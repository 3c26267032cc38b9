//! `ctr run`, spelt out.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use crate::call::Call;
use crate::cgroup::Driver;
use crate::containerd::Containerd;
use crate::output::Output;
use crate::running::Running;

/// Runtime type of Lighter's shim.
pub const WASMTIME: &str = "io.containerd.wasmtime.v1";
/// Runtime type of runc's shim, the reference.
pub const RUNC: &str = "io.containerd.runc.v2";

/// A container that `ctr run` will start: with Lighter's runtime and `--rm`, unless said
/// otherwise.
#[must_use = "a run does nothing before output, spawn or detach"]
pub struct Run<'a> {
    containerd: &'a Containerd,
    image: String,
    id: String,
    runtime: String,
    flags: Vec<OsString>,
    arguments: Vec<OsString>,
    limit: Option<Duration>,
    stdin: Option<Vec<u8>>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(containerd: &'a Containerd, image: String) -> Self {
        Self {
            containerd,
            image,
            id: containerd.next_id(),
            runtime: WASMTIME.to_owned(),
            flags: Vec::new(),
            arguments: Vec::new(),
            limit: None,
            stdin: None,
        }
    }

    /// Uses another runtime type, [`RUNC`] for instance.
    pub fn runtime(mut self, runtime: &str) -> Self {
        self.runtime = runtime.to_owned();
        self
    }

    /// Names the container; otherwise it has an id that was not used before.
    pub fn id(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    /// Adds flags of `ctr run`: `--env`, `--mount`, `--label` ...
    pub fn flags<I, S>(mut self, flags: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.flags
            .extend(flags.into_iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    /// Replaces the image's entrypoint and command by these arguments.
    pub fn arguments<I, S>(mut self, arguments: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.arguments = arguments
            .into_iter()
            .map(|text| text.as_ref().to_owned())
            .collect();
        self
    }

    /// Fails when `ctr` takes longer; 60 s otherwise.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// What the container reads on stdin before end of file. A container that reads needs it,
    /// with an empty text too: `ctr` loses an end of file that comes before the task is there.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Runs in the foreground with `--rm`, to the end.
    #[track_caller]
    pub fn output(self) -> Output {
        let (containerd, id) = (self.containerd, self.id.clone());
        if self.stdin.is_none() {
            return self.call("--rm").output();
        }
        // Started, not created: only then does `ctr` know whom to tell.
        self.call("--rm").output_with_stdin_until(|| {
            matches!(
                containerd.status(&id).as_deref(),
                Some("RUNNING" | "STOPPED")
            )
        })
    }

    /// Runs in the foreground with `--rm`; stdin stays open.
    #[track_caller]
    pub fn spawn(self) -> Running {
        self.call("--rm").spawn()
    }

    /// Starts in the background and answers the id; [`Containerd::remove`] ends it.
    ///
    /// Nobody reads its output, unless a flag `--log-uri` names a file.
    #[track_caller]
    pub fn detach(self) -> String {
        let id = self.id.clone();
        self.call("--detach").output().exits(0);
        id
    }

    /// The call of `ctr` itself, with the flag `mode`: `--rm`, `--detach`, or neither.
    pub fn call(self, mode: &str) -> Call {
        let driver = Driver::of_tests();
        let mut all: Vec<OsString> = vec!["run".into()];
        // runc's shim takes the form of the path from an option of its own.
        if driver == Driver::Systemd && self.runtime == WASMTIME {
            let path = driver.path(self.containerd.namespace(), &self.id);
            all.extend(["--cgroup".into(), path.into()]);
        }
        all.extend(["--runtime".into(), self.runtime.into()]);
        if !mode.is_empty() {
            all.push(mode.into());
        }
        all.extend(self.flags);
        all.extend([self.image.into(), self.id.into()]);
        all.extend(self.arguments);
        let call = self
            .containerd
            .ctr(all)
            .stdin(self.stdin.unwrap_or_default());
        match self.limit {
            Some(limit) => call.limit(limit),
            None => call,
        }
    }
}
