//! What the task service asks of the container runtime.

use std::io;
use std::path::PathBuf;

use lighter_core::{ContainerId, Mount, RuntimeOptions, Stdio};
use lighter_trace::TraceContext;

use crate::operation::Operation;

/// Which container, and where its files are.
#[derive(Clone, Debug)]
pub struct Target {
    /// Id of the container.
    pub id: ContainerId,
    /// The folder with its `config.json`.
    pub bundle: PathBuf,
}

/// What Create asks of the runtime.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// Which container.
    pub target: Target,
    /// Mounts of its rootfs.
    pub rootfs: Vec<Mount>,
    /// Where it reads and writes.
    pub stdio: Stdio,
    /// Options of the node.
    pub options: RuntimeOptions,
    /// The call that asks for it, if it is traced.
    pub trace: Option<TraceContext>,
}

/// What the start of an added process asks of the runtime.
#[derive(Clone, Debug)]
pub struct ExecTask {
    /// Which container.
    pub target: Target,
    /// Process id of its init, which has not been reaped.
    pub init: i32,
    /// The file that describes the process, as `process` of the OCI runtime specification.
    pub process: PathBuf,
    /// Where it reads and writes.
    pub stdio: Stdio,
    /// The call that asks for it, if it is traced.
    pub trace: Option<TraceContext>,
}

/// The container runtime. Each call starts an operation and returns at once; the operation's
/// answer has the type that is named.
pub trait Runtime: Send + Sync {
    /// Creates a container; answers [`lighter_core::Created`]. On an error nothing is left.
    fn create(&self, request: CreateTask) -> io::Result<Operation>;
    /// Lets a created container run; answers `()`.
    fn start(&self, target: &Target) -> io::Result<Operation>;
    /// Runs one process more in a container; answers [`lighter_core::Executed`].
    fn exec(&self, request: ExecTask) -> io::Result<Operation>;
    /// Removes a container with all that it has; answers `()`.
    fn remove(&self, target: &Target) -> io::Result<Operation>;
    /// Sends a signal to all processes of a container, which may be paused; answers `()`.
    fn signal_all(&self, target: &Target, signal: i32, paused: bool) -> io::Result<Operation>;
    /// Freezes all processes of a container; answers `()`.
    fn pause(&self, target: &Target) -> io::Result<Operation>;
    /// Lets the processes of a paused container go on; answers `()`.
    fn resume(&self, target: &Target) -> io::Result<Operation>;
    /// Changes a container's limits to those in a JSON document, `linux.resources` of the OCI
    /// runtime specification; answers `()`. On an error the old ones stay.
    fn update(&self, target: &Target, resources: &[u8]) -> io::Result<Operation>;
    /// Lists the processes of a container; answers `Vec<i32>`.
    fn pids(&self, target: &Target) -> io::Result<Operation>;
    /// Reads a container's counters; answers [`lighter_core::Statistics`].
    fn statistics(&self, target: &Target) -> io::Result<Operation>;
}
