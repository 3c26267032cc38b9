//! Create, and the start of an exec: the requests that make a process.
//!
//! A [`Making`] stands for such a request from its acceptance to its end. Whatever happens, it ends
//! by the process being there or being forgotten: what is not declared as made is forgotten when it
//! is dropped. A Delete or a SIGKILL of a process that is being made cancels the request.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::api;
use lighter_core::{
    Created, Descriptor, ErrorClass, Executed, Failure, INIT, Mount, ProcessKey, Stdio,
};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::operation::{Forked, Operation};
use crate::raw::{is_unreaped, kill_pidfd};
use crate::requests::{Service, description, lock, no_checkpoints, parse};
use crate::runtime::{CreateTask, ExecTask, Target};
use crate::runtime_options;
use crate::tasks::{PassedFds, Process, Task, Tasks};
use crate::traced;

/// A first start of an image waits until it is compiled, for 140 s at most. So may an exec.
const MAKE_LIMIT: Duration = Duration::from_secs(150);

/// A request that makes a process, as those see it who want it to end.
#[derive(Clone)]
pub(crate) struct Cancellation {
    requested: Arc<Notify>,
    ended: watch::Receiver<()>,
}

impl Cancellation {
    pub(crate) fn request(&self) {
        self.requested.notify_one();
    }

    /// Waits until the request has ended. It may have succeeded just before it was cancelled.
    pub(crate) async fn ended(mut self) {
        while self.ended.changed().await.is_ok() {}
    }
}

/// A request that makes a process.
struct Making {
    tasks: Arc<Mutex<Tasks>>,
    key: ProcessKey,
    cancelled: Arc<Notify>,
    /// The pidfd of the process, once it has been forked and claimed.
    claimed: Option<OwnedFd>,
    is_made: bool,
    /// Closed at the end.
    _ended: watch::Sender<()>,
}

impl Making {
    /// Begins with a process whose start, or whose task's create, has been accepted.
    fn begin(tasks: &Arc<Mutex<Tasks>>, task: &str, process: &str) -> Self {
        let (sender, ended) = watch::channel(());
        let making = Self {
            tasks: Arc::clone(tasks),
            key: ProcessKey {
                task: task.to_owned(),
                process: process.to_owned(),
            },
            cancelled: Arc::default(),
            claimed: None,
            is_made: false,
            _ended: sender,
        };
        lock(tasks).begin_making(
            &making.key,
            Cancellation {
                requested: Arc::clone(&making.cancelled),
                ended,
            },
        );
        making
    }

    /// Waits for the operation that makes the process.
    async fn finish<T: DeserializeOwned>(
        &mut self,
        operation: io::Result<Operation>,
        what: &str,
    ) -> Result<(T, Vec<OwnedFd>), Failure> {
        let operation = operation
            .map_err(|error| Failure::internal(format!("{what}: cannot fork: {error}")))?;
        let cancelled = Arc::clone(&self.cancelled);
        let cancelled = async {
            cancelled.notified().await;
            let message = format!("{what}: it was killed or deleted meanwhile");
            Failure::new(ErrorClass::FailedPrecondition, message)
        };
        let claim = |forked| self.let_run(forked);
        operation.make(what, MAKE_LIMIT, cancelled, claim).await
    }

    /// Claims a process that waits for that, and lets it run.
    fn let_run(&mut self, forked: Forked) {
        if self.claim(forked.pid, forked.pidfd) {
            // One that has been killed meanwhile has an exit status, like any that was claimed.
            let _ = File::from(forked.opener).write_all(&[1]);
        }
    }

    /// Claims a child of the shim. Returns false if it has been reaped already: then its exit has
    /// gone to nobody, and its pid may be another process's.
    fn claim(&mut self, pid: i32, pidfd: OwnedFd) -> bool {
        if is_unreaped(&pidfd) && self.claimed.is_none() {
            lock(&self.tasks).claim(pid, &self.key);
            self.claimed = Some(pidfd);
            return true;
        }
        false
    }

