//! The calls of the task API.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::EnumOrUnknown;
use containerd_shim_protos::shim_async::Task as TaskApi;
use lighter_core::{
    ContainerId, Created, ErrorClass, Exit, Failure, Lifecycle, Mount, Request, Statistics, Status,
    Stdio,
};
use nix::errno::Errno;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use ttrpc::r#async::TtrpcContext;

use crate::events::timestamp;
use crate::metrics::metrics;
use crate::operation::Operation;
use crate::reaper::now;
use crate::status::status;
use crate::stdio::{HeldStdin, hold_readers};
use crate::tasks::{Task, Tasks};

/// A first start of an image compiles it, which has two minutes of its own.
const CREATE_LIMIT: Duration = Duration::from_secs(150);
/// Hooks run in start and delete.
const OPERATION_LIMIT: Duration = Duration::from_secs(60);

/// What Create asks of the runtime.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// Id of the container.
    pub id: ContainerId,
    /// The folder with its `config.json`.
    pub bundle: PathBuf,
    /// Mounts of its rootfs.
    pub rootfs: Vec<Mount>,
    /// Where it reads and writes.
    pub stdio: Stdio,
}

/// The container runtime. Each call starts an operation and returns at once; the operation's
/// answer has the type that is named.
pub trait Runtime: Send + Sync {
    /// Creates a container; answers [`Created`]. On an error nothing is left.
    fn create(&self, request: CreateTask) -> io::Result<Operation>;
    /// Lets a created container run; answers `()`.
    fn start(&self, id: &ContainerId, bundle: &std::path::Path) -> io::Result<Operation>;
    /// Removes a container with all that it has; answers `()`.
    fn remove(&self, id: &ContainerId, bundle: &std::path::Path) -> io::Result<Operation>;
    /// Sends a signal to all processes of a container; answers `()`.
    fn signal_all(
        &self,
        id: &ContainerId,
        bundle: &std::path::Path,
        signal: i32,
    ) -> io::Result<Operation>;
    /// Lists the processes of a container; answers `Vec<i32>`.
    fn pids(&self, id: &ContainerId, bundle: &std::path::Path) -> io::Result<Operation>;
    /// Reads a container's counters; answers [`Statistics`].
    fn statistics(&self, id: &ContainerId, bundle: &std::path::Path) -> io::Result<Operation>;
}

/// The task service of one shim.
pub(crate) struct Service {
    runtime: Box<dyn Runtime>,
    /// Never held across an await.
    tasks: Arc<Mutex<Tasks>>,
    shutdown: Arc<Notify>,
}

type Reply<T> = ttrpc::Result<T>;

