//! What a container has used, from its cgroup.

use std::collections::{BTreeMap, HashMap};

use libcgroups::common::{AnyCgroupManager, CgroupManager};
use libcgroups::stats::{BlkioDeviceStat, HugeTlbStats, Stats};
use libcgroups::v1::ControllerType;
use lighter_core::{
    BlockDevice, DeviceCounter, ErrorClass, Failure, HugePages, MemoryData, Statistics,
    StatisticsV1, StatisticsV2,
};

use crate::cgroup_files::{MEMORY_EVENTS_V1, MEMORY_EVENTS_V2, folder, read_keyed};
use crate::manage::ContainerLocation;

/// `cpuacct.stat` counts in units of USER_HZ, which is 100 in the kernel's interface to
/// programs (time(7)).
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// The cgroup's counters, by the cgroup version of the host. Runs in a fork of the shim.
pub fn statistics(location: &ContainerLocation) -> Result<Statistics, Failure> {
    let cgroup = location.require_cgroup()?;
    let failed = |failure: Failure| {
        Failure::internal(format!(
            "cannot read the cgroup of container {}: {failure}",
            location.id
        ))
    };
    let stats = cgroup
        .stats()
        .map_err(|error| failed(Failure::from_error(ErrorClass::Internal, &error)))?;
    let memory = folder(location, ControllerType::Memory).map_err(failed)?;
    let events = |name: &str| read_keyed(&memory.join(name));
    Ok(match cgroup {
        AnyCgroupManager::V1(_) => Statistics::V1(StatisticsV1 {
            oom: events(MEMORY_EVENTS_V1),
            ..version_1(stats)
        }),
        _ => Statistics::V2(StatisticsV2 {
            memory_events: events(MEMORY_EVENTS_V2),
            memory_max_usage: std::fs::read_to_string(memory.join("memory.peak"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or_default(),
            ..version_2(stats)
        }),
    })
}

fn version_1(stats: Stats) -> StatisticsV1 {
    StatisticsV1 {
        cpu_total: stats.cpu.usage.usage_total,
        cpu_user: stats.cpu.usage.usage_user * NANOSECONDS_PER_TICK,
        cpu_kernel: stats.cpu.usage.usage_kernel * NANOSECONDS_PER_TICK,
        cpu_per_core: stats.cpu.usage.per_core_usage_total,
        periods: stats.cpu.throttling.periods,
        throttled_periods: stats.cpu.throttling.throttled_periods,
        throttled_time: stats.cpu.throttling.throttled_time,
        memory_usage: memory_data(stats.memory.memory),
        swap_usage: memory_data(stats.memory.memswap),
        kernel_usage: memory_data(stats.memory.kernel),
        kernel_tcp_usage: memory_data(stats.memory.kernel_tcp),
        memory: stats.memory.stats.into_iter().collect(),
        oom: BTreeMap::new(),
        pids: stats.pids.current,
        pids_limit: stats.pids.limit,
        io_bytes: device_counters(stats.blkio.service_bytes),
        io_operations: device_counters(stats.blkio.serviced),
        huge_pages: huge_pages(stats.hugetlb),
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
        memory_max_usage: 0,
        memory_limit: stats.memory.memory.limit,
        swap_usage: stats.memory.memswap.usage,
        swap_limit: stats.memory.memswap.limit,
        memory: stats.memory.stats.into_iter().collect(),
        memory_events: BTreeMap::new(),
        pids: stats.pids.current,
        pids_limit: stats.pids.limit,
        io: block_devices(&stats.blkio.service_bytes, &stats.blkio.serviced),
        huge_pages: huge_pages(stats.hugetlb),
    }
}

fn memory_data(data: libcgroups::stats::MemoryData) -> MemoryData {
    MemoryData {
        usage: data.usage,
        max: data.max_usage,
        fail_count: data.fail_count,
        limit: data.limit,
    }
}

fn device_counters(counters: Vec<BlkioDeviceStat>) -> Vec<DeviceCounter> {
    let counters = counters.into_iter().map(|counter| DeviceCounter {
        major: counter.major,
        minor: counter.minor,
        operation: counter.op_type.unwrap_or_default(),
        value: counter.value,
    });
    counters.collect()
}

/// libcgroups splits each line of `io.stat` by direction; this puts it together again.
fn block_devices(bytes: &[BlkioDeviceStat], operations: &[BlkioDeviceStat]) -> Vec<BlockDevice> {
    let mut devices: BTreeMap<(u64, u64), BlockDevice> = BTreeMap::new();
    for (counters, are_bytes) in [(bytes, true), (operations, false)] {
        for counter in counters {
            let device = devices.entry((counter.major, counter.minor)).or_default();
            (device.major, device.minor) = (counter.major, counter.minor);
            let field = match (counter.op_type.as_deref(), are_bytes) {
                (Some("read"), true) => &mut device.read_bytes,
                (Some("write"), true) => &mut device.written_bytes,
                (Some("read"), false) => &mut device.reads,
                (Some("write"), false) => &mut device.writes,
                _ => continue,
            };
            *field += counter.value;
        }
    }
    devices.into_values().collect()
}

fn huge_pages(stats: HashMap<String, HugeTlbStats>) -> Vec<HugePages> {
    let mut pages: Vec<HugePages> = stats
        .into_iter()
        .map(|(size, stats)| HugePages {
            size,
            usage: stats.usage,
            max: stats.max_usage,
            fail_count: stats.fail_count,
        })
        .collect();
    pages.sort_by(|one, other| one.size.cmp(&other.size));
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_line_with_both_directions() {
        let counter = |direction: &str, value| BlkioDeviceStat {
            major: 8,
            minor: 16,
            op_type: Some(direction.to_owned()),
            value,
        };
        let devices = block_devices(
            &[counter("read", 4096), counter("write", 8192)],
            &[counter("read", 1), counter("write", 2)],
        );
        let expected = BlockDevice {
            major: 8,
            minor: 16,
            read_bytes: 4096,
            written_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        assert_eq!(devices, [expected]);
    }
}
