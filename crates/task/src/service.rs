//! The task API as ttrpc calls: messages in, messages out. What they do is in `requests`.

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::EnumOrUnknown;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::Task as TaskApi;
use lighter_core::{ErrorClass, Failure, INIT, Status};
use log::Level;
use ttrpc::r#async::TtrpcContext;

use crate::events::{any, timestamp};
use crate::metrics::metrics;
use crate::requests::{Service, no_checkpoints};
use crate::status::status;

type Reply<T> = ttrpc::Result<T>;

/// Answers a call about the container `id`. A failure is logged here and nowhere else.
fn reply<T>(id: &str, result: Result<T, Failure>) -> Reply<T> {
    result.map_err(|failure| {
        log::log!(level(failure.class), container = id; "{failure}");
        status(&failure)
    })
}

fn empty(id: &str, result: Result<(), Failure>) -> Reply<api::Empty> {
    reply(id, result.map(|()| api::Empty::new()))
}

/// How much a failure is the business of who reads the log: clients ask for what has gone, or
/// is not there yet, every day.
fn level(class: ErrorClass) -> Level {
    match class {
        ErrorClass::NotFound | ErrorClass::AlreadyExists | ErrorClass::FailedPrecondition => {
            Level::Debug
        }
        ErrorClass::Unimplemented => Level::Warn,
        ErrorClass::InvalidArgument
        | ErrorClass::DeadlineExceeded
        | ErrorClass::ResourceExhausted
        | ErrorClass::Internal => Level::Error,
    }
}

impl Service {
    fn task_state(&self, request: &api::StateRequest) -> Result<api::StateResponse, Failure> {
        let id = request.exec_id.as_str();
        let mut tasks = self.tasks();
        let task = tasks.get(&request.id)?;
        let mut response = api::StateResponse::new();
        response.status = EnumOrUnknown::new(match task.lifecycle.status(id)? {
            Status::Created => api::Status::CREATED,
            Status::Running => api::Status::RUNNING,
            Status::Pausing => api::Status::PAUSING,
            Status::Paused => api::Status::PAUSED,
            Status::Stopped => api::Status::STOPPED,
        });
        if let Some(exit) = task.lifecycle.exit(id) {
            response.exit_status = exit.status.into();
            response.exited_at = Some(timestamp(exit)).into();
        }
        response.id = if id == INIT { &request.id } else { id }.to_owned();
        response.exec_id = id.to_owned();
        response.bundle = task.bundle.display().to_string();
        let process = task.process_mut(id)?;
        response.pid = process.pid.unsigned_abs();
        response.stdin.clone_from(&process.stdio.stdin);
        response.stdout.clone_from(&process.stdio.stdout);
        response.stderr.clone_from(&process.stdio.stderr);
        response.terminal = process.stdio.terminal;
        Ok(response)
    }

    /// The processes of a task, with the exec that each belongs to.
    fn process_infos(&self, id: &str, pids: Vec<i32>) -> Vec<api::ProcessInfo> {
        let mut tasks = self.tasks();
        let execs = tasks.get(id).map(|task| task.execs()).unwrap_or_default();
        let infos = pids.into_iter().map(|pid| {
            let mut info = api::ProcessInfo::new();
            info.pid = pid.unsigned_abs();
            if let Some(exec) = execs.get(&pid) {
                let mut details = ProcessDetails::new();
                details.exec_id = (*exec).to_owned();
                info.info = Some(any(&details)).into();
            }
            info
        });
        infos.collect()
    }
}

#[async_trait]
impl TaskApi for Service {
    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> Reply<api::StateResponse> {
        reply(&request.id, self.task_state(&request))
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> Reply<api::CreateTaskResponse> {
        let id = request.id.clone();
        let pid = reply(&id, self.create_task(request).await)?;
        let mut response = api::CreateTaskResponse::new();
        response.pid = pid.unsigned_abs();
        Ok(response)
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> Reply<api::StartResponse> {
        let pid = reply(
            &request.id,
            self.start_task(&request.id, &request.exec_id).await,
        )?;
        let mut response = api::StartResponse::new();
        response.pid = pid.unsigned_abs();
        Ok(response)
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> Reply<api::DeleteResponse> {
        let (pid, exit) = reply(
            &request.id,
            self.delete_task(&request.id, &request.exec_id).await,
        )?;
        let mut response = api::DeleteResponse::new();
        response.pid = pid.unsigned_abs();
        response.exit_status = exit.status.into();
        response.exited_at = Some(timestamp(exit)).into();
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> Reply<api::PidsResponse> {
        let pids = reply(&request.id, self.task_pids(&request.id).await)?;
        let mut response = api::PidsResponse::new();
        response.processes = self.process_infos(&request.id, pids);
        Ok(response)
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Reply<api::Empty> {
        empty(&request.id, self.kill_task(&request).await)
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> Reply<api::WaitResponse> {
        let exit = reply(
            &request.id,
            self.wait_task(&request.id, &request.exec_id).await,
        )?;
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
        let statistics = reply(&request.id, self.task_statistics(&request.id).await)?;
        let mut response = api::StatsResponse::new();
        response.stats = Some(metrics(statistics)).into();
        Ok(response)
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> Reply<api::Empty> {
        empty(&request.id, self.close_stdin(&request.id, &request.exec_id))
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
            .map_or(0, |task| task.init.pid.unsigned_abs());
        response.version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(response)
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Reply<api::Empty> {
        self.shut_down().await;
        Ok(api::Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Reply<api::Empty> {
        let id = request.id.clone();
        empty(&id, self.exec_task(request))
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> Reply<api::Empty> {
        empty(&request.id, self.resize(&request))
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> Reply<api::Empty> {
        empty(&request.id, self.pause_task(&request.id).await)
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> Reply<api::Empty> {
        empty(&request.id, self.resume_task(&request.id).await)
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> Reply<api::Empty> {
        let id = request.id.clone();
        empty(&id, self.update_task(request).await)
    }

    async fn checkpoint(
        &self,
        _: &TtrpcContext,
        request: api::CheckpointTaskRequest,
    ) -> Reply<api::Empty> {
        let what = format!("checkpoint of container {}", request.id);
        empty(&request.id, Err(no_checkpoints(&what)))
    }
}
