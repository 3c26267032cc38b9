//! What a guest sees of the file system: the rootfs and the volumes, no procfs, no sysfs, no
//! device node.
//!
//! A native program needs `/proc` and `/dev/null`; for a guest they are nothing but a way out.
//! So its container is built without the kernel's file systems ([`restrict`]), and once it is
//! built, what came in through a volume is unmounted and no device of any mount can be opened
//! any more ([`seal`]). The kernel enforces both, whatever path the guest takes.
// mount_setattr has no safe form.
#![allow(unsafe_code)]

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use lighter_core::Failure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::{guest_privileges, namespace};

/// File systems that show or steer the kernel, by the names of /proc/filesystems.
const KERNEL_FILE_SYSTEMS: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "mqueue",
    "nfsd",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Folders that hold nothing of the image.
const KERNEL_FOLDERS: &[&str] = &["/proc", "/sys", "/dev"];

/// The spec of a guest's container: without mounts of kernel file systems (but `/proc`, which
/// [`seal`] takes away), without devices, with an absolute path of the rootfs, so that it can be read from another folder.
///
/// Fails if the container shares its mount namespace: what is done to it would be done to
/// whoever it shares it with.
pub(crate) fn restrict(mut spec: Spec, rootfs: &Path) -> Result<Spec, Failure> {
    if !has_own(&spec, LinuxNamespaceType::Mount) {
        return Err(Failure::invalid(
            "a Wasm container needs a mount namespace of its own: add {\"type\": \"mount\"} to linux.namespaces",
        ));
    }
    set_root(&mut spec, rootfs);
    guest_privileges::narrow_spec(&mut spec);
    if let Some(mut process) = spec.process().clone() {
        // The guest's terminal is not one of the container's: it has no devpts.
        process.set_terminal(None);
        spec.set_process(Some(process));
    }
    let mounts = spec.mounts().clone().map(|mounts| {
        let kept = mounts.into_iter().filter(|mount| {
            let kind = mount.typ().as_deref().unwrap_or_default();
            // libcontainer's init needs /proc; it goes when init has been set up.
            kind == "proc" || !KERNEL_FILE_SYSTEMS.contains(&kind)
        });
        kept.collect()
    });
    spec.set_mounts(mounts);
    if let Some(mut linux) = spec.linux().clone() {
        linux.set_devices(None);
        linux.set_masked_paths(linux.masked_paths().clone().map(outside_of_kernel_folders));
        linux.set_readonly_paths(
            linux
                .readonly_paths()
                .clone()
                .map(outside_of_kernel_folders),
        );
        spec.set_linux(Some(linux));
    }
    Ok(spec)
}

/// Names the rootfs by its absolute path, so that the spec can be read from another folder.
pub(crate) fn set_root(spec: &mut Spec, rootfs: &Path) {
    if let Some(mut root) = spec.root().clone() {
        root.set_path(rootfs.to_owned());
        spec.set_root(Some(root));
    }
}

fn outside_of_kernel_folders(paths: Vec<String>) -> Vec<String> {
    let inside = |path: &String| {
        KERNEL_FOLDERS
            .iter()
            .any(|folder| Path::new(path).starts_with(folder))
    };
    paths.into_iter().filter(|path| !inside(path)).collect()
}

/// Whether the container gets a new namespace of this kind, not one that exists already.
pub(crate) fn has_own(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    spec.linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == kind && namespace.path().is_none())
}

/// Closes what is left of the kernel in the container of `pid`, a created init that waits.
///
/// Works in that process's mount namespace and comes back: only for a forked operation, which
/// has one thread.
pub(crate) fn seal(pid: i32) -> Result<(), Failure> {
    let table_path = format!("/proc/{pid}/mountinfo");
    let table =
        std::fs::read_to_string(&table_path).map_err(|error| failed(&table_path, &error))?;
    namespace::within(pid, CloneFlags::CLONE_NEWNS, || seal_here(&table))?;
    let table =
        std::fs::read_to_string(&table_path).map_err(|error| failed(&table_path, &error))?;
    match kernel_mounts(&table).first() {
        None => Ok(()),
        Some(left) => Err(Failure::invalid(format!(
            "cannot take the kernel's file systems away from the guest: one is left at {}, below a volume that is mounted there; mount the volume somewhere else",
            left.display()
        ))),
    }
}

fn seal_here(table: &str) -> Result<(), Failure> {
    // What is unmounted here must not vanish from the host through a volume that shares its
    // mounts, and nothing that is mounted there later may come in.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&Path>, "/", None::<&Path>, private, None::<&Path>)
        .map_err(|error| failed("make all mounts private", &error))?;
    let devices = device_nodes(table);
    for path in kernel_mounts(table) {
        umount2(&path, MntFlags::MNT_DETACH)
            .map_err(|error| failed(&format!("unmount {}", path.display()), &error))?;
    }
    forbid_devices().map_err(|error| failed("mount_setattr", &error))?;
    remove_device_nodes(&devices);
    Ok(())
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!(
        "cannot seal the guest's file systems: {what}: {error}"
    ))
}

