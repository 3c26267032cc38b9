//! What each call of the task API does. Those that make a process are in `making`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use containerd_shim_protos::api;
use lighter_core::{ContainerId, ErrorClass, Exit, Failure, INIT, Request, Statistics, Stdio};
use nix::errno::Errno;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::calls::{PendingCall, PendingCalls};
use crate::making::Cancellation;
use crate::operation::Operation;
use crate::raw::{kill_pidfd, readable, register};
use crate::reaper::now;
use crate::runtime::{Runtime, Target};
use crate::tasks::{Process, Stdin, Tasks};

/// Hooks run in start and delete.
const OPERATION_LIMIT: Duration = Duration::from_secs(60);
/// How long a logger may take to write what it has got, as with runc.
const LOGGER_LIMIT: Duration = Duration::from_secs(10);
/// How long a terminal's output may take to reach the client after the process's end.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The task service of one shim.
pub(crate) struct Service {
    pub(crate) runtime: Box<dyn Runtime>,
    /// Never held across an await.
    pub(crate) tasks: Arc<Mutex<Tasks>>,
    /// Calls that change something.
    pub(crate) pending: PendingCalls,
    shutdown: Arc<Notify>,
}

/// A request that is legal, as the runtime names its task.
struct Accepted {
    target: Target,
    /// Of the process that is asked for.
    pid: i32,
    paused: bool,
    /// Keeps Delete waiting until the request has ended.
    _pending: PendingCall,
}

impl Service {
    pub(crate) fn new(
        runtime: Box<dyn Runtime>,
        tasks: Arc<Mutex<Tasks>>,
        shutdown: Arc<Notify>,
    ) -> Self {
        Self {
            runtime,
            tasks,
            pending: PendingCalls::default(),
            shutdown,
        }
    }

