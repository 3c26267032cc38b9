//! Which values a limit may have. The kernel refuses most of the others too, with "Invalid
//! argument" and when half of the container is there; some become no limit at all.

use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::LinuxResources;

/// The kernel's bounds of a period, and the least of a quota, in microseconds
/// (Documentation/scheduler/sched-bwc.rst).
const PERIOD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const LEAST_QUOTA: i64 = 1_000;
/// Of `blockIO.weight` (OCI runtime specification, config-linux.md).
const WEIGHT: std::ops::RangeInclusive<u16> = 10..=1_000;

/// The least memory that a guest without any of its own starts in: half of it is too little on both
/// cgroup versions.
const LEAST_MEMORY: i64 = 2 << 20;
/// Init is cloned by a process that is in the cgroup already.
const LEAST_PROCESSES: i64 = 2;

/// Says of a limit that is less than a start takes how much that is.
pub(super) fn too_little(resources: &LinuxResources) -> Option<String> {
    let limit = resources
        .memory()
        .as_ref()
        .and_then(|memory| memory.limit());
    if let Some(limit @ 1..LEAST_MEMORY) = limit {
        return Some(format!(
            "its memory.limit is {limit} bytes, and the least that works is {LEAST_MEMORY}"
        ));
    }
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        Some(limit @ 1..LEAST_PROCESSES) => Some(format!(
            "its pids.limit is {limit}, and the least that works is {LEAST_PROCESSES}"
        )),
        _ => None,
    }
}

/// Refuses limits that cannot be, by their names in the specification. -1 is none, and 0 leaves
/// what there is, as with runc.
pub(super) fn check(resources: &LinuxResources) -> Result<(), Failure> {
    let mut limits = Vec::new();
    if let Some(memory) = resources.memory() {
        limits.push(("memory.limit", memory.limit()));
        limits.push(("memory.reservation", memory.reservation()));
        limits.push(("memory.swap", memory.swap()));
        if let (Some(limit @ 1..), Some(swap @ 1..)) = (memory.limit(), memory.swap())
            && swap < limit
        {
            return Err(Failure::invalid(format!(
                "memory.swap is {swap} bytes, less than memory.limit, {limit}: it is both together"
            )));
        }
    }
    if let Some(pids) = resources.pids() {
        limits.push(("pids.limit", Some(pids.limit())));
    }
    if let Some(cpu) = resources.cpu() {
        limits.push(("cpu.quota", cpu.quota()));
    }
    for (name, value) in limits {
        if let Some(value) = value
            && value < -1
        {
            return Err(Failure::invalid(format!(
                "{name} is {value}: it has to be -1, for none, or more than 0"
            )));
        }
    }
    check_processor(resources)?;
    if let Some(weight) = resources.block_io().as_ref().and_then(|io| io.weight())
        && weight != 0
        && !WEIGHT.contains(&weight)
    {
        return Err(Failure::invalid(format!(
            "blockIO.weight is {weight}: it has to be from {} to {}",
            WEIGHT.start(),
            WEIGHT.end()
        )));
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|rdma| !rdma.is_empty())
    {
        return Err(Failure::new(
            ErrorClass::Unimplemented,
            "limits of RDMA devices (rdma) are not supported",
        ));
    }
    Ok(())
}

fn check_processor(resources: &LinuxResources) -> Result<(), Failure> {
    let Some(cpu) = resources.cpu() else {
        return Ok(());
    };
    if let Some(period) = cpu.period()
        && period != 0
        && !PERIOD.contains(&period)
    {
        return Err(Failure::invalid(format!(
            "cpu.period is {period} us: it has to be from {} to {}",
            PERIOD.start(),
            PERIOD.end()
        )));
    }
    if let Some(quota @ 1..LEAST_QUOTA) = cpu.quota() {
        return Err(Failure::invalid(format!(
            "cpu.quota is {quota} us: the least that the kernel takes is {LEAST_QUOTA}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn checked(resources: &serde_json::Value) -> Result<(), Failure> {
        check(&serde_json::from_value(resources.clone()).unwrap())
    }

    proptest! {
        /// Whatever the value, it is taken or named.
        #[test]
        fn a_value_is_none_positive_or_refused_by_its_name(value: i64) {
            for (group, name) in [("memory", "limit"), ("memory", "reservation"), ("pids", "limit")] {
                let result = checked(&json!({ group: { name: value } }));
                prop_assert_eq!(result.is_ok(), value >= -1);
                if let Err(failure) = result {
                    prop_assert_eq!(failure.class, ErrorClass::InvalidArgument);
                    let named = format!("{group}.{name} is {value}");
                    prop_assert!(failure.message.contains(&named), "{}", failure.message);
                }
            }
        }

        /// What is taken, the kernel takes as well: it refuses less than a millisecond, and more
        /// than a second.
        #[test]
        fn processor_time_is_within_the_kernels_bounds(quota in -3..3_000_i64, period in 0..2_000_000_u64) {
            let result = checked(&json!({ "cpu": { "quota": quota, "period": period } }));
            let fits = (-1..=0).contains(&quota) || quota >= 1_000;
            prop_assert_eq!(result.is_ok(), fits && (period == 0 || (1_000..=1_000_000).contains(&period)));
        }
    }

    #[test]
    fn swap_counts_the_memory_in() {
        let limits = |limit: i64, swap: i64| json!({ "memory": { "limit": limit, "swap": swap } });
        assert!(checked(&limits(64, 64)).is_ok());
        assert!(checked(&limits(64, -1)).is_ok());
        assert!(checked(&limits(-1, 64)).is_ok());
        assert!(checked(&limits(64, 63)).is_err());
    }

    #[test]
    fn too_little_is_said_with_what_works() {
        let said = |resources| too_little(&serde_json::from_value(resources).unwrap());
        let memory = said(json!({ "memory": { "limit": 65536 } })).unwrap();
        assert!(
            memory.ends_with("the least that works is 2097152"),
            "{memory}"
        );
        let pids = said(json!({ "pids": { "limit": 1 } })).unwrap();
        assert!(pids.ends_with("the least that works is 2"), "{pids}");
        for enough in [2 << 20, -1, 0] {
            assert_eq!(
                said(json!({ "memory": { "limit": enough }, "pids": { "limit": -1 } })),
                None
            );
        }
    }

    #[test]
    fn what_would_not_hold_is_refused() {
        let failure = checked(&json!({ "rdma": { "mlx5_1": { "hcaHandles": 3 } } })).unwrap_err();
        assert_eq!(failure.class, ErrorClass::Unimplemented);
        assert!(checked(&json!({ "blockIO": { "weight": 9 } })).is_err());
        assert!(checked(&json!({ "blockIO": { "weight": 1000 } })).is_ok());
    }
}
