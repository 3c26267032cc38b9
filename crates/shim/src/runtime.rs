//! The container runtime behind the task service: each call is a fork.

use std::io;
use std::path::{Path, PathBuf};

use lighter_container::{ContainerLocation, CreateRequest};
use lighter_core::{ContainerId, Failure};
use lighter_task::{CreateTask, Operation, Runtime};
use serde::Serialize;

use crate::workload;

/// Forks the shim for each operation.
pub(crate) struct ForkingRuntime {
    namespace: ContainerId,
    /// Beside the shim's binary, found at start: later /proc may show a replaced binary.
    compiler: PathBuf,
}

impl ForkingRuntime {
    pub(crate) fn new(namespace: ContainerId) -> io::Result<Self> {
        Ok(Self {
            namespace,
            compiler: std::env::current_exe()?.with_file_name("lighter-compiler"),
        })
    }

    fn location(&self, id: &ContainerId, bundle: &Path) -> ContainerLocation {
        ContainerLocation {
            namespace: self.namespace.clone(),
            id: id.clone(),
            bundle: bundle.to_owned(),
        }
    }
}

fn fork<T: Serialize>(work: impl FnOnce() -> Result<T, Failure>) -> io::Result<Operation> {
    let operation = lighter_container::Operation::fork(work)?;
    Ok(Operation {
        pid: operation.pid,
        pidfd: operation.pidfd,
        answer: operation.answer,
    })
}

impl Runtime for ForkingRuntime {
    fn create(&self, request: CreateTask) -> io::Result<Operation> {
        let request = CreateRequest {
            location: self.location(&request.id, &request.bundle),
            rootfs: request.rootfs,
            stdio: request.stdio,
        };
        fork(|| {
            lighter_container::create(&request, |spec, rootfs| {
                workload::find(spec, rootfs, &self.compiler)
            })
        })
    }

    fn start(&self, id: &ContainerId, bundle: &Path) -> io::Result<Operation> {
        let location = self.location(id, bundle);
        fork(|| lighter_container::start(&location))
    }

    fn remove(&self, id: &ContainerId, bundle: &Path) -> io::Result<Operation> {
        let location = self.location(id, bundle);
        fork(|| lighter_container::remove(&location))
    }

    fn signal_all(&self, id: &ContainerId, bundle: &Path, signal: i32) -> io::Result<Operation> {
        let location = self.location(id, bundle);
        fork(|| lighter_container::signal_all(&location, signal))
    }

    fn pids(&self, id: &ContainerId, bundle: &Path) -> io::Result<Operation> {
        let location = self.location(id, bundle);
        fork(|| lighter_container::pids(&location))
    }

    fn statistics(&self, id: &ContainerId, bundle: &Path) -> io::Result<Operation> {
        let location = self.location(id, bundle);
        fork(|| lighter_container::statistics(&location))
    }
}
