//! The container runtime behind the task service: each call is a fork.

use std::io;
use std::path::PathBuf;

use lighter_container::{ContainerLocation, CreateRequest, ExecRequest, ShimLink, TraceRequest};
use lighter_core::{ContainerId, Failure};
use lighter_image::ContentStore;
use lighter_task::{CreateTask, ExecTask, Operation, Runtime, Target};
use lighter_trace::{Settings, TraceContext};
use lighter_wasm::NodeOptions;
use serde::Serialize;

use crate::options;
use crate::trace::OperationTrace;
use crate::workload::{self, Node, records};

/// Forks the shim for each operation.
pub(crate) struct ForkingRuntime {
    namespace: ContainerId,
    /// Beside the shim's binary, found by `start`: the shim's own has no path any more.
    compiler: PathBuf,
    /// containerd's gRPC socket.
    containerd: PathBuf,
    /// How spans are made, if they are.
    trace: Option<Settings>,
}

impl ForkingRuntime {
    pub(crate) fn new(
        namespace: ContainerId,
        containerd: &str,
        compiler: PathBuf,
        trace: Option<Settings>,
    ) -> Self {
        Self {
            namespace,
            trace,
            containerd: containerd.trim_start_matches("unix://").into(),
            compiler,
        }
    }

    fn location(&self, target: &Target) -> ContainerLocation {
        ContainerLocation {
            namespace: self.namespace.clone(),
            id: target.id.clone(),
            bundle: target.bundle.clone(),
        }
    }

    /// As containerd knows it.
    fn container<'a>(
        &self,
        location: &'a ContainerLocation,
        is_exec: bool,
    ) -> workload::Container<'a> {
        workload::Container {
            store: ContentStore {
                socket: self.containerd.clone(),
                namespace: self.namespace.to_string(),
            },
            id: location.id.as_str(),
            is_exec,
        }
    }

    fn node<'a>(&'a self, options: NodeOptions, trace: Option<&'a OperationTrace>) -> Node<'a> {
        Node {
            options,
            compiler: &self.compiler,
            trace,
        }
    }

    /// What an operation makes spans with, and what it tells its guest of them.
    fn traces(&self, call: Option<TraceContext>) -> (Option<OperationTrace>, Option<TraceRequest>) {
        let Some((settings, parent)) = self.trace.as_ref().zip(call) else {
            return (None, None);
        };
        let request = TraceRequest {
            sampler: settings.sampler,
            parent: parent.clone(),
        };
        let own = OperationTrace::begin(settings, self.namespace.as_str(), parent);
        (own, Some(request))
    }

    /// Forks an operation that hands nothing over.
    fn on<T: Serialize>(
        &self,
        target: &Target,
        work: impl FnOnce(&ContainerLocation) -> Result<T, Failure>,
    ) -> io::Result<Operation> {
        let location = self.location(target);
        fork(|_| work(&location))
    }
}

fn fork<T: Serialize>(
    work: impl FnOnce(&mut ShimLink) -> Result<T, Failure>,
) -> io::Result<Operation> {
    let operation = lighter_container::Operation::fork(work)?;
    Ok(Operation {
        pid: operation.pid,
        pidfd: operation.pidfd,
        answer: operation.answer,
    })
}

impl Runtime for ForkingRuntime {
    fn create(&self, request: CreateTask) -> io::Result<Operation> {
        let options = request.options;
        let call = request.trace;
        let mut request = CreateRequest {
            location: self.location(&request.target),
            rootfs: request.rootfs,
            stdio: request.stdio,
            trace: None,
        };
        fork(|link| {
            let (trace, for_guest) = self.traces(call);
            request.trace = for_guest;
            lighter_container::create(&request, &mut link.passed_fds, |spec, rootfs| {
                let bundle = &request.location.bundle;
                let node = options::keep(&options, bundle)?;
                let container = self.container(&request.location, false);
                workload::find(spec, rootfs, &container, &self.node(node, trace.as_ref()))
            })
            .inspect_err(|_| records::settle(&request.location))
        })
    }

    fn start(&self, target: &Target) -> io::Result<Operation> {
        self.on(target, lighter_container::start)
    }

    fn exec(&self, request: ExecTask) -> io::Result<Operation> {
        let call = request.trace;
        let mut request = ExecRequest {
            location: self.location(&request.target),
            init: request.init,
            process: request.process,
            stdio: request.stdio,
            trace: None,
        };
        fork(|link| {
            let (trace, for_guest) = self.traces(call);
            request.trace = for_guest;
            lighter_container::exec(&request, link, |spec, root, is_guest| {
                let node = options::kept(&request.location.bundle)?;
                let container = self.container(&request.location, true);
                let node = self.node(node, trace.as_ref());
                workload::find_exec(spec, root, is_guest, &container, &node)
            })
        })
    }

    fn remove(&self, target: &Target) -> io::Result<Operation> {
        self.on(target, |location| {
            lighter_container::remove(location).inspect(|()| records::settle(location))
        })
    }

    fn signal_all(&self, target: &Target, signal: i32, paused: bool) -> io::Result<Operation> {
        self.on(target, |location| {
            lighter_container::signal_all(location, signal, paused)
        })
    }

    fn pause(&self, target: &Target) -> io::Result<Operation> {
        self.on(target, lighter_container::pause)
    }

    fn resume(&self, target: &Target) -> io::Result<Operation> {
        self.on(target, lighter_container::resume)
    }

    fn update(&self, target: &Target, resources: &[u8]) -> io::Result<Operation> {
        self.on(target, |location| {
            lighter_container::update(location, resources)
        })
    }

    fn pids(&self, target: &Target) -> io::Result<Operation> {
        self.on(target, lighter_container::pids)
    }

    fn statistics(&self, target: &Target) -> io::Result<Operation> {
        self.on(target, lighter_container::statistics)
    }
}
