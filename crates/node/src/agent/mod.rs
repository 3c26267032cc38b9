//! `lighter agent`: keeps a Kubernetes node installed, as a container of a DaemonSet.
//!
//! ```text
//!            each minute                     SIGTERM
//! installs --------------> label, or reason ---------> is the DaemonSet there?
//!    ^                          |                        yes: leaves all as it is (an update, a drain)
//!    +--------------------------+                        no:  uninstalls; the last one lets the roles go
//! ```
//!
//! What is done to the host is done by runs of this program in the host's mount namespace. This
//! process stays in its container, where its service account's token is renewed.

mod api;
mod ending;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use serde_json::json;

use crate::arguments::AgentArguments;

use self::api::Api;
use self::ending::{Ending, after};

/// The label of a node that is installed. The RuntimeClass asks for [`INSTALLED`].
const LABEL: &str = "lighter.dev/installed";
const INSTALLED: &str = "true";
/// Its value while the node is made what it was before: nothing comes here, and the roles stay.
const LEAVING: &str = "leaving";

const CHECK: Duration = Duration::from_secs(60);
/// After a failure, doubled with each: whatever is wrong, restarting containerd all the time is worse.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);
/// How long the programs wait for containers that use them, when all is uninstalled.
const CONTAINERS: Duration = Duration::from_secs(20);
/// How long the API may be silent about the DaemonSet.
const SILENCE: Duration = Duration::from_secs(15);

struct Agent<'a> {
    arguments: &'a AgentArguments,
    api: Api,
    /// What was said last, so that it is said once.
    said: String,
}

/// Runs until SIGTERM.
pub fn run(arguments: &AgentArguments) -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    let signals = signals
        .thread_block()
        .and_then(|()| SignalFd::new(&signals))
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let mut agent = Agent {
        arguments,
        api: Api::new(&arguments.service_account)?,
        said: String::new(),
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let wait = if agent.keep() {
            pause = FIRST_PAUSE;
            CHECK
        } else {
            let now = pause;
            pause = (pause * 2).min(LONGEST_PAUSE);
            now
        };
        if is_told(&signals, wait)? {
            return agent.end();
        }
    }
}

/// Waits for a signal.
fn is_told(signals: &SignalFd, wait: Duration) -> Result<bool, String> {
    let mut all = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
    match poll(&mut all, wait) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(format!("cannot wait for signals: {error}")),
    }
}

/// Runs this program on the host. Answers what it prints, or why it has failed.
fn on_host(arguments: Vec<OsString>) -> Result<String, String> {
    let output = Command::new("/proc/self/exe")
        .args(arguments)
        .arg("--host")
        .output()
        .map_err(|error| format!("cannot run lighter: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let error = text(&output.stderr);
    Err(error.trim_start_matches("lighter: ").to_owned())
}

impl Agent<'_> {
    /// Installs what is missing, and labels the node accordingly. Answers whether all is well.
    fn keep(&mut self) -> bool {
        match on_host(self.arguments.install.command()) {
            Ok(text) => {
                self.say(&text, |agent| {
                    agent.event("Normal", "LighterInstalled", &text)
                });
                match self.label(Some(INSTALLED)) {
                    Ok(()) => true,
                    Err(error) => {
                        self.say(&format!("cannot label the node: {error}"), |_| Ok(()));
                        false
                    }
                }
            }
            Err(error) => {
                let told = self.label(None);
                let line = error.replace('\n', " ");
                self.say(&format!("not installed: {line}"), |agent| {
                    told.and_then(|()| agent.event("Warning", "LighterInstallFailed", &line))
                });
                false
            }
        }
    }

    /// Prints a text, and tells it elsewhere, unless it was the last one.
    fn say(&mut self, text: &str, tell: impl FnOnce(&Self) -> Result<(), String>) {
        if self.said == text {
            return;
        }
        self.said = text.to_owned();
        println!("{text}");
        if let Err(error) = tell(self) {
            println!("cannot tell the API: {error}");
        }
    }

    fn label(&self, value: Option<&str>) -> Result<(), String> {
        let path = format!("/api/v1/nodes/{}", self.arguments.node_name);
        self.api.patch(
            &path,
            &json!({ "metadata": { "labels": { LABEL: value } } }),
        )
    }

    /// An event of the node, which `kubectl describe node` shows.
    fn event(&self, kind: &str, reason: &str, message: &str) -> Result<(), String> {
        let node = &self.arguments.node_name;
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let message: String = message.replace('\n', "; ").chars().take(1000).collect();
        let event = json!({
            "metadata": { "generateName": "lighter-" },
            // Events of a node are looked up by its name in the place of its UID.
            "involvedObject": { "kind": "Node", "apiVersion": "v1", "name": node, "uid": node },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": { "component": "lighter", "host": node },
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        self.api.post("/api/v1/namespaces/default/events", &event)
    }

    /// What is done at the end depends on why it is the end.
    fn end(&self) -> Result<(), String> {
        let limit = Instant::now() + SILENCE;
        let ending = loop {
            match after(self.api.get(&self.daemon_set())) {
                Ok(ending) => break ending,
                Err(error) if Instant::now() > limit => {
                    println!("left as it is, as the API does not say why this ends: {error}");
                    return Ok(());
                }
                Err(_) => thread::sleep(Duration::from_secs(1)),
            }
        };
        match ending {
            Ending::Pod => {
                println!("left as it is: the DaemonSet is there");
                Ok(())
            }
            Ending::DaemonSet => self.uninstall(),
        }
    }

    fn daemon_set(&self) -> String {
        let AgentArguments {
            namespace,
            daemon_set,
            ..
        } = self.arguments;
        format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{daemon_set}")
    }

    /// The DaemonSet is gone. Nothing new may come here, and the last agent lets its roles go.
    fn uninstall(&self) -> Result<(), String> {
        if let Err(error) = self.label(Some(LEAVING)) {
            println!("cannot change the node's label: {error}");
        }
        let limit = Instant::now() + CONTAINERS;
        let uninstalled = loop {
            // Once without the handler, it waits for those that use the programs.
            match on_host(self.arguments.install.node.uninstall()) {
                Ok(text) if text.contains("left the programs") && Instant::now() < limit => {
                    thread::sleep(Duration::from_secs(1));
                }
                done => break done,
            }
        };
        match &uninstalled {
            Ok(text) => println!("{text}"),
            Err(error) => {
                let _ = self.event("Warning", "LighterUninstallFailed", error);
            }
        }
        let left = self.leave();
        uninstalled.map(|_| ()).and(left)
    }

    /// Removes the node's label, and looks then whether another node has one: of two that do so at the
    /// same time, one sees that the other has none at least.
    fn leave(&self) -> Result<(), String> {
        let AgentArguments {
            namespace,
            daemon_set,
            ..
        } = self.arguments;
        self.label(None)?;
        let labelled = format!("/api/v1/nodes?labelSelector={LABEL}&limit=1");
        if !ending::is_last(&self.api.get(&labelled)?.object()?) {
            return Ok(());
        }
        let roles = "/apis/rbac.authorization.k8s.io/v1";
        self.api.let_go(&[
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{daemon_set}"),
            format!("{roles}/clusterroles/{daemon_set}"),
            format!("{roles}/clusterrolebindings/{daemon_set}"),
        ])
    }
}
