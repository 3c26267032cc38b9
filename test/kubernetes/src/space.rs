//! A namespace of the cluster for each test.

use std::path::PathBuf;
use std::sync::{Once, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use std::{env, fs, thread};

use lighter_testkit::{Call, Output};
use serde_json::Value;

use crate::image::{images, import};
use crate::wait::{LIMIT, until};

/// Held shared by tests that need the node as it is, and alone by those that stop parts of it.
static NODE: RwLock<()> = RwLock::new(());
static IMAGES: Once = Once::new();

enum Share {
    With(#[expect(dead_code, reason = "held for its drop")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held for its drop")] RwLockWriteGuard<'static, ()>),
}

/// A namespace, deleted with all that is in it at the end of its test. What the cluster knew of
/// it is kept in the logs when the test has failed.
pub struct Space {
    name: String,
    share: Share,
}

impl Space {
    /// A namespace beside others.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let share = NODE
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Self::create(name, Share::With(share))
    }

    /// The same while no other test runs: its test may stop parts of the node.
    #[track_caller]
    pub fn alone(name: &str) -> Self {
        let share = NODE
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Self::create(name, Share::Alone(share))
    }

    #[track_caller]
    fn create(name: &str, share: Share) -> Self {
        IMAGES.call_once(|| images().iter().for_each(import));
        Call::new("kubectl", ["create", "namespace", name])
            .limit(LIMIT)
            .ok();
        let space = Self {
            name: name.to_owned(),
            share,
        };
        until("the namespace's account", LIMIT, || {
            let output = space.kubectl(["get", "serviceaccount", "default"]).output();
            output.status.success().then_some(()).ok_or(output.stderr)
        });
        space
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A call of `kubectl` in the namespace.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Call {
        Call::new(
            "kubectl",
            ["--namespace", &self.name].into_iter().chain(arguments),
        )
        .limit(LIMIT)
    }

    /// Creates or changes an object.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.kubectl(["apply", "-f", "-"])
            .stdin(object.to_string())
            .ok();
    }

    /// An object, `pod/NAME`, as the cluster has it; null when it is not there.
    pub fn get(&self, object: &str) -> Value {
        let output = self.kubectl(["get", object, "-o", "json"]).output();
        serde_json::from_str(&output.stdout).unwrap_or(Value::Null)
    }

    /// The pods with a label, `app=NAME`.
    pub fn pods(&self, label: &str) -> Vec<Value> {
        let text = self
            .kubectl(["get", "pods", "-l", label, "-o", "json"])
            .ok();
        let list: Value = serde_json::from_str(&text).expect("kubectl answers JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an object has a value at a JSON pointer, and answers the object.
    #[track_caller]
    pub fn await_value(&self, object: &str, pointer: &str, value: &Value) -> Value {
        self.await_object(object, &format!("{value} at {pointer}"), |object| {
            object.pointer(pointer) == Some(value)
        })
    }

    /// Waits until an object is as it should be, and answers it.
    #[track_caller]
    pub fn await_object(&self, object: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(
            &format!("{object} of {} has {what}", self.name),
            LIMIT,
            || {
                let seen = self.get(object);
                if is(&seen) {
                    Ok(seen)
                } else {
                    Err(format!("{:#}", seen["status"]))
                }
            },
        )
    }

    /// Creates a pod and waits until it is ready; answers it.
    #[track_caller]
    pub fn start(&self, pod: &Value) -> Value {
        self.apply(pod);
        self.await_ready(pod["metadata"]["name"].as_str().expect("a pod has a name"))
    }

    /// Waits until a pod is ready, and answers it.
    #[track_caller]
    pub fn await_ready(&self, name: &str) -> Value {
        self.await_object(&format!("pod/{name}"), "condition Ready", |pod| {
            condition(pod, "Ready")
        })
    }

    /// Waits until a Deployment has all of its replicas ready, and no others.
    #[track_caller]
    pub fn await_rollout(&self, name: &str) {
        self.kubectl([
            "rollout",
            "status",
            &format!("deployment/{name}"),
            "--timeout",
            "180s",
        ])
        .limit(Duration::from_secs(190))
        .ok();
    }

    /// Runs a program in the first container of a pod.
    pub fn exec<const N: usize>(&self, pod: &str, arguments: [&str; N]) -> Output {
        let all = ["--namespace", &self.name, "exec", pod, "--"];
        Call::new("kubectl", all.into_iter().chain(arguments))
            .limit(LIMIT)
            .output()
    }

    /// What `kubectl describe` says.
    pub fn describe(&self, kind: &str, name: &str) -> String {
        self.kubectl(["describe", kind, name]).ok()
    }

    /// Waits until `kubectl describe` of a pod has all of these texts, and answers it.
    #[track_caller]
    pub fn await_described(&self, pod: &str, texts: &[&str]) -> String {
        until(
            &format!("kubectl describe pod {pod} says {texts:?}"),
            LIMIT,
            || {
                let text = self.describe("pod", pod);
                if texts.iter().all(|part| text.contains(part)) {
                    Ok(text)
                } else {
                    Err(text)
                }
            },
        )
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if thread::panicking() {
            let folder = env::var_os("LOGS").map(PathBuf::from).unwrap_or_default();
            let text: String = [["describe", "pods"], ["get", "events"]]
                .map(|arguments| self.kubectl(arguments).output().stdout)
                .concat();
            let _ = fs::write(folder.join(format!("failed-{}.txt", self.name)), text);
        }
        // Not waited for but where the node is needed by nobody else: it ends beside other tests.
        let wait = match self.share {
            Share::With(_) => "--wait=false",
            Share::Alone(_) => "--wait=true",
        };
        let _ = Call::new("kubectl", ["delete", "namespace", &self.name, wait])
            .limit(LIMIT)
            .output();
    }
}

/// Whether an object has a condition.
fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == kind && condition["status"] == "True")
}
