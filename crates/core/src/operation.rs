//! What operations are asked and answer: plain data that crosses a process boundary.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

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
/// (`fifo://`, `file://`, `binary://`), or nothing, which is `/dev/null`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether all three are one terminal; `stderr` is not used then.
    pub terminal: bool,
}

/// The options of the runtime handler, from containerd's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// A file with the options; empty for none. It counts before `body`.
    pub path: String,
    /// The options themselves, as TOML.
    pub body: String,
}

/// A message of an operation to the shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message<T> {
    /// It has forked the process that it makes. The process is held back: with the message come its
    /// pidfd, and the writing end of the pipe that it waits at. A byte lets it run, the end of file
    /// ends it.
    Forked {
        /// The process's id in the shim's PID namespace.
        pid: i32,
    },
    /// Its result, which is the last message.
    Done(Answer<T>),
}

/// What an operation sends back, whatever it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer<T> {
    /// Its own answer.
    pub outcome: Result<T, Failure>,
    /// What was done in another way than was asked for, or not at all, each in one line.
    pub warnings: Vec<String>,
}

/// The answer of a create operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Process id of the container's init in the shim's PID namespace.
    pub pid: i32,
    /// Whether the kernel ends all other processes of the container when init ends: it does
    /// in a PID namespace whose first process init is.
    pub owns_pid_namespace: bool,
    /// What init was given for its stdio.
    pub stdio: Executed,
}

/// The answer of an operation that has made a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executed {
    /// The process's id in the shim's PID namespace.
    pub pid: i32,
    /// What the descriptors are that came with the answer, in their order.
    pub descriptors: Vec<Descriptor>,
}

/// A descriptor that an operation hands to the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Descriptor {
    /// The pidfd of the container's init.
    Init,
    /// The pidfd of the logger that the process's output goes to (`binary://`).
    Logger,
    /// The master of the process's terminal.
    Terminal,
    /// What the terminal's input is read from.
    TerminalInput,
    /// What the terminal's output is written to.
    TerminalOutput,
    /// Readable when the container's memory cgroup may have run out of memory.
    MemoryWatch,
    /// The file that counts the kills for want of memory: `memory.events` or, on cgroup v1,
    /// `memory.oom_control`.
    MemoryEvents,
    /// `memory.events` of the slice that systemd made the container's scope in.
    SliceMemoryEvents,
    /// Where the guest's spans come from, a packet at a time.
    Spans,
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
    pub memory_usage: MemoryData,
    /// Memory and swap in use.
    pub swap_usage: MemoryData,
    /// Memory of the kernel for the container.
    pub kernel_usage: MemoryData,
    /// The part of it that TCP buffers are.
    pub kernel_tcp_usage: MemoryData,
    /// `memory.stat`, by the kernel's names.
    pub memory: BTreeMap<String, u64>,
    /// `memory.oom_control`, by the kernel's names.
    pub oom: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of processes and threads, 0 for none.
    pub pids_limit: u64,
    /// Bytes read and written, by device.
    pub io_bytes: Vec<DeviceCounter>,
    /// Reads and writes, by device.
    pub io_operations: Vec<DeviceCounter>,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// One kind of memory of cgroup v1, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryData {
    /// In use now.
    pub usage: u64,
    /// Most in use so far.
    pub max: u64,
    /// How often the limit was hit.
    pub fail_count: u64,
    /// The limit.
    pub limit: u64,
}

/// A counter of cgroup v1's `blkio`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounter {
    /// Major number of the device.
    pub major: u64,
    /// Minor number of the device.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, ...
    pub operation: String,
    /// The count.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// The page size as the kernel writes it: `2MB`.
    pub size: String,
    /// In use now.
    pub usage: u64,
    /// Most in use so far; on cgroup v2 the limit.
    pub max: u64,
    /// How often the limit was hit.
    pub fail_count: u64,
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
    /// Most in use so far.
    pub memory_max_usage: u64,
    /// Memory limit, `u64::MAX` for none.
    pub memory_limit: u64,
    /// Swap in use.
    pub swap_usage: u64,
    /// Limit of swap, `u64::MAX` for none.
    pub swap_limit: u64,
    /// `memory.stat`, by the kernel's names.
    pub memory: BTreeMap<String, u64>,
    /// `memory.events`, by the kernel's names.
    pub memory_events: BTreeMap<String, u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of processes and threads, `u64::MAX` for none.
    pub pids_limit: u64,
    /// Input and output, by device.
    pub io: Vec<BlockDevice>,
    /// Huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// A line of cgroup v2's `io.stat`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Major number of the device.
    pub major: u64,
    /// Minor number of the device.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}