impl Service {
    pub(crate) fn new(
        runtime: Box<dyn Runtime>,
        tasks: Arc<Mutex<Tasks>>,
        shutdown: Arc<Notify>,
    ) -> Self {
        Self {
            runtime,
            tasks,
            shutdown,
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        lock(&self.tasks)
    }

    /// A task that `request` is legal for, as the runtime names it.
    fn accept(
        &self,
        id: &str,
        exec_id: &str,
        request: Request,
    ) -> Result<(ContainerId, PathBuf, i32), Failure> {
        no_exec(id, exec_id)?;
        let container = parse(id)?;
        let mut tasks = self.tasks();
        let task = tasks.get(id)?;
        task.lifecycle
            .accept(request)
            .map_err(|failure| Failure::new(failure.class, format!("task {id}: {failure}")))?;
        Ok((container, task.bundle.clone(), task.pid))
    }

    async fn create_task(&self, request: api::CreateTaskRequest) -> Result<i32, Failure> {
        let id = parse(&request.id)?;
        if request.terminal {
            return Err(unimplemented("terminals"));
        }
        if !request.checkpoint.is_empty() {
            return Err(unimplemented("restoring a checkpoint"));
        }
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let create = CreateTask {
            id: id.clone(),
            bundle: PathBuf::from(request.bundle),
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio: stdio.clone(),
        };
        let bundle = create.bundle.clone();
        let (stdin, reader) = HeldStdin::hold(&stdio)
            .inspect_err(|error| log::warn!("stdin of {id} is not held open: {error}"))
            .unwrap_or_default()
            .unzip();
        self.tasks().begin(
            id.as_str(),
            Task {
                bundle: bundle.clone(),
                stdin,
                _readers: hold_readers(&stdio),
                stdio,
                pid: 0,
                lifecycle: Lifecycle::new(),
                exit: watch::Sender::new(None),
            },
        )?;
        let what = format!("create of container {id}");
        let created = finish::<Created>(self.runtime.create(create), &what, CREATE_LIMIT).await;
        drop(reader);
        match created {
            Ok(created) => {
                self.tasks().created(id.as_str(), created.pid);
                Ok(created.pid)
            }
            Err(failure) => {
                // An operation that was killed has not cleaned up; one that answered has, and
                // for a container of the same id that is not ours there is nothing to clean.
                if failure.class != ErrorClass::AlreadyExists {
                    self.remove(&id, &bundle)
                        .await
                        .unwrap_or_else(|failure| log::error!("{failure}"));
                }
                self.tasks().create_failed(id.as_str());
                Err(failure)
            }
        }
    }

    async fn start_task(&self, id: &str, exec_id: &str) -> Result<i32, Failure> {
        let (container, bundle, pid) = self.accept(id, exec_id, Request::Start)?;
        let what = format!("start of container {id}");
        let started = self.runtime.start(&container, &bundle);
        let result = finish::<()>(started, &what, OPERATION_LIMIT).await;
        self.tasks().update(id, |task| match result {
            Ok(()) => task.lifecycle.started(),
            Err(_) => task.lifecycle.start_failed(),
        });
        result.map(|()| pid)
    }

    async fn delete_task(&self, id: &str, exec_id: &str) -> Result<(i32, Exit), Failure> {
        let (container, bundle, pid) = self.accept(id, exec_id, Request::Delete)?;
        if let Err(failure) = self.remove(&container, &bundle).await {
            self.tasks().get(id)?.lifecycle.delete_failed();
            return Err(failure);
        }
        let mut tasks = self.tasks();
        tasks.update(id, |task| task.lifecycle.deleted(now()));
        let exit = tasks.get(id)?.lifecycle.exit();
        tasks.remove(id);
        Ok((
            pid,
            exit.unwrap_or(Exit {
                status: 137,
                at: now(),
            }),
        ))
    }

    async fn remove(&self, id: &ContainerId, bundle: &std::path::Path) -> Result<(), Failure> {
        let what = format!("delete of container {id}");
        finish(self.runtime.remove(id, bundle), &what, OPERATION_LIMIT).await
    }

    async fn kill_task(&self, request: &api::KillRequest) -> Result<(), Failure> {
        let id = &request.id;
        let (container, bundle, pid) = self.accept(id, request.exec_id(), Request::Kill)?;
        let signal = i32::try_from(request.signal).unwrap_or_default();
        if request.all {
            let what = format!("kill of all processes of container {id}");
            let operation = self.runtime.signal_all(&container, &bundle, signal);
            return finish(operation, &what, OPERATION_LIMIT).await;
        }
        // The task has not stopped, so its init has not been reaped and the pid is its own.
        match crate::raw::kill(pid, signal) {
            Ok(()) => Ok(()),
            Err(Errno::ESRCH) => Err(Failure::new(
                ErrorClass::NotFound,
                format!("task {id}: the process has already finished"),
            )),
            Err(Errno::EINVAL) => Err(Failure::invalid(format!("there is no signal {signal}"))),
            Err(error) => Err(Failure::internal(format!(
                "cannot signal container {id}: {error}"
            ))),
        }
    }

    async fn wait_task(&self, id: &str, exec_id: &str) -> Result<Exit, Failure> {
        no_exec(id, exec_id)?;
        let mut exit = self.tasks().get(id)?.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        // The sender lives until the task is deleted, and a task is deleted only after its end.
        ended.ok().flatten().ok_or_else(|| {
            Failure::new(
                ErrorClass::NotFound,
                format!("task {id} could not be created"),
            )
        })
    }

    async fn task_pids(&self, id: &str) -> Result<Vec<i32>, Failure> {
        let (container, bundle, _) = self.accept(id, "", Request::Pids)?;
        let what = format!("list of processes of container {id}");
        finish(
            self.runtime.pids(&container, &bundle),
            &what,
            OPERATION_LIMIT,
        )
        .await
    }

    async fn task_statistics(&self, id: &str) -> Result<Statistics, Failure> {
        let (container, bundle, _) = self.accept(id, "", Request::Statistics)?;
        let what = format!("statistics of container {id}");
        finish(
            self.runtime.statistics(&container, &bundle),
            &what,
            OPERATION_LIMIT,
        )
        .await
    }

    fn task_state(&self, request: &api::StateRequest) -> Result<api::StateResponse, Failure> {
        no_exec(&request.id, &request.exec_id)?;
        let mut tasks = self.tasks();
        let task = tasks.get(&request.id)?;
        let mut response = api::StateResponse::new();
        response.id.clone_from(&request.id);
        response.bundle = task.bundle.display().to_string();
        response.pid = task.pid.unsigned_abs();
        response.status = EnumOrUnknown::new(match task.lifecycle.status() {
            Status::Created => api::Status::CREATED,
            Status::Running => api::Status::RUNNING,
            Status::Stopped => api::Status::STOPPED,
        });
        response.stdin.clone_from(&task.stdio.stdin);
        response.stdout.clone_from(&task.stdio.stdout);
        response.stderr.clone_from(&task.stdio.stderr);
        if let Some(exit) = task.lifecycle.exit() {
            response.exit_status = exit.status.into();
            response.exited_at = Some(timestamp(exit)).into();
        }
        Ok(response)
    }
}

#[async_trait]
impl TaskApi for Service {
    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> Reply<api::StateResponse> {
        self.task_state(&request)
            .map_err(|failure| status(&failure))
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Reply<api::CreateTaskResponse> {
        let pid = self.create_task(request).await.map_err(|failure| {
            log::error!("{failure}");
            status(&failure)
        })?;
        let mut response = api::CreateTaskResponse::new();
        response.pid = pid.unsigned_abs();
        Ok(response)
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> Reply<api::StartResponse> {
        let pid = self.start_task(&request.id, &request.exec_id).await;
        let mut response = api::StartResponse::new();
        response.pid = pid.map_err(|failure| status(&failure))?.unsigned_abs();
        Ok(response)
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> Reply<api::DeleteResponse> {
        let deleted = self.delete_task(&request.id, &request.exec_id).await;
        let (pid, exit) = deleted.map_err(|failure| status(&failure))?;
        let mut response = api::DeleteResponse::new();
        response.pid = pid.unsigned_abs();
        response.exit_status = exit.status.into();
        response.exited_at = Some(timestamp(exit)).into();
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Reply<api::PidsResponse> {
        let pids = self
            .task_pids(&request.id)
            .await
            .map_err(|failure| status(&failure))?;
        let mut response = api::PidsResponse::new();
        response.processes = pids
            .into_iter()
            .map(|pid| api::ProcessInfo {
                pid: pid.unsigned_abs(),
                ..api::ProcessInfo::default()
            })
            .collect();
        Ok(response)
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Reply<api::Empty> {
        let killed = self.kill_task(&request).await;
        killed
            .map(|()| api::Empty::new())
            .map_err(|failure| status(&failure))
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Reply<api::WaitResponse> {
        let exit = self.wait_task(&request.id, &request.exec_id).await;
        let exit = exit.map_err(|failure| status(&failure))?;
        let mut response = api::WaitResponse::new();
        response.exit_status = exit.status.into();
        response.exited_at = Some(timestamp(exit)).into();
        Ok(response)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        request: api::StatsRequest,
    ) -> Reply<api::StatsResponse> {
        let statistics = self.task_statistics(&request.id).await;
        let mut response = api::StatsResponse::new();
        response.stats = Some(metrics(statistics.map_err(|failure| status(&failure))?)).into();
        Ok(response)
    }

    /// The client has closed its end of stdin, or never will open it.
    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Reply<api::Empty> {
        let closed = no_exec(&request.id, &request.exec_id).and_then(|()| {
            self.tasks().get(&request.id)?.stdin = None;
            Ok(())
        });
        closed
            .map(|()| api::Empty::new())
            .map_err(|failure| status(&failure))
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> Reply<api::ConnectResponse> {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        response.task_pid = self
            .tasks()
            .get(&request.id)
            .map_or(0, |task| task.pid.unsigned_abs());
        response.version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(response)
    }

    /// Does nothing while tasks remain: a pod's shim is asked once for each container.
    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Reply<api::Empty> {
        if self.tasks().is_empty() {
            self.shutdown.notify_one();
        }
        Ok(api::Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, _: api::ExecProcessRequest) -> Reply<api::Empty> {
        Err(status(&unimplemented("exec")))
    }

    async fn resize_pty(&self, _: &TtrpcContext, _: api::ResizePtyRequest) -> Reply<api::Empty> {
        Err(status(&unimplemented("terminals")))
    }

    async fn pause(&self, _: &TtrpcContext, _: api::PauseRequest) -> Reply<api::Empty> {
        Err(status(&unimplemented("pause")))
    }

    async fn resume(&self, _: &TtrpcContext, _: api::ResumeRequest) -> Reply<api::Empty> {
        Err(status(&unimplemented("resume")))
    }

    async fn update(&self, _: &TtrpcContext, _: api::UpdateTaskRequest) -> Reply<api::Empty> {
        Err(status(&unimplemented("update")))
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        _: api::CheckpointTaskRequest,
    ) -> Reply<api::Empty> {
        Err(status(&unimplemented("checkpoint")))
    }
}

/// The answer of an operation that the runtime has started, or could not start.
async fn finish<T: DeserializeOwned>(
    operation: io::Result<Operation>,
    what: &str,
    limit: Duration,
) -> Result<T, Failure> {
    let operation =
        operation.map_err(|error| Failure::internal(format!("{what}: cannot fork: {error}")))?;
    operation.finish(what, limit).await
}

pub(crate) fn lock(tasks: &Mutex<Tasks>) -> MutexGuard<'_, Tasks> {
    // A panic ends its connection only; what it left half changed is one task's state.
    tasks
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn parse(id: &str) -> Result<ContainerId, Failure> {
    ContainerId::parse(id).map_err(|error| Failure::invalid(error.to_string()))
}

fn no_exec(id: &str, exec_id: &str) -> Result<(), Failure> {
    if exec_id.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(
            ErrorClass::NotFound,
            format!("task {id} has no process {exec_id}: exec is not supported yet"),
        ))
    }
}

fn unimplemented(what: &str) -> Failure {
    Failure::new(
        ErrorClass::Unimplemented,
        format!("{what}: not supported by this version of the shim"),
    )
}

fn mount(mount: api::Mount) -> Mount {
    Mount {
        kind: mount.type_,
        source: mount.source,
        options: mount.options,
    }
}
