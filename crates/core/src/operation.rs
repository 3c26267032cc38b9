//! What operations are asked and answer: plain data that crosses a process boundary.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A mount of the rootfs, as containerd's snapshotter describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// File system type: `overlay`, `bind`, ...
    pub kind: String,
    /// Device or folder.
    pub source: String,
    /// Options as of fstab: flags and data mixed.
    pub options: Vec<String>,
}

/// Where a process reads and writes, in containerd's words: the path of a FIFO, a URI
/// (`fifo://`, `file://`), or nothing, which is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The answer of a create operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Process id of the container's init in the shim's PID namespace.
    pub pid: i32,
}

/// What a cgroup has used, by the cgroup version of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statistics {
    /// Legacy or hybrid hierarchy.
    V1(StatisticsV1),
    /// Unified hierarchy.
    V2(StatisticsV2),
}

/// Counters of cgroup v1. Times are in nanoseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsV1 {
    /// CPU time in all.
    pub cpu_total: u64,
    /// CPU time in user mode.
    pub cpu_user: u64,
    /// CPU time in kernel mode.
    pub cpu_kernel: u64,
    /// CPU time by core.
    pub cpu_per_core: Vec<u64>,
    /// Scheduling periods that have passed under a quota.
    pub periods: u64,
    /// Periods in which the quota was exhausted.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
    /// Memory in use, page cache included.
    pub memory_usage: u64,
    /// Highest `memory_usage` seen.
    pub memory_max_usage: u64,
    /// How often the limit was hit.
    pub memory_fail_count: u64,
    /// Memory limit.
    pub memory_limit: u64,
    /// Memory and swap in use.
    pub swap_usage: u64,
    /// Limit of memory and swap.
    pub swap_limit: u64,
    /// `memory.stat`, by the kernel's names.
    pub memory: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of processes and threads, 0 for none.
    pub pids_limit: u64,
}

/// Counters of cgroup v2. Times are in microseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsV2 {
    /// CPU time in all.
    pub cpu_total: u64,
    /// CPU time in user mode.
    pub cpu_user: u64,
    /// CPU time in kernel mode.
    pub cpu_kernel: u64,
    /// Scheduling periods that have passed under a quota.
    pub periods: u64,
    /// Periods in which the quota was exhausted.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
    /// Memory in use, page cache included.
    pub memory_usage: u64,
    /// Memory limit, `u64::MAX` for none.
    pub memory_limit: u64,
    /// Swap in use.
    pub swap_usage: u64,
    /// Limit of swap, `u64::MAX` for none.
    pub swap_limit: u64,
    /// `memory.stat`, by the kernel's names.
    pub memory: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of processes and threads, 0 for none.
    pub pids_limit: u64,
}
