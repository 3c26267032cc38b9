//! The spec in the words that libcontainer 0.7 understands, where runc understands more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use libcgroups::v1::util::list_supported_mount_points;
use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::{LinuxNamespaceType, Mount, MountBuilder, Spec};

use crate::cgroup_files::{is_unified, plain_path};
use crate::guest_view::has_own;
use crate::{devices, limits};

/// The spec with what libcontainer refuses or gets wrong said in another way. Nothing if there
/// is no such thing in it.
pub(crate) fn adapt(spec: &Spec) -> Result<Option<Spec>, Failure> {
    let mut adapted = spec.clone();
    adapt_propagation(&mut adapted);
    adapt_privileges(&mut adapted);
    adapt_cgroup_mounts(&mut adapted)?;
    devices::adapt(&mut adapted)?;
    limits::adapt(&mut adapted)?;
    Ok((adapted != *spec).then_some(adapted))
}

/// Kubernetes asks for `rslave` and `rshared` when a pod has volumes with mount propagation;
/// libcontainer knows them without their r, and takes them recursively.
fn adapt_propagation(spec: &mut Spec) {
    let Some(mut linux) = spec.linux().clone() else {
        return;
    };
    let plain = match linux.rootfs_propagation().as_deref() {
        Some(name @ ("rslave" | "rshared" | "rprivate" | "runbindable")) => name[1..].to_owned(),
        _ => return,
    };
    linux.set_rootfs_propagation(Some(plain));
    spec.set_linux(Some(linux));
}

/// `noNewPrivileges: false` means what no word means, but libcontainer then loads the seccomp
/// profile after it has dropped the capability to do so.
fn adapt_privileges(spec: &mut Spec) {
    let Some(mut process) = spec.process().clone() else {
        return;
    };
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
        spec.set_process(Some(process));
    }
}

/// Spells out the mount of type `cgroup` on cgroup v1: a tmpfs with the container's cgroup of
/// each hierarchy bound into it, which is what runc mounts.
///
/// To find what to mount, libcontainer looks at the process that has init's process id, as init
/// sees it, in the host's `/proc`. In a PID namespace that exists already (a pod with
/// `shareProcessNamespace`) that is any process of the host, or none.
fn adapt_cgroup_mounts(spec: &mut Spec) -> Result<(), Failure> {
    let is_cgroup = |mount: &Mount| mount.typ().as_deref() == Some("cgroup");
    let has_mount = spec.mounts().iter().flatten().any(is_cgroup);
    if !has_mount || has_own(spec, LinuxNamespaceType::Pid) || is_unified()? {
        return Ok(());
    }
    let linux = spec.linux().clone();
    let path = linux
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    let (Some(mut linux), Some(path)) = (linux.clone(), path.map(|path| plain_path(path))) else {
        return Ok(());
    };
    let roots = list_supported_mount_points()
        .map_err(|error| Failure::from_error(ErrorClass::Internal, &error))?;
    let roots: BTreeSet<PathBuf> = roots.into_values().collect();
    let mut mounts = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        if !is_cgroup(mount) {
            mounts.push(mount.clone());
            continue;
        }
        let read_only = mount.options().iter().flatten().any(|name| name == "ro");
        mounts.extend(
            bind_mounts(mount.destination(), &path, &roots, read_only)
                .map_err(|error| Failure::from_error(ErrorClass::Internal, &error))?,
        );
        if read_only {
            // The tmpfs too, once the folders are in it.
            let mut paths = linux.readonly_paths().clone().unwrap_or_default();
            paths.push(mount.destination().to_string_lossy().into_owned());
            linux.set_readonly_paths(Some(paths));
        }
    }
    spec.set_mounts(Some(mounts));
    spec.set_linux(Some(linux));
    Ok(())
}

fn bind_mounts(
    destination: &Path,
    path: &Path,
    roots: &BTreeSet<PathBuf>,
    read_only: bool,
) -> Result<Vec<Mount>, oci_spec::OciSpecError> {
    let options = |more: &[&str]| -> Vec<String> {
        let all = ["nosuid", "noexec", "nodev"].iter().chain(more);
        all.map(|option| (*option).to_owned()).collect()
    };
    let mut mounts = vec![
        MountBuilder::default()
            .destination(destination)
            .typ("tmpfs")
            .source("tmpfs")
            .options(options(&["mode=755"]))
            .build()?,
    ];
    for root in roots {
        let Some(name) = root.file_name() else {
            continue;
        };
        let mut more = vec!["bind"];
        if read_only {
            more.push("ro");
        }
        mounts.push(
            MountBuilder::default()
                .destination(destination.join(name))
                .typ("bind")
                .source(root.join(path))
                .options(options(&more))
                .build()?,
        );
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_shows_the_containers_own_folder() {
        let roots = ["/sys/fs/cgroup/cpu".into(), "/sys/fs/cgroup/memory".into()].into();
        let mounts = bind_mounts(
            Path::new("/sys/fs/cgroup"),
            Path::new("pods/a"),
            &roots,
            true,
        )
        .unwrap();
        let shown: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.destination().as_path(), mount.source().as_deref()))
            .collect();
        assert_eq!(shown[0].0, Path::new("/sys/fs/cgroup"));
        assert_eq!(
            shown[2],
            (
                Path::new("/sys/fs/cgroup/memory"),
                Some(Path::new("/sys/fs/cgroup/memory/pods/a"))
            )
        );
        let options = mounts[2].options().clone().unwrap();
        assert!(options.contains(&"ro".to_owned()), "{options:?}");
    }

    #[test]
    fn what_libcontainer_understands_stays() {
        // Every client denies all devices first.
        let resources = oci_spec::runtime::LinuxResourcesBuilder::default()
            .devices(vec![oci_spec::runtime::LinuxDeviceCgroup::default()])
            .build()
            .unwrap();
        let linux = |propagation: &str| {
            oci_spec::runtime::LinuxBuilder::default()
                .resources(resources.clone())
                .rootfs_propagation(propagation)
                .build()
                .unwrap()
        };
        let spec = |propagation: &str, no_new_privileges: bool| {
            let process = oci_spec::runtime::ProcessBuilder::default()
                .no_new_privileges(no_new_privileges)
                .build()
                .unwrap();
            oci_spec::runtime::SpecBuilder::default()
                .process(process)
                .linux(linux(propagation))
                .build()
                .unwrap()
        };
        assert_eq!(adapt(&spec("shared", true)).unwrap(), None);
        let adapted = adapt(&spec("rslave", false)).unwrap().unwrap();
        let process = adapted.process().clone().unwrap();
        assert_eq!(process.no_new_privileges(), None);
        let linux = adapted.linux().clone().unwrap();
        assert_eq!(linux.rootfs_propagation().as_deref(), Some("slave"));
    }
}
