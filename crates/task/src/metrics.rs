//! A cgroup's counters as the messages that `ctr tasks metrics` and CRI read.

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, HugetlbStat, MemoryEntry, Metrics as MetricsV1,
};
use containerd_shim_protos::cgroups_v2::metrics::{HugeTlbStat, IOEntry, Metrics as MetricsV2};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use lighter_core::{DeviceCounter, MemoryData, Statistics, StatisticsV1, StatisticsV2};

use crate::events::any;

/// `io.containerd.cgroups.v1.Metrics` or `v2.Metrics`, by the host's cgroup version.
pub(crate) fn metrics(statistics: Statistics) -> Any {
    match statistics {
        Statistics::V1(statistics) => any(&version_1(statistics)),
        Statistics::V2(statistics) => any(&version_2(&statistics)),
    }
}

fn version_1(statistics: StatisticsV1) -> MetricsV1 {
    let mut metrics = MetricsV1::new();
    let cpu = metrics.cpu.mut_or_insert_default();
    let usage = cpu.usage.mut_or_insert_default();
    usage.total = statistics.cpu_total;
    usage.user = statistics.cpu_user;
    usage.kernel = statistics.cpu_kernel;
    usage.per_cpu = statistics.cpu_per_core;
    let throttling = cpu.throttling.mut_or_insert_default();
    throttling.periods = statistics.periods;
    throttling.throttled_periods = statistics.throttled_periods;
    throttling.throttled_time = statistics.throttled_time;

    let named = |name: &str| statistics.memory.get(name).copied().unwrap_or_default();
    let memory = metrics.memory.mut_or_insert_default();
    memory.cache = named("cache");
    memory.rss = named("rss");
    memory.mapped_file = named("mapped_file");
    memory.pg_fault = named("pgfault");
    memory.pg_maj_fault = named("pgmajfault");
    memory.inactive_anon = named("inactive_anon");
    memory.active_anon = named("active_anon");
    memory.inactive_file = named("inactive_file");
    memory.active_file = named("active_file");
    memory.unevictable = named("unevictable");
    memory.total_cache = named("total_cache");
    memory.total_rss = named("total_rss");
    memory.total_mapped_file = named("total_mapped_file");
    memory.total_pg_fault = named("total_pgfault");
    memory.total_pg_maj_fault = named("total_pgmajfault");
    memory.total_inactive_anon = named("total_inactive_anon");
    memory.total_active_anon = named("total_active_anon");
    memory.total_inactive_file = named("total_inactive_file");
    memory.total_active_file = named("total_active_file");
    memory.total_unevictable = named("total_unevictable");
    memory.rss_huge = named("rss_huge");
    memory.dirty = named("dirty");
    memory.writeback = named("writeback");
    memory.pg_pg_in = named("pgpgin");
    memory.pg_pg_out = named("pgpgout");
    memory.hierarchical_memory_limit = named("hierarchical_memory_limit");
    memory.hierarchical_swap_limit = named("hierarchical_memsw_limit");
    memory.total_rss_huge = named("total_rss_huge");
    memory.total_dirty = named("total_dirty");
    memory.total_writeback = named("total_writeback");
    memory.total_pg_pg_in = named("total_pgpgin");
    memory.total_pg_pg_out = named("total_pgpgout");
    memory.usage = Some(memory_entry(statistics.memory_usage)).into();
    memory.swap = Some(memory_entry(statistics.swap_usage)).into();
    memory.kernel = Some(memory_entry(statistics.kernel_usage)).into();
    memory.kernel_tcp = Some(memory_entry(statistics.kernel_tcp_usage)).into();
    let oom = |name: &str| statistics.oom.get(name).copied().unwrap_or_default();
    let control = metrics.memory_oom_control.mut_or_insert_default();
    control.oom_kill_disable = oom("oom_kill_disable");
    control.under_oom = oom("under_oom");
    control.oom_kill = oom("oom_kill");

    let pids = metrics.pids.mut_or_insert_default();
    pids.current = statistics.pids;
    pids.limit = statistics.pids_limit;
    let blkio = metrics.blkio.mut_or_insert_default();
    blkio.io_service_bytes_recursive = device_entries(statistics.io_bytes);
    blkio.io_serviced_recursive = device_entries(statistics.io_operations);
    metrics.hugetlb = statistics
        .huge_pages
        .into_iter()
        .map(|pages| HugetlbStat {
            usage: pages.usage,
            max: pages.max,
            failcnt: pages.fail_count,
            pagesize: pages.size,
            ..HugetlbStat::default()
        })
        .collect();
    metrics
}

fn memory_entry(data: MemoryData) -> MemoryEntry {
    MemoryEntry {
        usage: data.usage,
        max: data.max,
        failcnt: data.fail_count,
        limit: data.limit,
        ..MemoryEntry::default()
    }
}

