//! The tasks of a shim, their processes, and the exits that belong to them.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lighter_core::{
    Children, Created, Descriptor, Due, ErrorClass, Executed, Exit, Failure, INIT, ProcessKey,
    Processes, Status, Stdio,
};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::calls::PendingCalls;
use crate::events::{event, out_of_memory};
use crate::making::Cancellation;
use crate::memory::MemoryWatch;
use crate::publisher::Publisher;
use crate::spans::SpanSender;
use crate::stdio::{HeldStdin, StdinWatch, hold_readers, hold_writer};
use crate::terminal::Terminal;

/// The status of what SIGKILL has ended, or of a shell whose command it has.
const KILLED: u8 = 137;

/// The shim's own end of a process's stdin, which keeps it from ending before the client has
/// opened it.
pub(crate) enum Stdin {
    /// Not yet, or there is none.
    Unheld,
    /// Until the client has come and gone.
    Held(#[expect(dead_code, reason = "held, never used")] HeldStdin),
    /// The client has said that nothing will come.
    Closed,
}

/// One process of a task.
pub(crate) struct Process {
    /// 0 until it has been made.
    pub(crate) pid: i32,
    pub(crate) stdio: Stdio,
    /// How it ended, for those who wait.
    pub(crate) exit: watch::Sender<Option<Exit>>,
    pub(crate) stdin: Stdin,
    pub(crate) terminal: Option<Terminal>,
    /// The pidfd of the logger that takes its output.
    pub(crate) logger: Option<OwnedFd>,
    /// The request that makes it, while that is under way.
    making: Option<Cancellation>,
    /// Keeps the output FIFOs readable.
    _readers: Vec<File>,
}

impl Process {
    /// A process that is still to be made.
    pub(crate) fn new(stdio: Stdio) -> Self {
        Self {
            pid: 0,
            exit: watch::Sender::new(None),
            stdin: Stdin::Unheld,
            terminal: None,
            logger: None,
            making: None,
            _readers: hold_readers(&stdio),
            stdio,
        }
    }

    /// Holds its stdin from now on. The file is an end of it that the caller keeps until the
    /// process has its own.
    fn hold_stdin(&mut self, watch: &StdinWatch) -> Option<File> {
        if self.stdio.terminal || matches!(self.stdin, Stdin::Closed) {
            return None;
        }
        let held = watch.hold(&self.stdio).inspect_err(|error| {
            log::warn!("stdin {} is not held open: {error}", self.stdio.stdin);
        });
        let (held, reader) = held.ok()??;
        self.stdin = Stdin::Held(held);
        Some(reader)
    }

    /// Takes over what its operation has passed to the shim.
    fn adopt(&mut self, executed: &Executed, passed_fds: &mut PassedFds) {
        self.pid = executed.pid;
        self.logger = passed_fds.take(Descriptor::Logger);
        let Some(master) = passed_fds.take(Descriptor::Terminal) else {
            return;
        };
        let started = Terminal::start(
            master,
            passed_fds.take(Descriptor::TerminalInput),
            passed_fds.take(Descriptor::TerminalOutput),
            hold_writer(&self.stdio),
        );
        match started {
            Ok(terminal) => self.terminal = Some(terminal),
            Err(error) => log::error!("the terminal of process {} is dead: {error}", self.pid),
        }
    }
}

/// One task. It holds nothing of the container's spec: secrets of one container must not be
/// in memory that the next one's init is forked from.
pub(crate) struct Task {
    pub(crate) bundle: PathBuf,
    pub(crate) lifecycle: Processes,
    pub(crate) init: Process,
    execs: HashMap<String, Process>,
    /// Accepted requests that are under way.
    pub(crate) pending: PendingCalls,
    /// Whether the kernel ends the others when init ends.
    owns_pid_namespace: bool,
    memory: Option<MemoryWatch>,
    /// Waits for the memory watch and for spans, as long as the task is there.
    pub(crate) watcher: JoinSet<()>,
}

impl Task {
    /// A task whose Create is under way.
    pub(crate) fn new(bundle: PathBuf, init: Process) -> Self {
        Self {
            bundle,
            lifecycle: Processes::new(),
            init,
            execs: HashMap::new(),
            pending: PendingCalls::default(),
            owns_pid_namespace: true,
            memory: None,
            watcher: JoinSet::new(),
        }
    }

    /// Init or the exec with this id.
    pub(crate) fn process(&self, process: &str) -> Option<&Process> {
        match process {
            INIT => Some(&self.init),
            id => self.execs.get(id),
        }
    }

