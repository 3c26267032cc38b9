//! What a native program sees that is executed in a guest's container: `/proc`, `/sys` and
//! `/dev` as in a Linux container.
//!
//! The container has none of them ([`crate::guest_view`]), and the guest must not get them when
//! somebody looks around in its container with a shell. So the program has a mount namespace of
//! its own, a copy of the container's, and they are mounted there, by the spec that containerd
//! wrote. The copy goes with the program and its children.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use libcontainer::rootfs::Device;
use libcontainer::rootfs::utils::{default_devices, parse_mount};
use lighter_core::{ErrorClass, Failure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{LinuxDevice, LinuxNamespaceType, Mount, Spec};

use crate::cgroup_files::is_unified;
use crate::guest_view::{has_own, mount_points};
use crate::id_mappings::{IdMappings, to_host};

/// Where the kernel's file systems are, in the order in which they are mounted.
const PLACES: [&str; 6] = [
    DEV,
    PROC,
    "/sys",
    "/sys/fs/cgroup",
    "/dev/pts",
    "/dev/mqueue",
];
const DEV: &str = "/dev";
const PROC: &str = "/proc";

/// Links into `/proc` that every `/dev` has.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// How file systems that steer the kernel are mounted. Read-only as a whole, and not by
/// `readonlyPaths` alone: the guest runs meanwhile, and can put a link or another folder where a path
/// leads, so that a path protects something else (as in CVE-2025-31133 and CVE-2025-52881 of runc).
const STEERS_NOTHING: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// What will be mounted. Made where the host's files are, as the container has no `/proc`.
pub(crate) struct NativeView {
    mounts: Vec<Mount>,
    devices: Vec<LinuxDevice>,
    masked: Vec<String>,
    read_only: Vec<String>,
    /// Volumes below `/dev`, the outermost ones, in their order.
    volumes: Vec<PathBuf>,
}

impl NativeView {
    /// For the container of `spec`, whose init has the mounts `table` (of its mountinfo). None
    /// for a spec without `/proc`.
    pub(crate) fn of(spec: &Spec, table: &str) -> Result<Option<Self>, Failure> {
        // A cgroup v1 would show the host's tree.
        let shows_cgroup = is_unified()? && has_own(spec, LinuxNamespaceType::Cgroup);
        let ids = IdMappings::of_spec(spec);
        let mounts: Vec<Mount> = PLACES
            .iter()
            .filter_map(|place| {
                let mut mounts = spec.mounts().iter().flatten();
                mounts.find(|mount| mount.destination() == Path::new(place) && is_kernels(mount))
            })
            .filter(|mount| kind(mount) != "cgroup" || shows_cgroup)
            .map(|mount| with_host_ids(mount, &ids))
            .collect();
        if !mounts.iter().any(|mount| kind(mount) == "proc") {
            return Ok(None);
        }
        let linux = spec.linux().clone().unwrap_or_default();
        let mut devices = linux.devices().clone().unwrap_or_default();
        for device in default_devices() {
            if devices.iter().all(|known| known.path() != device.path()) {
                devices.push(device);
            }
        }
        Ok(Some(Self {
            mounts,
            devices,
            masked: linux.masked_paths().clone().unwrap_or_default(),
            read_only: linux.readonly_paths().clone().unwrap_or_default(),
            volumes: outermost_below(Path::new(DEV), mount_points(table)),
        }))
    }

    /// Mounts it in a new mount namespace, which is this process's from then on.
    ///
    /// For a process that is in the container's other namespaces and is root there; if there is a user
    /// namespace, it is the host's root, and not in that yet. Then the mounts are the host's, too, and root
    /// of the container cannot change them.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("unshare", error))?;
        for wanted in &self.mounts {
            let place = wanted.destination();
            if place == Path::new(DEV) {
                self.mount_dev(wanted)?;
            } else {
                mount_one(wanted, place)?;
            }
        }
        let path = |text: &String| PathBuf::from(text);
        for masked in self.masked.iter().map(path).filter(|it| is_of_kernel(it)) {
            mask(&masked).map_err(|error| failed(&format!("mask {}", masked.display()), error))?;
        }
        for path in self
            .read_only
            .iter()
            .map(path)
            .filter(|it| is_of_kernel(it))
        {
            make_read_only(&path)
                .map_err(|error| failed(&format!("protect {}", path.display()), error))?;
        }
        Ok(())
    }

    /// A `/dev` of the program's own, with the volumes that the container's has.
    fn mount_dev(&self, wanted: &Mount) -> Result<(), Failure> {
        // Made where `/proc` will be: once it is in its place, it covers the volumes.
        let unfinished = Path::new(PROC);
        mount_one(wanted, unfinished)?;
        for volume in &self.volumes {
            let place = unfinished.join(volume.strip_prefix(DEV).unwrap_or(volume));
            bind(volume, &place)
                .map_err(|error| failed(&format!("keep {}", volume.display()), error))?;
        }
        mount(
            Some(unfinished),
            DEV,
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .map_err(|error| failed("mount /dev", error))?;
        Device::new()
            .create_devices(Path::new("/"), &self.devices, false)
            .map_err(|error| {
                let failure = Failure::from_error(ErrorClass::Internal, &error);
                Failure::internal(format!("cannot make the devices of /dev: {failure}"))
            })?;
        for (target, link) in LINKS {
            symlink(target, link).map_err(|error| {
                Failure::internal(format!("cannot make the link {link}: {error}"))
            })?;
        }
        Ok(())
    }
}

/// A file system that the host's root mounts for a container with a user namespace: its files are those
/// of the container's root, as they would be if that had mounted it.
fn with_host_ids(mount: &Mount, ids: &IdMappings) -> Mount {
    let mut mount = mount.clone();
    let (Some(uid), Some(gid)) = (to_host(&ids.uids, 0), to_host(&ids.gids, 0)) else {
        return mount;
    };
    let owned_by_mounter = kind(&mount) == "tmpfs";
    let mut options = mount.options().clone().unwrap_or_default();
    for (name, ids, root) in [("uid=", &ids.uids, uid), ("gid=", &ids.gids, gid)] {
        let mut named = false;
        for option in &mut options {
            let id = option.strip_prefix(name).and_then(|id| id.parse().ok());
            if let Some(id) = id {
                named = true;
                *option = format!("{name}{}", to_host(ids, id).unwrap_or(root));
            }
        }
        if owned_by_mounter && !named {
            options.push(format!("{name}{root}"));
        }
    }
    mount.set_options(Some(options));
    mount
}

fn kind(mount: &Mount) -> &str {
    mount.typ().as_deref().unwrap_or_default()
}

/// Whether this is a file system of the kernel or a `/dev`, and no volume.
fn is_kernels(mount: &Mount) -> bool {
    match kind(mount) {
        "proc" | "sysfs" | "cgroup" | "devpts" | "mqueue" => true,
        "tmpfs" => mount.destination() == Path::new(DEV),
        _ => false,
    }
}

fn is_of_kernel(path: &Path) -> bool {
    path.starts_with(PROC) || path.starts_with("/sys")
}

/// Those of `mounts` that are below `folder`, without what is below another of them.
fn outermost_below(folder: &Path, mounts: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in mounts {
        let is_new = !found.iter().any(|known| path.starts_with(known));
        if path != folder && path.starts_with(folder) && is_new {
            found.push(path);
        }
    }
    found
}

/// Mounts what `wanted` describes at `place`. An image without such a folder, whose root is
/// read-only, has no place for it, and goes without.
fn mount_one(wanted: &Mount, place: &Path) -> Result<(), Failure> {
    let options = parse_mount(wanted)
        .map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))?;
    if fs::create_dir_all(place).is_err() && !place.is_dir() {
        return Ok(());
    }
    let kind = match kind(wanted) {
        "cgroup" => "cgroup2",
        kind => kind,
    };
    let what = format!("mount {kind} at {}", wanted.destination().display());
    // libcontainer's are those of another version of the crate.
    let mut flags = MsFlags::from_bits_retain(options.flags.bits());
    if matches!(kind, "proc" | "sysfs" | "cgroup2") {
        flags |= STEERS_NOTHING;
    }
    let source = wanted.source().as_deref().unwrap_or(Path::new(kind));
    let data = (kind != "cgroup2").then_some(options.data.join(","));
    mount(Some(source), place, Some(kind), flags, data.as_deref())
        .map_err(|error| failed(&what, error))
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    if fs::metadata(from)?.is_dir() {
        fs::create_dir_all(to)?;
    } else {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(to)?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}