    /// Ends the request: there is such a process.
    fn made(mut self, executed: &Executed, passed_fds: PassedFds, created: Option<&Created>) {
        self.is_made = true;
        lock(&self.tasks).made(&self.key, executed, passed_fds, created);
    }

    fn require_claimed(&self, what: &str) -> Result<(), Failure> {
        match self.claimed {
            Some(_) => Ok(()),
            None => Err(Failure::internal(format!(
                "{what}: the process was killed while it was set up"
            ))),
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.is_made {
            return;
        }
        if let Some(pidfd) = &self.claimed {
            kill_pidfd(pidfd);
        }
        lock(&self.tasks).make_failed(&self.key);
    }
}

impl Service {
    pub(crate) async fn create_task(
        &self,
        request: api::CreateTaskRequest,
    ) -> Result<i32, Failure> {
        let id = parse(&request.id)?;
        let options = runtime_options::of(request.options.as_ref())?;
        if !request.checkpoint.is_empty() {
            return Err(no_checkpoints("restore"));
        }
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let target = Target {
            id: id.clone(),
            bundle: PathBuf::from(request.bundle),
        };
        let task = Task::new(target.bundle.clone(), Process::new(stdio.clone()));
        let reader = self.tasks().begin(id.as_str(), task)?;
        let mut making = Making::begin(&self.tasks, id.as_str(), INIT);
        let what = format!("create of container {id}");
        let operation = self.runtime.create(CreateTask {
            target: target.clone(),
            rootfs: request.rootfs.into_iter().map(mount).collect(),
            stdio,
            options,
            trace: traced::current(),
        });
        let created = making.finish::<Created>(operation, &what).await;
        drop(reader);
        let created = created.and_then(|(created, passed_fds)| {
            let mut passed_fds = PassedFds::new(&created.stdio, passed_fds);
            if let Some(pidfd) = passed_fds.take(Descriptor::Init) {
                making.claim(created.pid, pidfd);
            }
            making.require_claimed(&what)?;
            Ok((created, passed_fds))
        });
        match created {
            Ok((created, passed_fds)) => {
                making.made(&created.stdio, passed_fds, Some(&created));
                self.watch_memory(id.as_str());
                Ok(created.stdio.pid)
            }
            Err(failure) => {
                // An operation that was killed has not cleaned up; one that answered has, and
                // for a container of the same id that is not ours there is nothing to clean.
                if failure.class != ErrorClass::AlreadyExists {
                    self.remove(&target).await.unwrap_or_else(
                        |failure| log::error!(container = id.as_str(); "{failure}"),
                    );
                }
                Err(failure)
            }
        }
    }

    pub(crate) async fn start_exec(
        &self,
        id: &str,
        exec: &str,
        target: Target,
    ) -> Result<i32, Failure> {
        let mut making = Making::begin(&self.tasks, id, exec);
        let (stdio, reader, init) = self.tasks().exec_to_make(id, exec)?;
        let description = description(&target.bundle, exec);
        let what = format!("exec of process {exec} in container {id}");
        let operation = self.runtime.exec(ExecTask {
            target,
            init,
            process: description.clone(),
            stdio,
            trace: traced::current(),
        });
        let result = making.finish::<Executed>(operation, &what).await;
        drop(reader);
        let _ = std::fs::remove_file(description);
        let (executed, passed_fds) = result?;
        making.require_claimed(&what)?;
        let passed_fds = PassedFds::new(&executed, passed_fds);
        making.made(&executed, passed_fds, None);
        Ok(executed.pid)
    }

    /// Cancels the request that makes a process, if there is one, and waits for its end.
    pub(crate) async fn cancel_making(&self, id: &str, process: &str) {
        let cancellation = self.tasks().making(id, process);
        if let Some(cancellation) = cancellation {
            cancellation.request();
            cancellation.ended().await;
        }
    }
}

fn mount(mount: api::Mount) -> Mount {
    Mount {
        kind: mount.type_,
        source: mount.source,
        options: mount.options,
    }
}