    pub(crate) fn process_mut(&mut self, process: &str) -> Result<&mut Process, Failure> {
        match process {
            INIT => Ok(&mut self.init),
            id => self.execs.get_mut(id).ok_or_else(|| {
                Failure::new(ErrorClass::NotFound, format!("there is no process {id}"))
            }),
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        let status = self.lifecycle.status(INIT);
        matches!(status, Ok(Status::Paused | Status::Pausing))
    }

    /// The ids of its execs by process id.
    pub(crate) fn execs(&self) -> HashMap<i32, &str> {
        let execs = self.execs.iter();
        execs.map(|(id, exec)| (exec.pid, id.as_str())).collect()
    }
}

/// All tasks of the shim. Guarded by one lock of the service.
pub(crate) struct Tasks {
    tasks: HashMap<String, Task>,
    children: Children,
    stdin_watch: StdinWatch,
    publisher: Publisher,
    /// Where spans go, if there are any.
    spans: Option<SpanSender>,
}

impl Tasks {
    pub(crate) fn new(publisher: Publisher, spans: Option<SpanSender>) -> Self {
        Self {
            tasks: HashMap::new(),
            children: Children::default(),
            stdin_watch: StdinWatch::default(),
            publisher,
            spans,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether there is a task that has been created and is not being deleted.
    pub(crate) fn has_established(&self) -> bool {
        let mut tasks = self.tasks.values();
        tasks.any(|task| task.lifecycle.is_established())
    }

    pub(crate) fn get(&mut self, id: &str) -> Result<&mut Task, Failure> {
        self.tasks
            .get_mut(id)
            .ok_or_else(|| Failure::new(ErrorClass::NotFound, format!("there is no task {id}")))
    }

    /// Takes the id for a create that begins. The file is an end of stdin that the caller keeps
    /// until init has its own.
    pub(crate) fn begin(&mut self, id: &str, mut task: Task) -> Result<Option<File>, Failure> {
        if self.tasks.contains_key(id) {
            return Err(Failure::new(
                ErrorClass::AlreadyExists,
                format!("task {id} exists already"),
            ));
        }
        let reader = task.init.hold_stdin(&self.stdin_watch);
        self.tasks.insert(id.to_owned(), task);
        Ok(reader)
    }

    /// Exec has added a process.
    pub(crate) fn add(&mut self, id: &str, exec: &str, process: Process) -> Result<(), Failure> {
        let due = self.get(id)?.lifecycle.add(exec)?;
        self.update(id, |task| {
            task.execs.insert(exec.to_owned(), process);
            due
        });
        Ok(())
    }

    /// What is needed to make an added process: its stdio, an end of its stdin that the caller keeps
    /// until the process has its own, and the pid of init.
    pub(crate) fn exec_to_make(
        &mut self,
        id: &str,
        exec: &str,
    ) -> Result<(Stdio, Option<File>, i32), Failure> {
        let watch = self.stdin_watch.clone();
        let task = self.get(id)?;
        let init = task.init.pid;
        let process = task.process_mut(exec)?;
        Ok((process.stdio.clone(), process.hold_stdin(&watch), init))
    }

    /// A request that makes a process begins.
    pub(crate) fn begin_making(&mut self, key: &ProcessKey, cancellation: Cancellation) {
        if let Some(process) = self.process_mut(key) {
            process.making = Some(cancellation);
        }
    }

    /// The request that makes a process, if it is under way.
    pub(crate) fn making(&mut self, id: &str, process: &str) -> Option<Cancellation> {
        let process = self.get(id).ok()?.process_mut(process).ok()?;
        process.making.clone()
    }

    /// The requests under way that make execs of a task.
    pub(crate) fn making_execs(&self, id: &str) -> Vec<Cancellation> {
        let task = self.tasks.get(id);
        let execs = task.into_iter().flat_map(|task| task.execs.values());
        execs.filter_map(|exec| exec.making.clone()).collect()
    }

    fn process_mut(&mut self, key: &ProcessKey) -> Option<&mut Process> {
        self.tasks
            .get_mut(&key.task)?
            .process_mut(&key.process)
            .ok()
    }

    /// The child `pid`, which has not been reaped, is what becomes the process.
    pub(crate) fn claim(&mut self, pid: i32, key: &ProcessKey) {
        self.children.claim(pid, key.clone());
    }

    /// A process could not be made. Of a task whose create has failed nothing is known any more.
    pub(crate) fn make_failed(&mut self, key: &ProcessKey) {
        self.children.forget(key);
        if key.process == INIT {
            self.remove(&key.task, INIT);
            return;
        }
        self.update(&key.task, |task| {
            if let Ok(process) = task.process_mut(&key.process) {
                process.making = None;
            }
            task.lifecycle.start_failed(&key.process)
        });
    }

    /// A process has been made, and may have ended already. `created` is what is told of init.
    pub(crate) fn made(
        &mut self,
        key: &ProcessKey,
        executed: &Executed,
        mut passed_fds: PassedFds,
        created: Option<&Created>,
    ) {
        let ProcessKey { task: id, process } = key;
        let exit = self.children.made(key);
        self.relay_spans(id, passed_fds.take(Descriptor::Spans));
        self.update(id, |task| {
            if let Ok(process) = task.process_mut(process) {
                process.adopt(executed, &mut passed_fds);
                process.making = None;
            }
            let mut due = match created {
                Some(created) => {
                    task.owns_pid_namespace = created.owns_pid_namespace;
                    task.memory = memory_watch(&mut passed_fds);
                    task.lifecycle.created()
                }
                None => task.lifecycle.started(process),
            };
            due.extend(exit.map_or_else(Vec::new, |exit| task.lifecycle.exited(process, exit)));
            due
        });
    }

    /// Takes the spans of a process of this task on, as long as both are there.
    fn relay_spans(&mut self, id: &str, socket: Option<OwnedFd>) {
        let Some((spans, socket)) = self.spans.as_ref().zip(socket) else {
            return;
        };
        match spans.relay(id, socket) {
            Ok(relay) => {
                if let Ok(task) = self.get(id) {
                    // Those of execs that have ended.
                    while task.watcher.try_join_next().is_some() {}
                    task.watcher.spawn(relay);
                }
            }
            Err(error) => log::warn!(container = id; "its spans are lost: {error}"),
        }
    }

    /// A child of the shim has ended: a process of a task, or one that was only needed on the way.
    /// Returns the task whose other processes have to be ended now, because the kernel does not.
    pub(crate) fn ended(&mut self, pid: i32, exit: Exit) -> Option<String> {
        let ProcessKey { task: id, process } = self.children.exited(pid, exit)?;
        // So that the reason comes before the exit.
        if process == INIT && exit.status == KILLED {
            self.tell_memory(&id, MemoryWatch::had_run_out);
        } else {
            self.check_memory(&id);
        }
        self.update(&id, |task| task.lifecycle.exited(&process, exit));
        if process == INIT {
            // The end of init is told after those of execs, and there is nothing left to join.
            for making in self.making_execs(&id) {
                making.request();
            }
        }
        let task = self.tasks.get(&id)?;
        (process == INIT && !task.owns_pid_namespace).then_some(id)
    }

    /// A descriptor that is ready when [`Tasks::check_memory`] should be called, and for what.
    pub(crate) fn memory_descriptor(&mut self, id: &str) -> Option<(OwnedFd, Interest)> {
        self.get(id).ok()?.memory.as_ref()?.descriptor().ok()
    }

    /// Publishes that a container has run out of memory, if it has.
    pub(crate) fn check_memory(&mut self, id: &str) {
        self.tell_memory(id, MemoryWatch::has_run_out);
    }

    fn tell_memory(&mut self, id: &str, has_run_out: fn(&mut MemoryWatch) -> bool) {
        let memory = self.tasks.get_mut(id).and_then(|task| task.memory.as_mut());
        if !memory.is_some_and(has_run_out) {
            return;
        }
        self.publisher.publish(out_of_memory(id));
        // So that it is not taken for a kill of another container of the pod, when that ends.
        let others = self.tasks.values_mut();
        for memory in others.filter_map(|task| task.memory.as_mut()) {
            memory.count();
        }
    }

    /// Changes a task, publishes what that makes due and wakes those who wait for an end.
    pub(crate) fn update(&mut self, id: &str, change: impl FnOnce(&mut Task) -> Vec<Due>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        for (process, notice) in change(task) {
            if let Some(event) = event(id, task, &process, notice) {
                self.publisher.publish(event);
            }
            if let Some(exit) = task.lifecycle.exit(&process)
                && let Some(process) = task.process(&process)
            {
                process.exit.send_replace(Some(exit));
            }
        }
    }

    /// Forgets a task, or an exec of it.
    pub(crate) fn remove(&mut self, id: &str, process: &str) {
        if process == INIT {
            self.tasks.remove(id);
            self.children.forget_task(id);
        } else if let Ok(task) = self.get(id) {
            task.execs.remove(process);
            self.children.forget(&ProcessKey {
                task: id.to_owned(),
                process: process.to_owned(),
            });
        }
    }
}

fn memory_watch(passed_fds: &mut PassedFds) -> Option<MemoryWatch> {
    let watch = passed_fds.take(Descriptor::MemoryWatch)?;
    let events = passed_fds.take(Descriptor::MemoryEvents)?;
    let slice = passed_fds.take(Descriptor::SliceMemoryEvents);
    Some(MemoryWatch::new(
        watch,
        events.into(),
        slice.map(File::from),
    ))
}

/// The descriptors that came with an answer, by what they are.
pub(crate) struct PassedFds(HashMap<Descriptor, OwnedFd>);

impl PassedFds {
    pub(crate) fn new(executed: &Executed, passed_fds: Vec<OwnedFd>) -> Self {
        Self(
            executed
                .descriptors
                .iter()
                .copied()
                .zip(passed_fds)
                .collect(),
        )
    }

    pub(crate) fn take(&mut self, what: Descriptor) -> Option<OwnedFd> {
        self.0.remove(&what)
    }
}
