//! The tasks of a shim, and the exits that belong to them.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use lighter_core::{ErrorClass, Exit, Failure, Lifecycle, Notice, Stdio};
use tokio::sync::watch;

use crate::events::event;
use crate::publisher::Publisher;
use crate::stdio::HeldStdin;

/// One task. It holds nothing of the container's spec: secrets of one container must not be
/// in memory that the next one's init is forked from.
pub(crate) struct Task {
    pub(crate) bundle: PathBuf,
    pub(crate) stdio: Stdio,
    pub(crate) pid: i32,
    pub(crate) lifecycle: Lifecycle,
    /// How init ended, for those who wait.
    pub(crate) exit: watch::Sender<Option<Exit>>,
    /// Keeps stdin from ending before the client has opened it; CloseIO lets it go.
    pub(crate) stdin: Option<HeldStdin>,
    /// Keeps the output FIFOs readable.
    pub(crate) _readers: Vec<File>,
}

/// All tasks of the shim. Guarded by one lock of the service.
pub(crate) struct Tasks {
    tasks: HashMap<String, Task>,
    publisher: Publisher,
    /// Creates under way. While there are some, an exit of an unknown process is kept: it may
    /// be that of an init whose create has not been answered yet.
    creating: usize,
    unclaimed: HashMap<i32, Exit>,
}

impl Tasks {
    pub(crate) fn new(publisher: Publisher) -> Self {
        Self {
            tasks: HashMap::new(),
            publisher,
            creating: 0,
            unclaimed: HashMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    pub(crate) fn get(&mut self, id: &str) -> Result<&mut Task, Failure> {
        self.tasks
            .get_mut(id)
            .ok_or_else(|| Failure::new(ErrorClass::NotFound, format!("there is no task {id}")))
    }

    /// Takes the id for a create that begins.
    pub(crate) fn begin(&mut self, id: &str, task: Task) -> Result<(), Failure> {
        if self.tasks.contains_key(id) {
            return Err(Failure::new(
                ErrorClass::AlreadyExists,
                format!("task {id} exists already"),
            ));
        }
        self.tasks.insert(id.to_owned(), task);
        self.creating += 1;
        Ok(())
    }

    /// The create has succeeded: init is `pid`.
    pub(crate) fn created(&mut self, id: &str, pid: i32) {
        let exit = self.unclaimed.remove(&pid);
        self.end_create();
        self.update(id, |task| {
            task.pid = pid;
            let mut notices = task.lifecycle.created();
            notices.extend(
                exit.into_iter()
                    .flat_map(|exit| task.lifecycle.exited(exit)),
            );
            notices
        });
    }

    /// The create has failed: there is no such task.
    pub(crate) fn create_failed(&mut self, id: &str) {
        self.tasks.remove(id);
        self.end_create();
    }

    fn end_create(&mut self) {
        self.creating -= 1;
        if self.creating == 0 {
            self.unclaimed.clear();
        }
    }

    /// A child of the shim has ended: an init, or a process that was only needed on the way.
    pub(crate) fn ended(&mut self, pid: i32, exit: Exit) {
        let id = self.tasks.iter().find(|(_, task)| task.pid == pid);
        match id.map(|(id, _)| id.clone()) {
            Some(id) => self.update(&id, |task| task.lifecycle.exited(exit)),
            None if self.creating > 0 => drop(self.unclaimed.insert(pid, exit)),
            None => {}
        }
    }

    /// Changes a task, publishes what that makes due and wakes those who wait for its end.
    pub(crate) fn update(&mut self, id: &str, change: impl FnOnce(&mut Task) -> Vec<Notice>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        for notice in change(task) {
            self.publisher.publish(event(id, task, notice));
        }
        if let Some(exit) = task.lifecycle.exit() {
            task.exit.send_replace(Some(exit));
        }
    }

    /// Forgets a deleted task.
    pub(crate) fn remove(&mut self, id: &str) {
        self.tasks.remove(id);
    }
}