    pub(crate) fn tasks(&self) -> MutexGuard<'_, Tasks> {
        lock(&self.tasks)
    }

    /// Checks that `request` is legal for a process of a task.
    fn accept(&self, id: &str, process: &str, request: Request) -> Result<Accepted, Failure> {
        let container = parse(id)?;
        let mut tasks = self.tasks();
        let task = tasks.get(id)?;
        task.lifecycle.accept(process, request).map_err(|failure| {
            let what = describe(id, process);
            Failure::new(failure.class, format!("{what}: {failure}"))
        })?;
        Ok(Accepted {
            target: Target {
                id: container,
                bundle: task.bundle.clone(),
            },
            pid: task.process_mut(process)?.pid,
            paused: task.is_paused(),
            _pending: task.pending.begin(),
        })
    }

    /// Publishes as soon as the container runs out of memory, until its task is gone.
    pub(crate) fn watch_memory(&self, id: &str) {
        let mut tasks = self.tasks();
        let Some((descriptor, interest)) = tasks.memory_descriptor(id) else {
            return;
        };
        let watch = match register(descriptor, interest) {
            Ok(watch) => watch,
            Err(error) => {
                log::warn!(container = id; "its memory is not watched: {error}");
                return;
            }
        };
        let (all, name) = (Arc::clone(&self.tasks), id.to_owned());
        if let Ok(task) = tasks.get(id) {
            task.watcher.spawn(async move {
                while let Ok(mut ready) = watch.ready(interest).await {
                    ready.clear_ready();
                    lock(&all).check_memory(&name);
                }
            });
        }
    }

    pub(crate) async fn start_task(&self, id: &str, process: &str) -> Result<i32, Failure> {
        let accepted = self.accept(id, process, Request::Start)?;
        if process != INIT {
            return self.start_exec(id, process, accepted.target).await;
        }
        let what = format!("start of container {id}");
        let result = self.call(self.runtime.start(&accepted.target), &what).await;
        self.tasks().update(id, |task| match result {
            Ok(()) => task.lifecycle.started(INIT),
            Err(_) => task.lifecycle.start_failed(INIT),
        });
        result.map(|()| accepted.pid)
    }

    /// Adds a process. Its description goes to a file of the bundle, for root alone, until it
    /// is started: its environment may hold secrets, and the shim's memory is every guest's.
    pub(crate) fn exec_task(&self, request: api::ExecProcessRequest) -> Result<(), Failure> {
        let exec = parse(&request.exec_id)?;
        let target = self.accept(&request.id, INIT, Request::Exec)?.target;
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let process = Process::new(stdio);
        self.tasks().add(&request.id, exec.as_str(), process)?;
        let path = description(&target.bundle, exec.as_str());
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&request.spec.value));
        written.map_err(|error| {
            self.tasks().remove(&request.id, exec.as_str());
            Failure::internal(format!("cannot write {}: {error}", path.display()))
        })
    }

    pub(crate) async fn delete_task(
        &self,
        id: &str,
        process: &str,
    ) -> Result<(i32, Exit), Failure> {
        // What is being made nobody wants any more. If that cannot be stopped in time, it is deleted.
        self.cancel_making(id, process).await;
        let accepted = self.accept(id, process, Request::Delete)?;
        let (target, pid) = (accepted.target.clone(), accepted.pid);
        if process == INIT {
            // An operation that still runs could make again what is removed.
            drop(accepted);
            let (execs, pending) = {
                let mut tasks = self.tasks();
                (tasks.making_execs(id), tasks.get(id)?.pending.clone())
            };
            execs.iter().for_each(Cancellation::request);
            pending.settled().await;
        }
        self.settle_output(id, process).await;
        if process == INIT {
            if let Err(failure) = self.remove(&target).await {
                self.tasks().get(id)?.lifecycle.delete_failed(INIT);
                return Err(failure);
            }
        } else {
            let _ = std::fs::remove_file(description(&target.bundle, process));
        }
        let mut tasks = self.tasks();
        let exit = tasks.get(id)?.lifecycle.exit(process);
        tasks.update(id, |task| task.lifecycle.deleted(process, now()));
        // Init that never ran was killed. An exec that never ran has not failed: runc's shim has 0.
        let status = if process == INIT { 137 } else { 0 };
        tasks.remove(id, process);
        let exit = exit.unwrap_or(Exit { status, at: now() });
        Ok((pid, exit))
    }

    /// Waits until the output of an ended process has reached the client or the logger.
    async fn settle_output(&self, id: &str, process: &str) {
        let (output, logger) = {
            let mut tasks = self.tasks();
            let Ok(process) = tasks.get(id).and_then(|task| task.process_mut(process)) else {
                return;
            };
            let terminal = process.terminal.as_mut();
            (
                terminal.and_then(|terminal| terminal.take_output()),
                process.logger.take(),
            )
        };
        if let Some(output) = output {
            output.drain(DRAIN_LIMIT).await;
        }
        let Some(logger) = logger else {
            return;
        };
        let what = describe(id, process);
        let logger = match readable(logger) {
            Ok(logger) => logger,
            Err(error) => {
                log::error!(container = id; "{what}: cannot wait for its logger: {error}");
                return;
            }
        };
        let ended = logger.readable();
        if tokio::time::timeout(LOGGER_LIMIT, ended).await.is_err() {
            log::warn!(container = id; "{what}: its logger did not end and is killed");
            kill_pidfd(logger.get_ref());
        }
    }

    pub(crate) async fn remove(&self, target: &Target) -> Result<(), Failure> {
        let what = format!("delete of container {}", target.id);
        self.call(self.runtime.remove(target), &what).await
    }

    pub(crate) async fn kill_task(&self, request: &api::KillRequest) -> Result<(), Failure> {
        let (id, process) = (request.id.as_str(), request.exec_id());
        let what = describe(id, process);
        let signal = signal(request.signal)
            .map_err(|failure| Failure::new(failure.class, format!("{what}: {failure}")))?;
        if signal == libc::SIGKILL && process != INIT {
            // What is being started shall not start after its killer has gone on.
            self.cancel_making(id, process).await;
        }
        let accepted = self.accept(id, process, Request::Kill)?;
        if signal == libc::SIGKILL {
            // What was killed before, here or in the same slice, is not taken for the reason.
            self.tasks().check_memory(id);
        }
        if request.all && process == INIT {
            return self
                .kill_all(&accepted.target, signal, accepted.paused)
                .await;
        }
        if accepted.pid == 0 {
            return Err(Failure::new(
                ErrorClass::FailedPrecondition,
                format!("{what}: it has not been started"),
            ));
        }
        // The process has not been reaped, so the pid is its own.
        crate::raw::kill(accepted.pid, signal).map_err(|error| match error {
            Errno::ESRCH => Failure::new(
                ErrorClass::NotFound,
                format!("{what}: the process has already finished"),
            ),
            error => Failure::internal(format!("{what}: cannot send signal {signal}: {error}")),
        })?;
        if accepted.paused && signal == libc::SIGKILL {
            // On cgroup v1 a frozen process does not even die. On v2 it may be gone by now, with its
            // cgroup where that is systemd's.
            return match self.thaw(id, &accepted.target).await {
                Err(failure) if failure.class == ErrorClass::FailedPrecondition => Ok(()),
                thawed => thawed,
            };
        }
        Ok(())
    }

    /// Sends `signal` to all processes of a task.
    pub(crate) async fn kill_all(
        &self,
        target: &Target,
        signal: i32,
        paused: bool,
    ) -> Result<(), Failure> {
        let what = format!("kill of all processes of container {}", target.id);
        let operation = self.runtime.signal_all(target, signal, paused);
        self.call(operation, &what).await
    }

    /// Ends what init has left behind, where the kernel does not.
    pub(crate) fn kill_remaining(self: &Arc<Self>, id: String) {
        let (target, pending) = {
            let mut tasks = self.tasks();
            let (Ok(container), Ok(task)) = (parse(&id), tasks.get(&id)) else {
                return;
            };
            let target = Target {
                id: container,
                bundle: task.bundle.clone(),
            };
            (target, [task.pending.begin(), self.pending.begin()])
        };
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let _pending = pending;
            match service.kill_all(&target, libc::SIGKILL, false).await {
                // Its cgroup is gone, with all that was in it.
                Err(failure) if failure.class == ErrorClass::NotFound => {}
                Err(failure) => log::warn!(container = id.as_str(); "{failure}"),
                Ok(()) => {}
            }
        });
    }

    pub(crate) async fn pause_task(&self, id: &str) -> Result<(), Failure> {
        let accepted = self.accept(id, INIT, Request::Pause)?;
        let target = &accepted.target;
        let what = format!("pause of container {id}");
        let result = self.call(self.runtime.pause(target), &what).await;
        if result.is_err() {
            // As runc does: what could not be frozen, or not in time, must not stay half frozen.
            let _ = self.call::<()>(self.runtime.resume(target), &what).await;
        }
        self.tasks().update(id, |task| match result {
            Ok(()) => task.lifecycle.paused(),
            Err(_) => {
                task.lifecycle.pause_failed();
                Vec::new()
            }
        });
        result
    }

    pub(crate) async fn resume_task(&self, id: &str) -> Result<(), Failure> {
        let accepted = self.accept(id, INIT, Request::Resume)?;
        self.thaw(id, &accepted.target).await
    }

    async fn thaw(&self, id: &str, target: &Target) -> Result<(), Failure> {
        let what = format!("resume of container {id}");
        self.call::<()>(self.runtime.resume(target), &what).await?;
        self.tasks().update(id, |task| task.lifecycle.resumed());
        Ok(())
    }

    pub(crate) async fn update_task(&self, request: api::UpdateTaskRequest) -> Result<(), Failure> {
        let id = &request.id;
        let accepted = self.accept(id, INIT, Request::Update)?;
        let target = &accepted.target;
        let what = format!("update of container {id}");
        let operation = self.runtime.update(target, &request.resources.value);
        self.call(operation, &what).await
    }

    pub(crate) async fn wait_task(&self, id: &str, process: &str) -> Result<Exit, Failure> {
        let mut exit = self.tasks().get(id)?.process_mut(process)?.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        // The sender lives until the process is deleted, and one that has run is deleted only
        // after its end.
        ended.ok().flatten().ok_or_else(|| {
            Failure::new(
                ErrorClass::NotFound,
                format!("{} has never run", describe(id, process)),
            )
        })
    }

    pub(crate) async fn task_pids(&self, id: &str) -> Result<Vec<i32>, Failure> {
        let accepted = self.accept(id, INIT, Request::Pids)?;
        let what = format!("list of processes of container {id}");
        self.call(self.runtime.pids(&accepted.target), &what).await
    }

    pub(crate) async fn task_statistics(&self, id: &str) -> Result<Statistics, Failure> {
        let accepted = self.accept(id, INIT, Request::Statistics)?;
        let what = format!("statistics of container {id}");
        self.call(self.runtime.statistics(&accepted.target), &what)
            .await
    }

    pub(crate) fn resize(&self, request: &api::ResizePtyRequest) -> Result<(), Failure> {
        let (id, process) = (request.id.as_str(), request.exec_id.as_str());
        let what = describe(id, process);
        self.accept(id, process, Request::Resize)?;
        let mut tasks = self.tasks();
        let process = tasks.get(id)?.process_mut(process)?;
        let Some(terminal) = &process.terminal else {
            // One that has not been started yet gets its size when it asks again.
            let why = if process.stdio.terminal {
                "it has not been started"
            } else {
                "it has no terminal"
            };
            return Err(Failure::new(
                ErrorClass::FailedPrecondition,
                format!("{what}: {why}"),
            ));
        };
        terminal
            .resize(request.height, request.width)
            .map_err(|error| Failure::internal(format!("{what}: cannot resize: {error}")))
    }

    /// The client has closed its end of stdin, or never will open it.
    pub(crate) fn close_stdin(&self, id: &str, process: &str) -> Result<(), Failure> {
        self.tasks().get(id)?.process_mut(process)?.stdin = Stdin::Closed;
        Ok(())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        operation: io::Result<Operation>,
        what: &str,
    ) -> Result<T, Failure> {
        let operation = operation
            .map_err(|error| Failure::internal(format!("{what}: cannot fork: {error}")))?;
        let (answer, _) = operation.finish(what, OPERATION_LIMIT).await?;
        Ok(answer)
    }

    /// Ends the shim, unless a task is there to stay: a pod's shim is asked once for each container.
    ///
    /// Waits for the calls under way, as runc's shim does. So what is being created or deleted is
    /// either gone by then, or there to stay.
    pub(crate) async fn shut_down(&self) {
        if self.tasks().has_established() {
            return;
        }
        self.pending.settled().await;
        if self.tasks().is_empty() {
            self.shutdown.notify_one();
        }
    }
}

