//! A cgroup's counters as the messages that `ctr tasks metrics` and CRI read.

use containerd_shim_protos::cgroups::metrics::Metrics as MetricsV1;
use containerd_shim_protos::cgroups_v2::metrics::Metrics as MetricsV2;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use lighter_core::{Statistics, StatisticsV1, StatisticsV2};

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
    let usage = memory.usage.mut_or_insert_default();
    usage.usage = statistics.memory_usage;
    usage.max = statistics.memory_max_usage;
    usage.failcnt = statistics.memory_fail_count;
    usage.limit = statistics.memory_limit;
    let swap = memory.swap.mut_or_insert_default();
    swap.usage = statistics.swap_usage;
    swap.limit = statistics.swap_limit;

    let pids = metrics.pids.mut_or_insert_default();
    pids.current = statistics.pids;
    pids.limit = statistics.pids_limit;
    metrics
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

    let pids = metrics.pids.mut_or_insert_default();
    pids.current = statistics.pids;
    pids.limit = statistics.pids_limit;
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
