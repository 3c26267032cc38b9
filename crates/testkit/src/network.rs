//! A network of its own for the containers of one test, as a pod has it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::call::Call;

/// A network namespace with a loopback interface and nothing else. Dropping it removes it.
pub struct Network {
    name: String,
}

impl Network {
    /// Makes one; `ip` has to be there (test/setup/packages.sh).
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lighter-test-{}-{number}", std::process::id());
        Call::new("ip", ["netns", "add", &name]).ok();
        let network = Self { name };
        network.call("ip", ["link", "set", "lo", "up"]).ok();
        network
    }

    /// The file that containers join it by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.name)
    }

    /// Flags of `ctr run` for a container in it.
    pub fn flags(&self) -> [String; 2] {
        let path = self.path();
        [
            "--with-ns".to_owned(),
            format!("network:{}", path.display()),
        ]
    }

    /// A call of a program inside of it.
    pub fn call<I, S>(&self, program: &str, arguments: I) -> Call
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut all: Vec<OsString> = ["netns", "exec", &self.name, program]
            .map(OsString::from)
            .into();
        all.extend(arguments.into_iter().map(|each| each.as_ref().to_owned()));
        Call::new("ip", all)
    }

    /// A connection to a port of its loopback interface.
    pub fn connect(&self, port: u16) -> TcpStream {
        let namespace = File::open(self.path()).unwrap();
        // The thread stays there.
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            TcpStream::connect(("127.0.0.1", port)).unwrap()
        })
        .join()
        .unwrap()
    }

    /// curl inside of it, silent but for errors.
    pub fn curl<const N: usize>(&self, arguments: [&str; N]) -> Call {
        let all = ["--silent", "--show-error", "--max-time", "60"];
        self.call("curl", all.iter().chain(&arguments))
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        Call::new("ip", ["netns", "delete", &self.name]).output();
    }
}
