//! The spec in the words that libcontainer 0.7 understands, where runc understands more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use libcgroups::common::DEFAULT_CGROUP_ROOT;
use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::{LinuxNamespaceType, Mount, MountBuilder, Spec};

use crate::cgroup_files::{is_unified, plain_path};
use crate::guest_view::mount_points;
use crate::late_mounts::{self, LateMounts};
use crate::mount_points::{ContainerTree, is_bind, is_read_only};
use crate::{devices, limits};

/// Where nothing of an image is.
const KERNEL_DIRECTORIES: [&str; 3] = ["/dev", "/proc", "/sys"];

/// The controllers of cgroup v1 that libcgroups makes cgroups for.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// The spec with what libcontainer refuses or gets wrong said in another way, and the work that is left
/// when it has made the container. No spec if there is no such thing in it.
///
/// `is_cwd_late` says that the working directory is in a tmpfs, which is not there yet.
pub(crate) fn adapt(
    spec: &Spec,
    tree: &ContainerTree<'_>,
    is_cwd_late: bool,
) -> Result<(Option<Spec>, LateMounts), Failure> {
    let mut adapted = spec.clone();
    adapt_destinations(&mut adapted, tree);
    adapt_mount_options(&mut adapted);
    late_mounts::check(&adapted, tree)?;
    let late = LateMounts::take(&mut adapted, is_cwd_late);
    adapt_readonly_paths(&mut adapted, tree)?;
    adapt_privileges(&mut adapted);
    adapt_cgroup_mounts(&mut adapted)?;
    devices::adapt(&mut adapted)?;
    limits::adapt(&mut adapted)?;
    Ok(((adapted != *spec).then_some(adapted), late))
}

/// Names mount points by where they are, without links of the image.
///
/// libcontainer fails for one behind a link that dangles (an image's `/etc/resolv.conf` that leads into
/// `/run`) or that climbs above `/`; runc stays in the rootfs. Those of procfs and sysfs stay as they
/// are: both refuse a link there.
fn adapt_destinations(spec: &mut Spec, tree: &ContainerTree<'_>) {
    let Some(mut mounts) = spec.mounts().clone() else {
        return;
    };
    for (mount, destination) in mounts.iter_mut().zip(tree.destinations()) {
        if !matches!(mount.typ().as_deref(), Some("proc" | "sysfs")) {
            mount.set_destination(destination.to_owned());
        }
    }
    spec.set_mounts(Some(mounts));
}

/// Says options that libcontainer drops in words that reach the kernel.
///
/// `nosymfollow` is known to it only for whole trees. `sync` and `dirsync` are flags of a file system,
/// which it passes as parameters of it (fsconfig(2)) if they look like one; a bind mount has none.
fn adapt_mount_options(spec: &mut Spec) {
    let Some(mut mounts) = spec.mounts().clone() else {
        return;
    };
    for mount in &mut mounts {
        let is_bind = is_bind(mount);
        let Some(mut options) = mount.options().clone() else {
            continue;
        };
        for option in &mut options {
            let said = match option.as_str() {
                "nosymfollow" => "rnosymfollow",
                "symfollow" => "rsymfollow",
                "sync" if !is_bind => "sync=1",
                "dirsync" if !is_bind => "dirsync=1",
                _ => continue,
            };
            *option = said.to_owned();
        }
        mount.set_options(Some(options));
    }
    spec.set_mounts(Some(mounts));
}

