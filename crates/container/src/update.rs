//! New limits for a container that exists.

use std::fs;
use std::path::PathBuf;

use libcgroups::common::{AnyCgroupManager, CgroupManager, ControllerOpt};
use libcgroups::v1::ControllerType;
use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::LinuxResources;

use crate::cgroup_files::{folder, is_unified};
use crate::manage::ContainerLocation;
use crate::spec_file::load_spec;
use crate::{devices, limits, memory_limit};

/// Files that an update may write, by cgroup version and controller. Those that bound each
/// other come twice, so that one of the two orders is accepted when they are written back.
const FILES_V1: &[(ControllerType, &[&str])] = &[
    (
        ControllerType::Cpu,
        &[
            "cpu.shares",
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpu.cfs_burst_us",
            "cpu.rt_runtime_us",
            "cpu.rt_period_us",
            "cpu.idle",
        ],
    ),
    (ControllerType::CpuSet, &["cpuset.cpus", "cpuset.mems"]),
    (
        ControllerType::Memory,
        &[
            "memory.memsw.limit_in_bytes",
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.swappiness",
        ],
    ),
    (ControllerType::Pids, &["pids.max"]),
    (
        ControllerType::Blkio,
        &[
            "blkio.weight",
            "blkio.bfq.weight",
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        ],
    ),
];
const FILES_V2: &[&str] = &[
    "cpu.weight",
    "cpu.max",
    "cpu.max.burst",
    "cpu.idle",
    "cpuset.cpus",
    "cpuset.mems",
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.min",
    "memory.swap.max",
    "pids.max",
    "io.weight",
    "io.bfq.weight",
    IO_MAX,
];
/// Limits of disks on cgroup v2, in one file.
const IO_MAX: &str = "io.max";

/// Changes the container's limits to those that `resources` names, a JSON document of the OCI
/// runtime specification's `linux.resources`. Runs in a fork of the shim.
///
/// If the kernel refuses one, all others are what they were before, too.
pub fn update(location: &ContainerLocation, resources: &[u8]) -> Result<(), Failure> {
    let refused = |why: &dyn std::fmt::Display| {
        Failure::invalid(format!(
            "cannot update container {}: {why}; its limits are what they were",
            location.id
        ))
    };
    let mut resources: LinuxResources = serde_json::from_slice(resources)
        .map_err(|error| refused(&format!("the resources are malformed: {error}")))?;
    // libcgroups would deny all devices for a moment on cgroup v1, and leaves v2 alone.
    let rules = resources
        .devices()
        .clone()
        .filter(|rules| !rules.is_empty());
    resources.set_devices(None);
    let resources = limits::possible(resources).map_err(|failure| refused(&failure))?;
    let cgroup = location.cgroup_to_change()?;
    let old = Limits::read(location)?;
    let told = match &cgroup {
        AnyCgroupManager::Systemd(_) => limits::update_for_systemd(location, &resources)?,
        _ => resources.clone(),
    };
    // The kernel is asked before systemd is told: it may refuse, or take its time to make room,
    // and nobody else is to wait for that.
    limits::complete(location, &resources)
        .and_then(|()| {
            let options = ControllerOpt {
                resources: &told,
                disable_oom_killer: oom_killer_is_disabled(location),
                oom_score_adj: None,
                freezer_state: None,
            };
            let applied = cgroup.apply(&options);
            applied.map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))
        })
        .and_then(|()| rules.map_or(Ok(()), |rules| devices::change(location, &rules)))
        .map_err(|failure| {
            old.write_back();
            location.or_ended(refused(&failure), ErrorClass::FailedPrecondition)
        })?;
    memory_limit::follow(location, &resources)
}

fn oom_killer_is_disabled(location: &ContainerLocation) -> bool {
    let spec = load_spec(&location.bundle).ok().map(|(spec, _)| spec);
    spec.as_ref()
        .and_then(|spec| spec.linux().as_ref()?.resources().as_ref())
        .and_then(|resources| resources.memory().as_ref()?.disable_oom_killer())
        .unwrap_or_default()
}

/// The limits of a cgroup, as its files have them.
struct Limits(Vec<(PathBuf, String)>);

impl Limits {
    fn read(location: &ContainerLocation) -> Result<Self, Failure> {
        let mut paths = Vec::new();
        if is_unified()? {
            let folder = folder(location, ControllerType::Memory)?;
            paths.extend(FILES_V2.iter().map(|name| folder.join(name)));
        } else {
            for (controller, names) in FILES_V1 {
                // A host may lack a controller, and a limit of it cannot have been changed.
                if let Ok(folder) = folder(location, *controller) {
                    paths.extend(names.iter().map(|name| folder.join(name)));
                }
            }
        }
        let values = paths.into_iter().filter_map(|path| {
            let value = fs::read_to_string(&path).ok()?;
            Some((path, value))
        });
        Ok(Self(values.collect()))
    }

    fn write_back(&self) {
        for (path, value) in &self.0 {
            let now = fs::read_to_string(path).unwrap_or_default();
            if now == *value {
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            for text in to_write_back(name.unwrap_or_default(), &now, value) {
                // Files that bound each other come twice; what is left cannot be mended.
                let _ = fs::write(path, text);
            }
        }
    }
}

/// What to write to a file for it to be as it was. The files of disks have a line for each that has
/// a limit, and take one at a time.
fn to_write_back(name: &str, now: &str, old: &str) -> Vec<String> {
    let none = match name {
        IO_MAX => "rbps=max wbps=max riops=max wiops=max",
        _ if name.starts_with("blkio.throttle.") => "0",
        _ => return vec![old.trim().to_owned()],
    };
    let disk = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let lifted = now
        .lines()
        .map(disk)
        .filter(|number| !old.lines().any(|line| disk(line) == *number))
        .map(|number| format!("{number} {none}"));
    lifted.chain(old.lines().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_disks_go_back_one_by_one() {
        let now =
            "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2 wbps=max riops=max wiops=max\n";
        let old = "8:0 rbps=7 wbps=max riops=max wiops=max\n";
        assert_eq!(
            to_write_back(IO_MAX, now, old),
            [
                "8:16 rbps=max wbps=max riops=max wiops=max",
                "8:0 rbps=7 wbps=max riops=max wiops=max"
            ]
        );
        let name = "blkio.throttle.read_bps_device";
        assert_eq!(to_write_back(name, "8:0 4096\n", ""), ["8:0 0"]);
        assert_eq!(to_write_back("pids.max", "3\n", "max\n"), ["max"]);
    }
}
