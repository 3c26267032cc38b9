//! The tasks of a shim, their processes, and the exits that belong to them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use lighter_core::{
    Created, Descriptor, Due, ErrorClass, Executed, Exit, Failure, INIT, Processes, Status, Stdio,
};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::calls::PendingCalls;
use crate::events::{event, out_of_memory};
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
    /// Process id of the logger that takes its output.
    pub(crate) logger: Option<i32>,
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
            _readers: hold_readers(&stdio),
            stdio,
        }
    }

    /// Holds its stdin from now on. The file is an end of it that the caller keeps until the
    /// process has its own.
    pub(crate) fn hold_stdin(&mut self, watch: &StdinWatch) -> Option<File> {
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

    /// Takes over what its operation has handed to the shim.
    fn adopt(&mut self, executed: &Executed, handed: &mut HashMap<Descriptor, OwnedFd>) {
        self.pid = executed.pid;
        self.logger = executed.logger;
        let Some(master) = handed.remove(&Descriptor::Terminal) else {
            return;
        };
        let started = Terminal::start(
            master,
            handed.remove(&Descriptor::TerminalInput),
            handed.remove(&Descriptor::TerminalOutput),
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
    /// Whose processes these are: task and exec.
    pids: HashMap<i32, (String, String)>,
    loggers: HashSet<i32>,
    stdin_watch: StdinWatch,
    publisher: Publisher,
    /// Where spans go, if there are any.
    spans: Option<SpanSender>,
    /// Operations under way that make a process. While there are some, an exit of an unknown
    /// process is kept: it may be that of a process whose operation has not been answered yet.
    making: usize,
    unclaimed: HashMap<i32, Exit>,
}

impl Tasks {
    pub(crate) fn new(publisher: Publisher, spans: Option<SpanSender>) -> Self {
        Self {
            tasks: HashMap::new(),
            pids: HashMap::new(),
            loggers: HashSet::new(),
            stdin_watch: StdinWatch::default(),
            publisher,
            spans,
            making: 0,
            unclaimed: HashMap::new(),
        }
    }

    pub(crate) fn stdin_watch(&self) -> StdinWatch {
        self.stdin_watch.clone()
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

    /// Takes the id for a create that begins.
    pub(crate) fn begin(&mut self, id: &str, task: Task) -> Result<(), Failure> {
        if self.tasks.contains_key(id) {
            return Err(Failure::new(
                ErrorClass::AlreadyExists,
                format!("task {id} exists already"),
            ));
        }
        self.tasks.insert(id.to_owned(), task);
        self.making += 1;
        Ok(())
    }

    /// The create has succeeded.
    pub(crate) fn created(&mut self, id: &str, created: &Created, handed: Vec<OwnedFd>) {
        let mut handed = name(&created.stdio, handed);
        let watch = handed.remove(&Descriptor::MemoryWatch);
        let events = handed.remove(&Descriptor::MemoryEvents);
        let slice = handed.remove(&Descriptor::SliceMemoryEvents);
        let memory = watch.zip(events);
        if let Ok(task) = self.get(id) {
            task.owns_pid_namespace = created.owns_pid_namespace;
            task.memory = memory.map(|(watch, events)| {
                MemoryWatch::new(watch, events.into(), slice.map(File::from))
            });
        }
        self.made(id, INIT, &created.stdio, handed, |task| {
            task.lifecycle.created()
        });
    }

    /// The create has failed: there is no such task.
    pub(crate) fn create_failed(&mut self, id: &str) {
        self.tasks.remove(id);
        self.end_making();
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

    /// The operation that makes an added process begins.
    pub(crate) fn begin_exec(&mut self) {
        self.making += 1;
    }

    /// It has succeeded: the process runs.
    pub(crate) fn executed(
        &mut self,
        id: &str,
        exec: &str,
        executed: &Executed,
        handed: Vec<OwnedFd>,
    ) {
        let handed = name(executed, handed);
        self.made(id, exec, executed, handed, |_| Vec::new());
        self.update(id, |task| task.lifecycle.started(exec));
    }

    /// It has failed: there is no process.
    pub(crate) fn execute_failed(&mut self, id: &str, exec: &str) {
        self.end_making();
        self.update(id, |task| task.lifecycle.start_failed(exec));
    }

    /// A process has been made, and may have ended already.
    fn made(
        &mut self,
        id: &str,
        process: &str,
        executed: &Executed,
        mut handed: HashMap<Descriptor, OwnedFd>,
        change: impl FnOnce(&mut Task) -> Vec<Due>,
    ) {
        let pid = executed.pid;
        let exit = self.unclaimed.remove(&pid);
        if let Some(logger) = executed.logger
            && self.unclaimed.remove(&logger).is_none()
        {
            self.loggers.insert(logger);
        }
        self.end_making();
        self.relay_spans(id, handed.remove(&Descriptor::Spans));
        if exit.is_none() {
            self.pids.insert(pid, (id.to_owned(), process.to_owned()));
        }
        self.update(id, |task| {
            if let Ok(process) = task.process_mut(process) {
                process.adopt(executed, &mut handed);
            }
            let mut due = change(task);
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

    fn end_making(&mut self) {
        self.making -= 1;
        if self.making == 0 {
            self.unclaimed.clear();
        }
    }

    /// A child of the shim has ended: a process of a task, a logger, or one that was only
    /// needed on the way. Returns the task whose other processes have to be ended now, because
    /// the kernel does not.
    pub(crate) fn ended(&mut self, pid: i32, exit: Exit) -> Option<String> {
        self.loggers.remove(&pid);
        let Some((id, process)) = self.pids.remove(&pid) else {
            if self.making > 0 {
                self.unclaimed.insert(pid, exit);
            }
            return None;
        };
        // So that the reason comes before the exit.
        if process == INIT && exit.status == KILLED {
            self.tell_memory(&id, MemoryWatch::had_run_out);
        } else {
            self.check_memory(&id);
        }
        self.update(&id, |task| task.lifecycle.exited(&process, exit));
        let task = self.tasks.get(&id)?;
        (process == INIT && !task.owns_pid_namespace).then_some(id)
    }

    pub(crate) fn is_logger_running(&self, pid: i32) -> bool {
        self.loggers.contains(&pid)
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

    /// Forgets a deleted task, or a deleted exec of it.
    pub(crate) fn remove(&mut self, id: &str, process: &str) {
        if process == INIT {
            let task = self.tasks.remove(id);
            for process in task.iter().flat_map(|task| task.execs.values()) {
                self.pids.remove(&process.pid);
            }
        } else if let Ok(task) = self.get(id) {
            task.execs.remove(process);
        }
    }
}

/// The descriptors that came with an answer, by what they are.
fn name(executed: &Executed, handed: Vec<OwnedFd>) -> HashMap<Descriptor, OwnedFd> {
    executed.descriptors.iter().copied().zip(handed).collect()
}