/// Has the `readonlyPaths` of the rootfs bound to themselves read-only, and nothing else: libcontainer
/// makes them noexec, nosuid and nodev, too, so that a program below one does not run.
///
/// Those of the kernel's file systems are that anyway. One in a volume stays with libcontainer: whoever
/// can change the volume could have another path bound. So does each where there is a user namespace:
/// there a bind mount is made before the volumes below it are in their places.
fn adapt_readonly_paths(spec: &mut Spec, tree: &ContainerTree<'_>) -> Result<(), Failure> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(());
    };
    let mut namespaces = linux.namespaces().iter().flatten();
    if namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return Ok(());
    }
    let mut kept = Vec::new();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for path in linux.readonly_paths().clone().unwrap_or_default() {
        let is_kernels = KERNEL_DIRECTORIES
            .iter()
            .any(|directory| Path::new(&path).starts_with(directory));
        if is_kernels {
            kept.push(path);
            continue;
        }
        let place = tree.find(Path::new(&path))?;
        let Some(source) = tree.on_host(&place.path).filter(|_| place.mount.is_none()) else {
            kept.push(path);
            continue;
        };
        // As for runc, what is not there needs no protection.
        if source.exists() {
            let options = ["rbind", "ro"].map(ToOwned::to_owned);
            let mount = MountBuilder::default()
                .destination(place.path)
                .typ("bind")
                .source(source)
                .options(options)
                .build()
                .map_err(|error| Failure::from_error(ErrorClass::Internal, &error))?;
            mounts.push(mount);
        }
    }
    if linux.readonly_paths().iter().flatten().count() != kept.len() {
        linux.set_readonly_paths(Some(kept));
        spec.set_linux(Some(linux));
        spec.set_mounts(Some(mounts));
    }
    Ok(())
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
/// libcontainer mounts them writable whatever the spec says, so that root in the container could
/// lift its own limits; and it finds what to mount by the process that has init's process id, as init
/// sees it, in the host's `/proc`, which in a PID namespace that exists already is any process.
fn adapt_cgroup_mounts(spec: &mut Spec) -> Result<(), Failure> {
    let is_cgroup = |mount: &Mount| mount.typ().as_deref() == Some("cgroup");
    let has_mount = spec.mounts().iter().flatten().any(is_cgroup);
    if !has_mount || is_unified()? {
        return Ok(());
    }
    let linux = spec.linux().clone();
    let path = linux
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    let (Some(mut linux), Some(path)) = (linux.clone(), path.map(|path| plain_path(path))) else {
        return Ok(());
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Failure::internal(format!("cannot read /proc/self/mountinfo: {error}")))?;
    let hierarchies = hierarchies(&table);
    let mut mounts = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        if !is_cgroup(mount) {
            mounts.push(mount.clone());
            continue;
        }
        let read_only = is_read_only(mount);
        mounts.extend(
            bind_mounts(mount.destination(), &path, &hierarchies, read_only)
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

/// A hierarchy of cgroup v1: where the host has it, and the names that a container sees it by: that
/// of the directory, and those of the controllers that share it.
type Hierarchy = (PathBuf, BTreeSet<String>);

/// The hierarchies in a mountinfo table in which libcgroups makes cgroups.
fn hierarchies(table: &str) -> Vec<Hierarchy> {
    let of_line = |line: &str| {
        let (_, after) = line.split_once(" - cgroup ")?;
        let options = after.split(' ').nth(1)?.split(',');
        let mut names: BTreeSet<String> = options
            .filter(|option| CONTROLLERS.contains(option))
            .map(ToOwned::to_owned)
            .collect();
        let root = mount_points(line).next()?;
        if names.is_empty() || !root.starts_with(DEFAULT_CGROUP_ROOT) {
            return None;
        }
        names.insert(root.file_name()?.to_str()?.to_owned());
        Some((root, names))
    };
    table.lines().filter_map(of_line).collect()
}

fn bind_mounts(
    destination: &Path,
    path: &Path,
    hierarchies: &[Hierarchy],
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
    for (root, names) in hierarchies {
        for name in names {
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
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_shows_the_containers_own_folder() {
        let table = "\
            1 0 0:1 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n\
            2 0 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            3 0 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            4 0 0:4 / /elsewhere/pids rw - cgroup cgroup rw,pids\n\
            5 0 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let hierarchies = hierarchies(table);
        let mounts = bind_mounts(
            Path::new("/sys/fs/cgroup"),
            Path::new("pods/a"),
            &hierarchies,
            true,
        )
        .unwrap();
        let shown: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.destination().as_path(), mount.source().as_deref()))
            .collect();
        assert_eq!(shown[0].0, Path::new("/sys/fs/cgroup"));
        let names: Vec<_> = shown
            .iter()
            .skip(1)
            .filter_map(|it| it.0.file_name())
            .collect();
        assert_eq!(names, ["cpu", "cpu,cpuacct", "cpuacct", "memory"]);
        assert_eq!(
            shown[4],
            (
                Path::new("/sys/fs/cgroup/memory"),
                Some(Path::new("/sys/fs/cgroup/memory/pods/a"))
            )
        );
        let options = mounts[4].options().clone().unwrap();
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
        let rootfs = tempfile::tempdir().unwrap();
        let adapt = |spec: &Spec| {
            let tree = ContainerTree::new(spec, rootfs.path()).unwrap();
            adapt(spec, &tree, false).unwrap()
        };
        assert_eq!(adapt(&spec("shared", true)).0, None);
        let adapted = adapt(&spec("rslave", false)).0.unwrap();
        let process = adapted.process().clone().unwrap();
        assert_eq!(process.no_new_privileges(), None);
        let linux = adapted.linux().clone().unwrap();
        assert_eq!(linux.rootfs_propagation().as_deref(), Some("slave"));
    }

    fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source("/source")
            .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    #[test]
    fn mount_points_are_named_without_links() {
        let rootfs = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(rootfs.path().join("etc")).unwrap();
        let link = |target: &str, at: &str| {
            std::os::unix::fs::symlink(target, rootfs.path().join(at)).unwrap();
        };
        link("../run/systemd/resolv.conf", "etc/resolv.conf");
        link("../../../../climbs", "up");
        let spec = oci_spec::runtime::SpecBuilder::default()
            .mounts(vec![
                mount("/etc/resolv.conf", "bind", &["bind"]),
                mount("/up/a", "tmpfs", &[]),
            ])
            .build()
            .unwrap();
        let tree = ContainerTree::new(&spec, rootfs.path()).unwrap();
        let adapted = adapt(&spec, &tree, false).unwrap().0.unwrap();
        let destinations: Vec<_> = adapted
            .mounts()
            .iter()
            .flatten()
            .map(|mount| mount.destination().clone())
            .collect();
        assert_eq!(
            destinations,
            ["/run/systemd/resolv.conf", "/climbs/a"].map(std::path::PathBuf::from)
        );
    }

    #[test]
    fn options_reach_the_kernel() {
        let options = |kind: &str| {
            let mut spec = oci_spec::runtime::SpecBuilder::default()
                .mounts(vec![mount(
                    "/a",
                    kind,
                    &["nosymfollow", "sync", "dirsync", "ro"],
                )])
                .build()
                .unwrap();
            adapt_mount_options(&mut spec);
            let mounts = spec.mounts().clone().unwrap();
            mounts[0].options().clone().unwrap()
        };
        assert_eq!(
            options("tmpfs"),
            ["rnosymfollow", "sync=1", "dirsync=1", "ro"]
        );
        assert_eq!(options("bind"), ["rnosymfollow", "sync", "dirsync", "ro"]);
    }

    #[test]
    fn readonly_paths_of_the_rootfs_are_only_read_only() {
        let rootfs = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(rootfs.path().join("opt/tools")).unwrap();
        std::os::unix::fs::symlink("/opt", rootfs.path().join("link")).unwrap();
        let paths = ["/proc/sys", "/link/tools", "/missing", "/volume/a"];
        let linux = oci_spec::runtime::LinuxBuilder::default()
            .readonly_paths(paths.map(ToOwned::to_owned))
            .build()
            .unwrap();
        let spec = oci_spec::runtime::SpecBuilder::default()
            .mounts(vec![mount("/volume", "bind", &["bind"])])
            .linux(linux)
            .build()
            .unwrap();
        let tree = ContainerTree::new(&spec, rootfs.path()).unwrap();
        let mut adapted = spec.clone();
        adapt_readonly_paths(&mut adapted, &tree).unwrap();
        let kept = adapted.linux().clone().unwrap().readonly_paths().clone();
        assert_eq!(kept.unwrap(), ["/proc/sys", "/volume/a"]);
        let mounts = adapted.mounts().clone().unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1].destination(), Path::new("/opt/tools"));
        assert_eq!(
            mounts[1].source().as_deref(),
            Some(rootfs.path().join("opt/tools").as_path())
        );
    }
}
