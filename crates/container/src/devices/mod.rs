//! Which devices a container's processes may use: rules of the spec, in force from before its
//! program starts, for each process of its cgroup.
//!
//! On cgroup v2 they are a program of the kernel's virtual machine that the kernel runs at each
//! access, and this folder makes it; libcgroups writes those of v1 (decision 0016).

mod bpf;
mod legacy;
mod program;
mod rules;

use std::fs::File;

use libcgroups::v1::ControllerType;
use lighter_core::{ErrorClass, Failure};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, Spec};

use self::bpf::Program;
use self::legacy::Exceptions;
use self::rules::Rules;
use crate::cgroup_files::{folder, is_unified};
use crate::manage::ContainerLocation;
use crate::warnings;

/// The spec with device rules that libcgroups applies on cgroup v1 as they are meant.
pub(crate) fn adapt(spec: &mut Spec) -> Result<(), Failure> {
    let rules = Rules::parse(of(spec))?;
    if !is_unified()? {
        Exceptions::of(&rules)?;
        legacy::spell_out(spec);
    }
    Ok(())
}

/// Puts the spec's rules in force on cgroup v2. Init waits for Start meanwhile: nothing of the
/// container's own runs without them.
pub(crate) fn confine(location: &ContainerLocation, spec: &Spec) -> Result<(), Failure> {
    if is_unified()? {
        install(location, &Rules::parse(of(spec))?)
    } else {
        Ok(())
    }
}

/// Replaces the rules of a container that runs. On an error they are what they were.
pub(crate) fn change(
    location: &ContainerLocation,
    rules: &[LinuxDeviceCgroup],
) -> Result<(), Failure> {
    let rules = Rules::parse(rules)?;
    if is_unified()? {
        return install(location, &rules);
    }
    let folder = folder(location, ControllerType::Devices)?;
    Exceptions::of(&rules)?.apply(&folder).map_err(|error| {
        Failure::internal(format!(
            "cannot change the device rules of {}: {error}",
            folder.display()
        ))
    })
}

fn of(spec: &Spec) -> &[LinuxDeviceCgroup] {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.resources().as_ref()?.devices().as_deref())
        .unwrap_or_default()
}

fn install(location: &ContainerLocation, rules: &Rules) -> Result<(), Failure> {
    let failed = |what: &str, error: Errno| {
        let why = match error {
            Errno::EPERM => {
                "this process may not: CAP_BPF or CAP_SYS_ADMIN is missing, as in a container"
            }
            Errno::EINVAL | Errno::ENOSYS => "the kernel lacks CONFIG_CGROUP_BPF",
            _ => "",
        };
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(" ({why})")
        };
        Failure::new(
            ErrorClass::FailedPrecondition,
            format!("cannot {what} the program of its device rules: {error}{why}"),
        )
    };
    let program = match Program::load(&program::assemble(rules)) {
        // There a process can make no device, and open those alone that it was given.
        Err(Errno::EPERM) if in_user_namespace() => {
            warnings::warn(
                "device rules do not hold: in a user namespace there is no right to load them"
                    .to_owned(),
            );
            return Ok(());
        }
        loaded => loaded.map_err(|error| failed("load", error))?,
    };
    let path = folder(location, ControllerType::Devices)?;
    let cgroup = File::open(&path)
        .map_err(|error| Failure::internal(format!("cannot open {}: {error}", path.display())))?;
    program
        .attach(&cgroup)
        .map_err(|error| failed("attach", error))
}

/// Whether users of this process are not those of the machine (user_namespaces(7)).
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}
