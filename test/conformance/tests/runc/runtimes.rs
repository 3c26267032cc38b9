//! Who runs the bundles.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use lighter_testkit::shim::Shim;
use serde_json::{Value, json};

use crate::bundle::Case;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a run can be told by.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// No program was executed.
    Refused {
        /// What hooks have written.
        trace: Vec<Value>,
    },
    /// The container has ended.
    Ended {
        status: u32,
        output: String,
        /// What hooks have written.
        trace: Vec<Value>,
    },
}

/// Words that would differ between two runs by one runtime.
fn normalize(text: &str, dir: &Path, id: &str) -> String {
    text.replace(dir.to_str().unwrap(), "DIR").replace(id, "ID")
}

/// The lines of the file to which the hooks of a case write: words, or the state that they were given,
/// as far as the specification says what is in it.
fn trace(dir: &Path, bundle: &Path, id: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("trace")).unwrap_or_default();
    let line = |line: &str| match serde_json::from_str::<Value>(line) {
        Ok(state) if state.is_object() => json!({
            "status": state["status"],
            "id": state["id"] == id,
            "bundle": state["bundle"] == bundle.to_str().unwrap(),
            "annotations": state.get("annotations").filter(|it| **it != json!({})),
            "has pid": state["pid"].as_i64().is_some_and(|pid| pid > 0),
        }),
        _ => json!(normalize(line, dir, id)),
    };
    text.lines().map(line).collect()
}

/// One version of runc.
pub(crate) struct Runc {
    program: PathBuf,
}

impl Runc {
    /// The distribution's.
    pub(crate) fn of_the_system() -> Self {
        Self {
            program: "/usr/sbin/runc".into(),
        }
    }

    /// That of `test/setup/daemons.sh`.
    pub(crate) fn newer() -> Self {
        let daemons = lighter_testkit::cache().join("daemons");
        let found = fs::read_dir(&daemons).unwrap().flatten().find(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("runc-")
        });
        let dir = found.expect("run test/setup/daemons.sh").path();
        Self {
            program: dir.join("usr/sbin/runc"),
        }
    }

    pub(crate) fn run(&self, case: &Case) -> Outcome {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("conformance-{}-{number}", std::process::id());
        let spec = case.make(&dir);
        fs::write(dir.join("config.json"), spec.to_string()).unwrap();
        let output = dir.join("output");
        let log = dir.join("log");
        let file = fs::File::create(&output).unwrap();
        let status = Command::new(&self.program)
            .arg("--root")
            .arg(dir.join("state"))
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "run", "--bundle"])
            .arg(&dir)
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let log = fs::read_to_string(log).unwrap_or_default();
        let _ = Command::new(&self.program)
            .arg("--root")
            .arg(dir.join("state"))
            .args(["delete", "--force", &id])
            .output();
        let trace = trace(&dir, &dir, &id);
        if log.contains(r#""level":"error""#) {
            return Outcome::Refused { trace };
        }
        Outcome::Ended {
            status: status.code().unwrap_or(-1).cast_unsigned(),
            output: normalize(
                &String::from_utf8_lossy(&fs::read(output).unwrap()),
                &dir,
                &id,
            ),
            trace,
        }
    }
}

/// The shim under test.
pub(crate) struct Lighter {
    shim: Shim,
    error: RefCell<String>,
}

impl Lighter {
    pub(crate) fn start() -> Self {
        Self {
            shim: Shim::start(),
            error: RefCell::default(),
        }
    }

    /// Why the last bundle was refused.
    pub(crate) fn last_error(&self) -> String {
        self.error.borrow().clone()
    }

    pub(crate) fn run(&self, case: &Case) -> Outcome {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("conformance-{}-{number}", std::process::id());
        let spec = case.make(&dir);
        let bundle = self.shim.bundle(&id);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("stdout"), "").unwrap();
        let created = self.shim.create(&id, &spec);
        let started = created.and_then(|_| self.shim.start_task(&id));
        let outcome = match started {
            Ok(()) => {
                let status = self.shim.wait(&id);
                Ok(status)
            }
            Err(error) => Err(error),
        };
        if outcome.is_ok() || self.shim.state(&id, "").is_ok() {
            self.shim.remove(&id);
        }
        let trace = trace(&dir, &bundle, &id);
        assert_eq!(
            self.shim.leftovers(),
            Vec::<PathBuf>::new(),
            "{}",
            case.name
        );
        match outcome {
            Ok(status) => {
                self.error.borrow_mut().clear();
                let output = fs::read(bundle.join("stdout")).unwrap();
                Outcome::Ended {
                    status,
                    output: normalize(&String::from_utf8_lossy(&output), &dir, &id),
                    trace,
                }
            }
            Err(error) => {
                *self.error.borrow_mut() = error;
                Outcome::Refused { trace }
            }
        }
    }
}
