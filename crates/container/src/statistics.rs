//! What a container has used, from its cgroup.

use libcgroups::common::{AnyCgroupManager, CgroupManager};
use libcgroups::stats::Stats;
use lighter_core::{ErrorClass, Failure, Statistics, StatisticsV1, StatisticsV2};

use crate::manage::ContainerLocation;

/// The cgroup's counters, by the cgroup version of the host. Runs in a fork of the shim.
pub fn statistics(location: &ContainerLocation) -> Result<Statistics, Failure> {
    let cgroup = location.require_cgroup()?;
    let stats = cgroup.stats().map_err(|error| {
        let failure = Failure::from_error(ErrorClass::Internal, &error);
        Failure::internal(format!(
            "cannot read the cgroup of container {}: {failure}",
            location.id
        ))
    })?;
    Ok(match cgroup {
        AnyCgroupManager::V1(_) => Statistics::V1(version_1(stats)),
        _ => Statistics::V2(version_2(stats)),
    })
}

fn version_1(stats: Stats) -> StatisticsV1 {
    StatisticsV1 {
        cpu_total: stats.cpu.usage.usage_total,
        cpu_user: stats.cpu.usage.usage_user,
        cpu_kernel: stats.cpu.usage.usage_kernel,
        cpu_per_core: stats.cpu.usage.per_core_usage_total,
        periods: stats.cpu.throttling.periods,
        throttled_periods: stats.cpu.throttling.throttled_periods,
        throttled_time: stats.cpu.throttling.throttled_time,
        memory_usage: stats.memory.memory.usage,
        memory_max_usage: stats.memory.memory.max_usage,
        memory_fail_count: stats.memory.memory.fail_count,
        memory_limit: stats.memory.memory.limit,
        swap_usage: stats.memory.memswap.usage,
        swap_limit: stats.memory.memswap.limit,
        memory: stats.memory.stats.into_iter().collect(),
        pids: stats.pids.current,
        pids_limit: stats.pids.limit,
    }
}

fn version_2(stats: Stats) -> StatisticsV2 {
    StatisticsV2 {
        cpu_total: stats.cpu.usage.usage_total,
        cpu_user: stats.cpu.usage.usage_user,
        cpu_kernel: stats.cpu.usage.usage_kernel,
        periods: stats.cpu.throttling.periods,
        throttled_periods: stats.cpu.throttling.throttled_periods,
        throttled_time: stats.cpu.throttling.throttled_time,
        memory_usage: stats.memory.memory.usage,
        memory_limit: stats.memory.memory.limit,
        swap_usage: stats.memory.memswap.usage,
        swap_limit: stats.memory.memswap.limit,
        memory: stats.memory.stats.into_iter().collect(),
        pids: stats.pids.current,
        pids_limit: stats.pids.limit,
    }
}
