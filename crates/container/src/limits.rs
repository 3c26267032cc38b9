//! Limits of a spec or an update where libcgroups 0.7 and runc part ways.

mod values;

use std::fs;
use std::path::Path;

use libcgroups::common::{CgroupManager, ControllerOpt, DEFAULT_CGROUP_ROOT};
use libcgroups::v1::ControllerType;
use libcgroups::v1::util::get_subsystem_mount_point;
use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::{LinuxBlockIo, LinuxResources, Spec};

use crate::cgroup_files::{folder, is_systemd, is_unified, plain_path};
use crate::manage::ContainerLocation;
use crate::warnings;

/// Files of cgroup v2 that libcgroups gets wrong when it tells systemd of them: it scales the
/// first two as if they were others, and sends the last two in a type that systemd refuses.
const NOT_FOR_SYSTEMD: [&str; 4] = ["cpu.max", "cpu.weight", "cpuset.cpus", "cpuset.mems"];

/// There when the kernel has the scheduler BFQ, whose weights are those of the specification.
const BFQ: &str = "/sys/module/bfq";

/// The spec with limits that libcgroups can set.
pub(crate) fn adapt(spec: &mut Spec) -> Result<(), Failure> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(());
    };
    let Some(resources) = linux.resources().clone() else {
        return Ok(());
    };
    let mut resources = possible(resources)?;
    if linux
        .cgroups_path()
        .as_ref()
        .is_some_and(|path| is_systemd(path))
    {
        resources = for_systemd(&resources);
    }
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(())
}

/// Without limits of what the host does not have. Values that cannot be, and names that lead out of
/// the cgroup, are refused.
pub(crate) fn possible(mut resources: LinuxResources) -> Result<LinuxResources, Failure> {
    values::check(&resources)?;
    for name in resources.unified().iter().flatten().map(|(name, _)| name) {
        if name.contains('/') || !name.contains('.') {
            return Err(Failure::invalid(format!(
                "the unified resource \"{name}\" is not the name of a cgroup's file"
            )));
        }
    }
    if let Some(io) = resources.block_io() {
        require_disks(io)?;
    }
    if resources.network().is_some() && (is_unified()? || !has_controller("net_cls")) {
        return Err(Failure::new(
            ErrorClass::FailedPrecondition,
            "the host has no net_cls controller (it is one of cgroup v1), which linux.resources.network asks for",
        ));
    }
    let has_limits = resources
        .hugepage_limits()
        .as_ref()
        .is_some_and(|limits| !limits.is_empty());
    if has_limits && !has_huge_pages()? {
        // The CRI limits each size of a page, wanted or not.
        warnings::warn(
            "limits of huge pages do not hold: the host has no hugetlb controller".to_owned(),
        );
        resources.set_hugepage_limits(None);
    }
    if is_unified()? && !Path::new(BFQ).exists() {
        name_weight(&mut resources);
    }
    Ok(resources)
}

/// Refuses limits of disks that are not there.
fn require_disks(io: &LinuxBlockIo) -> Result<(), Failure> {
    let limits = [
        io.throttle_read_bps_device(),
        io.throttle_write_bps_device(),
        io.throttle_read_iops_device(),
        io.throttle_write_iops_device(),
    ];
    for limit in limits.into_iter().flatten().flatten() {
        let number = format!("{}:{}", limit.major(), limit.minor());
        if !Path::new("/sys/dev/block").join(&number).exists() {
            return Err(Failure::invalid(format!(
                "blockIO has a limit for the block device {number}, which the host does not have"
            )));
        }
    }
    Ok(())
}

/// Gives the weight of block devices by the name of the kernel's file: libcgroups converts it in
/// 16 bits, which most products of it do not fit into.
fn name_weight(resources: &mut LinuxResources) {
    let Some(mut io) = resources.block_io().clone() else {
        return;
    };
    let Some(weight @ 1..) = io.weight() else {
        return;
    };
    io.set_weight(None);
    resources.set_block_io(Some(io));
    let mut unified = resources.unified().clone().unwrap_or_default();
    unified
        .entry("io.weight".to_owned())
        .or_insert_with(|| unified_weight(weight).to_string());
    resources.set_unified(Some(unified));
}

/// 10 to 1000 as 1 to 10000, as runc does it.
fn unified_weight(weight: u16) -> u32 {
    1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990
}