fn device_entries(counters: Vec<DeviceCounter>) -> Vec<BlkIOEntry> {
    let entries = counters.into_iter().map(|counter| BlkIOEntry {
        op: counter.operation,
        major: counter.major,
        minor: counter.minor,
        value: counter.value,
        ..BlkIOEntry::default()
    });
    entries.collect()
}

fn version_2(statistics: &StatisticsV2) -> MetricsV2 {
    let mut metrics = MetricsV2::new();
    let cpu = metrics.cpu.mut_or_insert_default();
    cpu.usage_usec = statistics.cpu_total;
    cpu.user_usec = statistics.cpu_user;
    cpu.system_usec = statistics.cpu_kernel;
    cpu.nr_periods = statistics.periods;
    cpu.nr_throttled = statistics.throttled_periods;
    cpu.throttled_usec = statistics.throttled_time;

    let named = |name: &str| statistics.memory.get(name).copied().unwrap_or_default();
    let memory = metrics.memory.mut_or_insert_default();
    memory.anon = named("anon");
    memory.file = named("file");
    memory.kernel_stack = named("kernel_stack");
    memory.slab = named("slab");
    memory.sock = named("sock");
    memory.shmem = named("shmem");
    memory.file_mapped = named("file_mapped");
    memory.file_dirty = named("file_dirty");
    memory.inactive_anon = named("inactive_anon");
    memory.active_anon = named("active_anon");
    memory.inactive_file = named("inactive_file");
    memory.active_file = named("active_file");
    memory.unevictable = named("unevictable");
    memory.pgfault = named("pgfault");
    memory.pgmajfault = named("pgmajfault");
    memory.usage = statistics.memory_usage;
    memory.usage_limit = statistics.memory_limit;
    memory.swap_usage = statistics.swap_usage;
    memory.swap_limit = statistics.swap_limit;
    memory.max_usage = statistics.memory_max_usage;
    memory.file_writeback = named("file_writeback");
    memory.anon_thp = named("anon_thp");
    memory.slab_reclaimable = named("slab_reclaimable");
    memory.slab_unreclaimable = named("slab_unreclaimable");
    memory.workingset_refault = named("workingset_refault_file");
    memory.workingset_activate = named("workingset_activate_file");
    memory.workingset_nodereclaim = named("workingset_nodereclaim");
    memory.pgrefill = named("pgrefill");
    memory.pgscan = named("pgscan");
    memory.pgsteal = named("pgsteal");
    memory.pgactivate = named("pgactivate");
    memory.pgdeactivate = named("pgdeactivate");
    memory.pglazyfree = named("pglazyfree");
    memory.pglazyfreed = named("pglazyfreed");
    memory.thp_fault_alloc = named("thp_fault_alloc");
    memory.thp_collapse_alloc = named("thp_collapse_alloc");
    let events = |name: &str| {
        statistics
            .memory_events
            .get(name)
            .copied()
            .unwrap_or_default()
    };
    let memory_events = metrics.memory_events.mut_or_insert_default();
    memory_events.low = events("low");
    memory_events.high = events("high");
    memory_events.max = events("max");
    memory_events.oom = events("oom");
    memory_events.oom_kill = events("oom_kill");

    let pids = metrics.pids.mut_or_insert_default();
    pids.current = statistics.pids;
    pids.limit = statistics.pids_limit;
    let usage = statistics.io.iter().map(|device| IOEntry {
        major: device.major,
        minor: device.minor,
        rbytes: device.read_bytes,
        wbytes: device.written_bytes,
        rios: device.reads,
        wios: device.writes,
        ..IOEntry::default()
    });
    metrics.io.mut_or_insert_default().usage = usage.collect();
    metrics.hugetlb = statistics
        .huge_pages
        .iter()
        .map(|pages| HugeTlbStat {
            current: pages.usage,
            max: pages.max,
            pagesize: pages.size.clone(),
            ..HugeTlbStat::default()
        })
        .collect();
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::Message;

    #[test]
    fn the_names_are_those_that_containerd_decodes() {
        let statistics = StatisticsV1 {
            cpu_total: 5,
            memory: [("total_rss".to_owned(), 7)].into(),
            ..StatisticsV1::default()
        };
        let any = metrics(Statistics::V1(statistics));
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let decoded = MetricsV1::parse_from_bytes(&any.value).unwrap();
        assert_eq!(decoded.cpu.usage.total, 5);
        assert_eq!(decoded.memory.total_rss, 7);

        let any = metrics(Statistics::V2(StatisticsV2 {
            memory: [("inactive_file".to_owned(), 9)].into(),
            ..StatisticsV2::default()
        }));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let decoded = MetricsV2::parse_from_bytes(&any.value).unwrap();
        assert_eq!(decoded.memory.inactive_file, 9);
    }
}