/// Puts nothing over a file or a folder, as the runtime specification wants it (maskedPaths).
fn mask(path: &Path) -> io::Result<()> {
    let bound = mount(
        Some("/dev/null"),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    );
    match bound {
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ENOTDIR) => Ok(mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            None::<&str>,
        )?),
        other => Ok(other?),
    }
}

/// Lets nobody write below a path (readonlyPaths of the runtime specification).
fn make_read_only(path: &Path) -> io::Result<()> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    match mount(Some(path), path, None::<&str>, bind, None::<&str>) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    }
    let flags = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    Ok(mount(Some(path), path, None::<&str>, flags, None::<&str>)?)
}

fn failed(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::internal(format!(
        "cannot show the program the kernel's file systems: {what}: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hosts_root_mounts_belongs_to_the_containers() {
        let mount = |kind: &str, options: &[&str]| {
            oci_spec::runtime::MountBuilder::default()
                .destination("/dev")
                .typ(kind)
                .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
                .build()
                .unwrap()
        };
        let ids = IdMappings::from_options("0:1000:10", "0:2000:10").unwrap();
        let options = |mount: &Mount, ids| with_host_ids(mount, ids).options().clone().unwrap();
        let tmpfs = mount("tmpfs", &["mode=755"]);
        assert_eq!(options(&tmpfs, &ids), ["mode=755", "uid=1000", "gid=2000"]);
        let none = IdMappings::default();
        assert_eq!(options(&tmpfs, &none), ["mode=755"]);
        let devpts = mount("devpts", &["gid=5", "mode=620"]);
        assert_eq!(options(&devpts, &ids), ["gid=2005", "mode=620"]);
        let unmapped = mount("tmpfs", &["uid=3", "gid=50"]);
        assert_eq!(options(&unmapped, &ids), ["uid=1003", "gid=2000"]);
    }

    #[test]
    fn volumes_below_dev_are_found_once() {
        let mounts = [
            "/",
            "/dev",
            "/dev/shm",
            "/dev/shm/deeper",
            "/devices",
            "/dev/log",
        ];
        let found = outermost_below(Path::new(DEV), mounts.iter().map(PathBuf::from));
        assert_eq!(found, [Path::new("/dev/shm"), Path::new("/dev/log")]);
    }
}