/// What to tell of a start that failed: also that a limit is less than any start takes, if it is.
pub(crate) fn explain(resources: Option<&LinuxResources>, failure: Failure) -> Failure {
    match resources.and_then(values::too_little) {
        Some(why) => Failure::invalid(format!("{}; {why}", failure.message)),
        None => failure,
    }
}

fn has_controller(name: &str) -> bool {
    Path::new(DEFAULT_CGROUP_ROOT).join(name).is_dir()
}

fn has_huge_pages() -> Result<bool, Failure> {
    let root = Path::new(DEFAULT_CGROUP_ROOT);
    if is_unified()? {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        return Ok(controllers.split_whitespace().any(|name| name == "hugetlb"));
    }
    Ok(
        root.join("hugetlb").is_dir()
            || get_subsystem_mount_point(&ControllerType::HugeTlb).is_ok(),
    )
}

/// What libcgroups can tell systemd of.
fn for_systemd(resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    let unified = resources.unified().clone().map(|mut unified| {
        unified.retain(|name, value| {
            !NOT_FOR_SYSTEMD.contains(&name.as_str()) && value.trim().parse::<u64>().is_ok()
        });
        unified
    });
    resources.set_unified(unified);
    if let Some(cpu) = resources.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
    }
    resources
}

/// An update as libcgroups has to tell systemd of it: it takes a quota that is not named for one
/// that is lifted.
pub(crate) fn update_for_systemd(
    location: &ContainerLocation,
    resources: &LinuxResources,
) -> Result<LinuxResources, Failure> {
    let mut resources = for_systemd(resources);
    let Some(mut cpu) = resources.cpu().clone() else {
        return Ok(resources);
    };
    let now = folder(location, ControllerType::Cpu)?.join("cpu.max");
    let now = fs::read_to_string(now).unwrap_or_default();
    if let Some((quota, period)) = now.trim().split_once(' ') {
        if cpu.quota().is_none() {
            cpu.set_quota(quota.parse().ok());
        }
        if cpu.period().is_none() {
            cpu.set_period(period.parse().ok());
        }
    }
    resources.set_cpu(Some(cpu));
    Ok(resources)
}

/// Writes limits to the cgroup that systemd has made, as runc does after it has told systemd of
/// those that it knows.
pub(crate) fn complete(
    location: &ContainerLocation,
    resources: &LinuxResources,
) -> Result<(), Failure> {
    if !location.cgroup_path().is_some_and(|path| is_systemd(&path)) {
        return Ok(());
    }
    if resources.hugepage_limits().is_some() {
        enable_huge_pages(location);
    }
    let options = ControllerOpt {
        resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    location
        .require_cgroup()?
        .apply(&options)
        .map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))
}

/// systemd knows nothing of this controller. Whether it could be enabled shows when the limit is
/// written.
fn enable_huge_pages(location: &ContainerLocation) {
    let Some(path) = location.cgroup_path() else {
        return;
    };
    let path = Path::new(DEFAULT_CGROUP_ROOT).join(plain_path(&path));
    let above = path.ancestors().skip(1);
    let above = above.take_while(|folder| folder.starts_with(DEFAULT_CGROUP_ROOT));
    for folder in above.collect::<Vec<_>>().into_iter().rev() {
        let _ = fs::write(folder.join("cgroup.subtree_control"), "+hugetlb");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_name_that_leads_out_of_the_cgroup_is_refused() {
        for name in ["../x/memory.max", "memory.max/..", "cgroup"] {
            let failure = possible(resources(&format!(r#"{{"unified": {{"{name}": "1"}}}}"#)));
            assert!(failure.unwrap_err().message.contains(name));
        }
        assert!(possible(resources(r#"{"unified": {"memory.high": "1"}}"#)).is_ok());
    }

    #[test]
    fn a_weight_is_converted_as_runc_does() {
        for (given, set) in [(10, "1"), (100, "910"), (500, "4950"), (1000, "10000")] {
            let mut resources = resources(&format!(r#"{{"blockIO": {{"weight": {given}}}}}"#));
            name_weight(&mut resources);
            assert_eq!(resources.unified().as_ref().unwrap()["io.weight"], set);
            assert_eq!(resources.block_io().as_ref().unwrap().weight(), None);
        }
    }

    #[test]
    fn systemd_is_told_what_libcgroups_can_say() {
        let told = for_systemd(&resources(
            r#"{"unified": {"cpu.max": "10000 100000", "memory.high": "4096", "memory.max": "max"}}"#,
        ));
        let names: Vec<_> = told
            .unified()
            .iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(names, ["memory.high"]);
    }
}