pub(crate) fn lock(tasks: &Mutex<Tasks>) -> MutexGuard<'_, Tasks> {
    // A panic ends its connection only; what it left half changed is one task's state.
    tasks
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The file that describes an added process until it is started.
pub(crate) fn description(bundle: &Path, exec: &str) -> PathBuf {
    bundle.join(format!("exec-{exec}.json"))
}

fn describe(id: &str, process: &str) -> String {
    match process {
        INIT => format!("task {id}"),
        exec => format!("process {exec} of task {id}"),
    }
}

pub(crate) fn parse(id: &str) -> Result<ContainerId, Failure> {
    ContainerId::parse(id).map_err(|error| Failure::invalid(error.to_string()))
}

pub(crate) fn no_checkpoints(what: &str) -> Failure {
    Failure::new(
        ErrorClass::Unimplemented,
        format!(
            "{what}: checkpoints need CRIU, which cannot restore the mapped code and memory of a Wasm guest; Lighter has none for Linux containers either"
        ),
    )
}

/// The signal with this number, or 0, which only checks whether the process is there.
fn signal(number: u32) -> Result<i32, Failure> {
    let signal = i32::try_from(number).ok();
    signal
        .filter(|signal| *signal <= libc::SIGRTMAX())
        .ok_or_else(|| Failure::invalid(format!("unknown signal: {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        for number in [0, 1, 9, 15, 31, 34, 64] {
            assert_eq!(signal(number), Ok(number.cast_signed()));
        }
        for number in [65, 4096, 0x7fff_ffff, 0x8000_0000, 0x8000_0009, u32::MAX] {
            let failure = signal(number).unwrap_err();
            assert_eq!(failure.class, ErrorClass::InvalidArgument);
            assert_eq!(failure.message, format!("unknown signal: {number}"));
        }
    }
}
