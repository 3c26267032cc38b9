//! What a container has used, from its cgroup.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use libcgroups::common::CgroupManager;
use libcgroups::stats::{BlkioDeviceStat, HugeTlbStats, Stats};
use libcgroups::v1::ControllerType;
use lighter_core::{
    BlockDevice, DeviceCounter, ErrorClass, Failure, HugePages, MemoryData, Statistics,
    StatisticsV1, StatisticsV2,
};

use crate::cgroup_files::{MEMORY_EVENTS_V1, MEMORY_EVENTS_V2, folder, is_unified, read_keyed};
use crate::manage::ContainerLocation;

/// `cpuacct.stat` counts in units of USER_HZ, which is 100 in the kernel's interface to
/// programs (time(7)).
const NANOSECONDS_PER_TICK: u64 = 1_000_000_000 / 100;

/// The cgroup's counters, by the cgroup version of the host. Runs in a fork of the shim.
pub fn statistics(location: &ContainerLocation) -> Result<Statistics, Failure> {
    let failed = |failure: Failure| {
        Failure::internal(format!(
            "cannot read the cgroup of container {}: {failure}",
            location.id
        ))
    };
    let folder = folder(location, ControllerType::Memory).map_err(failed)?;
    if is_unified().map_err(failed)? {
        let statistics = version_2(&folder);
        // What is read of a cgroup that goes meanwhile is zero.
        if !folder.is_dir() {
            let failure = Failure::internal("its cgroup is gone");
            return Err(location.or_ended(failed(failure), ErrorClass::NotFound));
        }
        return Ok(Statistics::V2(statistics));
    }
    let stats = location
        .require_cgroup()?
        .stats()
        .map_err(|error| failed(Failure::from_error(ErrorClass::Internal, &error)))?;
    Ok(Statistics::V1(StatisticsV1 {
        oom: read_keyed(&folder.join(MEMORY_EVENTS_V1)),
        ..version_1(stats)
    }))
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

/// What is there: a kernel may lack a controller, or pressure information, without which
/// libcgroups has no statistics at all.
fn version_2(folder: &Path) -> StatisticsV2 {
    let cpu = read_keyed(&folder.join("cpu.stat"));
    let cpu = |name: &str| cpu.get(name).copied().unwrap_or_default();
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| text(name).and_then(|text| text.trim().parse().ok());
    let limit = |name: &str| number(name).unwrap_or(u64::MAX);
    StatisticsV2 {
        cpu_total: cpu("usage_usec"),
        cpu_user: cpu("user_usec"),
        cpu_kernel: cpu("system_usec"),
        periods: cpu("nr_periods"),
        throttled_periods: cpu("nr_throttled"),
        throttled_time: cpu("throttled_usec"),
        memory_usage: number("memory.current").unwrap_or_default(),
        memory_max_usage: number("memory.peak").unwrap_or_default(),
        memory_limit: limit("memory.max"),
        swap_usage: number("memory.swap.current").unwrap_or_default(),
        swap_limit: limit("memory.swap.max"),
        memory: read_keyed(&folder.join("memory.stat")),
        memory_events: read_keyed(&folder.join(MEMORY_EVENTS_V2)),
        pids: number("pids.current").unwrap_or_default(),
        pids_limit: limit("pids.max"),
        io: block_devices(&text("io.stat").unwrap_or_default()),
        huge_pages: huge_pages_v2(folder),
    }
}

/// The lines of `io.stat`: `8:16 rbytes=4096 wbytes=0 rios=1 wios=0 ...`.
fn block_devices(text: &str) -> Vec<BlockDevice> {
    let devices = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let counters: BTreeMap<&str, u64> = fields
            .filter_map(|field| field.split_once('='))
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
            .collect();
        let counter = |name: &str| counters.get(name).copied().unwrap_or_default();
        Some(BlockDevice {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            read_bytes: counter("rbytes"),
            written_bytes: counter("wbytes"),
            reads: counter("rios"),
            writes: counter("wios"),
        })
    });
    devices.collect()
}

/// By `hugetlb.SIZE.current` and its neighbours.
fn huge_pages_v2(folder: &Path) -> Vec<HugePages> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut pages: Vec<HugePages> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
            // `hugetlb.SIZE.rsvd.current` counts reservations.
            if size.contains('.') {
                return None;
            }
            let number = |what: &str| {
                let path = folder.join(format!("hugetlb.{size}.{what}"));
                std::fs::read_to_string(path).ok()?.trim().parse().ok()
            };
            let events = read_keyed(&folder.join(format!("hugetlb.{size}.events")));
            Some(HugePages {
                size: size.to_owned(),
                usage: number("current").unwrap_or_default(),
                max: number("max").unwrap_or(u64::MAX),
                fail_count: events.get("max").copied().unwrap_or_default(),
            })
        })
        .collect();
    pages.sort_by(|one, other| one.size.cmp(&other.size));
    pages
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
        let text = "8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nmalformed\n";
        let expected = BlockDevice {
            major: 8,
            minor: 16,
            read_bytes: 4096,
            written_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        assert_eq!(block_devices(text), [expected]);
    }

    #[test]
    fn what_the_kernel_lacks_is_zero_or_without_limit() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 7\nuser_usec 5\n");
        write("pids.max", "max\n");
        write("memory.max", "4096\n");
        write("hugetlb.2MB.current", "0\n");
        write("hugetlb.2MB.max", "max\n");
        write("hugetlb.2MB.rsvd.current", "0\n");
        let read = version_2(folder.path());
        assert_eq!((read.cpu_total, read.cpu_user, read.cpu_kernel), (7, 5, 0));
        assert_eq!((read.memory_limit, read.pids_limit), (4096, u64::MAX));
        assert_eq!(read.swap_limit, u64::MAX);
        assert_eq!(read.huge_pages.len(), 1);
        assert_eq!(read.huge_pages[0].max, u64::MAX);
    }
}