/// Mount points of kernel file systems in a mountinfo table, the innermost first.
pub fn kernel_mounts(table: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter(|line| KERNEL_FILE_SYSTEMS.contains(&file_system(line)))
        .filter_map(mount_point)
        .collect();
    found.reverse();
    found
}

/// All mount points in a mountinfo table, in its order.
pub fn mount_points(table: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(mount_point)
}

/// The file system type of a mountinfo line: the first field after the separator ` - `.
fn file_system(line: &str) -> &str {
    let after = line.split_once(" - ").map_or("", |(_, after)| after);
    after.split(' ').next().unwrap_or_default()
}

/// The mount point of a mountinfo line: the fifth field, in which the kernel escapes space,
/// tab, newline and backslash as octal numbers (proc_pid_mountinfo(5)).
fn mount_point(line: &str) -> Option<PathBuf> {
    let mut path = String::new();
    let mut rest = line.split(' ').nth(4)?;
    while let Some(at) = rest.find('\\') {
        let code = rest.get(at + 1..at + 4)?;
        path.push_str(&rest[..at]);
        path.push(u8::from_str_radix(code, 8).ok()?.into());
        rest = &rest[at + 4..];
    }
    path.push_str(rest);
    Some(path.into())
}

/// Makes device nodes on every mount below `/` useless, also those in volumes and images.
fn forbid_devices() -> std::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a NUL, and the structure lives and has the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// The default devices and links to /proc that libcontainer puts into `/dev`, if that is a tmpfs of this
/// container; in an image or a volume they stay, and cannot be opened.
fn device_nodes(table: &str) -> Vec<PathBuf> {
    let is_own = table.lines().any(|line| {
        file_system(line) == "tmpfs"
            && mount_point(line).is_some_and(|path| path == Path::new("/dev"))
    });
    if !is_own {
        return Vec::new();
    }
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let nodes = entries.filter(|entry| {
        // In a user namespace a device is a mount on a file. The type of the entry is the file's.
        let metadata = std::fs::symlink_metadata(entry.path());
        metadata.is_ok_and(|metadata| {
            let kind = metadata.file_type();
            kind.is_char_device() || kind.is_block_device() || kind.is_symlink()
        })
    });
    nodes.map(|entry| entry.path()).collect()
}

fn remove_device_nodes(devices: &[PathBuf]) {
    for path in devices {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() == std::io::ErrorKind::ResourceBusy
        {
            let _ = umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBuilder, LinuxNamespaceBuilder, MountBuilder, RootBuilder, SpecBuilder,
    };

    fn spec(namespaces: Vec<oci_spec::runtime::LinuxNamespace>) -> Spec {
        let mount = |destination: &str, kind: &str| {
            MountBuilder::default()
                .destination(destination)
                .typ(kind)
                .source("x")
                .build()
                .unwrap()
        };
        SpecBuilder::default()
            .root(RootBuilder::default().path("rootfs").build().unwrap())
            .mounts(vec![
                mount("/proc", "proc"),
                mount("/dev", "tmpfs"),
                mount("/dev/pts", "devpts"),
                mount("/sys", "sysfs"),
                mount("/sys/fs/cgroup", "cgroup"),
                mount("/dev/termination-log", "bind"),
                mount("/data", "bind"),
            ])
            .linux(
                LinuxBuilder::default()
                    .namespaces(namespaces)
                    .masked_paths(vec!["/proc/kcore".into(), "/secret".into()])
                    .build()
                    .unwrap(),
            )
            .build()
            .unwrap()
    }

    fn mount_namespace() -> oci_spec::runtime::LinuxNamespace {
        LinuxNamespaceBuilder::default()
            .typ(LinuxNamespaceType::Mount)
            .build()
            .unwrap()
    }

    #[test]
    fn volumes_stay_and_the_kernel_goes() {
        let spec = restrict(spec(vec![mount_namespace()]), Path::new("/bundle/rootfs")).unwrap();
        let destinations: Vec<_> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| mount.destination().clone())
            .collect();
        assert_eq!(
            destinations,
            ["/proc", "/dev", "/dev/termination-log", "/data"].map(PathBuf::from)
        );
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.masked_paths().as_ref().unwrap(), &["/secret"]);
        assert_eq!(
            spec.root().as_ref().unwrap().path(),
            Path::new("/bundle/rootfs")
        );
    }

    #[test]
    fn a_shared_mount_namespace_is_refused() {
        assert!(restrict(spec(vec![]), Path::new("/")).is_err());
        let mut shared = mount_namespace();
        shared.set_path(Some("/proc/1/ns/mnt".into()));
        assert!(restrict(spec(vec![shared]), Path::new("/")).is_err());
    }

    #[test]
    fn kernel_mounts_are_found_by_type_innermost_first() {
        let table = "\
            1 0 0:1 / / rw - overlay overlay rw\n\
            2 1 0:2 / /host\\040proc rw,nosuid shared:3 - proc proc rw\n\
            3 2 0:3 / /host\\040proc/sys/fs/binfmt_misc rw - binfmt_misc none rw\n\
            4 1 0:4 / /data rw - ext4 /dev/sda1 rw\n\
            not a line\n";
        assert_eq!(
            kernel_mounts(table),
            ["/host proc/sys/fs/binfmt_misc", "/host proc"].map(PathBuf::from)
        );
    }
}
