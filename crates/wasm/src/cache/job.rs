//! The work of one compilation, in a process that goes on when whoever asked for it is gone.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use lighter_core::Failure;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::alarm;

use super::limits::CacheLimits;
use crate::compile::enter_job_cgroup;

/// Bytes that a job may allocate beside the Wasm itself. Finding out what a binary is takes less
/// than 100 MiB within the bounds of `classify`.
const JOB_MEMORY: u64 = 256 << 20;

/// Seconds that a job has beside those of the compile worker: to read, to check and to evict.
const JOB_SECONDS: u64 = 60;

/// Has a job done, and returns whether anything was compiled; `None` if it is still at work when
/// nobody waits for it any more ([`Job::patience`]).
pub type Detach = fn(Job<'_>) -> Result<Option<bool>, Failure>;

/// One compilation: reads the Wasm, finds out what it is, has the worker compile it, and keeps
/// the result or the failure.
///
/// It is the only one of our own processes that reads the bytes of a stranger's Wasm as anything
/// but bytes.
pub struct Job<'a> {
    /// What it needs of what is open in the process that asks for it, beside stdio.
    pub descriptors: Vec<RawFd>,
    pub(super) limits: &'a CacheLimits,
    pub(super) deadline: Instant,
    pub(super) work: Box<dyn FnOnce() -> Result<bool, Failure> + 'a>,
}

impl Job<'_> {
    /// Limits this process, which must be the job's own: its memory, by a limit and a cgroup, and
    /// its time. The worker sets its own limits.
    ///
    /// # Errors
    /// [`lighter_core::ErrorClass::Internal`]; the job must not be done then.
    pub fn confine(&self) -> Result<(), Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::internal(format!("cannot {what} of a compilation: {error}"))
        };
        enter_job_cgroup(cgroup_memory(self.limits))
            .map_err(|error| failed("limit the memory", &error))?;
        // The hard limit stays: the worker has a higher one.
        getrlimit(Resource::RLIMIT_DATA)
            .and_then(|(_, hard)| {
                setrlimit(Resource::RLIMIT_DATA, memory(self.limits).min(hard), hard)
            })
            .map_err(|error| failed("limit the memory", &error))?;
        let seconds = self.limits.clock_seconds().saturating_add(JOB_SECONDS);
        alarm::set(u32::try_from(seconds).unwrap_or(u32::MAX));
        Ok(())
    }

    /// How long whoever asks for it waits for its end, from now on.
    pub fn patience(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Does it, in this process.
    ///
    /// # Errors
    /// Why nothing was compiled.
    pub fn run(self) -> Result<bool, Failure> {
        (self.work)()
    }
}

/// Bytes that one job may allocate.
fn memory(limits: &CacheLimits) -> u64 {
    limits.source_bytes.saturating_add(JOB_MEMORY)
}

/// Bytes for all jobs of the node: what each allocates, and its copy of the Wasm.
fn cgroup_memory(limits: &CacheLimits) -> u64 {
    let one = memory(limits).saturating_add(limits.source_bytes);
    one.saturating_mul(limits.at_a_time.max(1).into())
}
