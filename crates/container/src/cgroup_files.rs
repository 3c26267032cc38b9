//! Files of a container's cgroup that libcgroups has no access to.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcgroups::common::{CgroupSetup, DEFAULT_CGROUP_ROOT, get_cgroup_setup};
use libcgroups::v1::ControllerType;
use libcgroups::v1::util::get_subsystem_mount_point;
use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::Spec;

use crate::manage::ContainerLocation;

/// There when systemd is the host's init (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Where systemd has a file for each unit that it was asked for.
const SYSTEMD_UNITS: &str = "/run/systemd/transient";
/// Where the D-Bus specification has the bus, and where libcgroups looks for it: the shim has none
/// of containerd's environment, which might name another.
const SYSTEM_BUS: &str = "/var/run/dbus/system_bus_socket";
/// How long systemd may take to remove an empty cgroup.
const SYSTEMD_LIMIT: Duration = Duration::from_secs(5);
/// Counts kills for want of memory on cgroup v1.
pub(crate) const MEMORY_EVENTS_V1: &str = "memory.oom_control";
/// Counts kills for want of memory on cgroup v2.
pub(crate) const MEMORY_EVENTS_V2: &str = "memory.events";

/// Whether a cgroup path has the form `slice:prefix:name`, which asks for systemd's driver.
pub(crate) fn is_systemd(path: &Path) -> bool {
    path.to_string_lossy().split(':').count() == 3
}

/// Whether the container's cgroup is systemd's to make.
///
/// Refused where it cannot be: a path for systemd must not become a plain path with colons that
/// nobody accounts for.
pub(crate) fn uses_systemd(spec: &Spec) -> Result<bool, Failure> {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    if !path.is_some_and(|path| is_systemd(path)) {
        return Ok(false);
    }
    if !is_unified()? {
        return Err(Failure::new(
            ErrorClass::Unimplemented,
            "the systemd cgroup driver needs cgroup v2, and this host has v1; configure the cgroupfs driver (SystemdCgroup = false)",
        ));
    }
    if !Path::new(SYSTEMD).is_dir() {
        return Err(Failure::new(
            ErrorClass::FailedPrecondition,
            "systemd is not running on this host; configure the cgroupfs driver (SystemdCgroup = false)",
        ));
    }
    require_bus()?;
    if let Some(path) = path {
        require_no_unit(&plain_path(path))?;
    }
    Ok(true)
}

/// Refuses a scope whose name another one has, in whatever slice: libcgroups would put the
/// container into that one, and stop it when the container is removed.
fn require_no_unit(path: &Path) -> Result<(), Failure> {
    let Some(unit) = path.file_name() else {
        return Ok(());
    };
    let file = Path::new(SYSTEMD_UNITS).join(unit);
    // That of a container of this name that was just removed may take its time.
    let end = Instant::now() + SYSTEMD_LIMIT;
    while file.exists() {
        if Instant::now() > end {
            return Err(Failure::new(
                ErrorClass::AlreadyExists,
                format!(
                    "systemd has a unit {} already; give the container another cgroup (linux.cgroupsPath)",
                    unit.display()
                ),
            ));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Refuses to ask systemd without the system bus.
///
/// libcgroups would use systemd's private socket then, where systemd at times answers nothing to
/// a call that comes with the end of the handshake (decision 0018).
pub(crate) fn require_bus() -> Result<(), Failure> {
    UnixStream::connect(SYSTEM_BUS).map(drop).map_err(|error| {
        Failure::new(
            ErrorClass::FailedPrecondition,
            format!(
                "systemd cannot be asked for a cgroup: no system bus answers at {SYSTEM_BUS}: {error}; start dbus, or configure the cgroupfs driver (SystemdCgroup = false)"
            ),
        )
    })
}

/// The path of a cgroup below the root of the hierarchy, also of one that systemd makes: a scope
/// in its slice, in turn in the slices that the name is made of (systemd.slice(5)).
pub(crate) fn plain_path(path: &Path) -> PathBuf {
    let text = path.to_string_lossy();
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return path.strip_prefix("/").unwrap_or(path).to_owned();
    };
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    let mut folder = PathBuf::new();
    let mut so_far = String::new();
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    for part in stem.split('-').filter(|part| !part.is_empty()) {
        so_far.push_str(part);
        folder.push(format!("{so_far}.slice"));
        so_far.push('-');
    }
    folder.push(if name.ends_with(".slice") {
        name.to_owned()
    } else {
        format!("{prefix}-{name}.scope")
    });
    folder
}

/// Whether the host has the unified hierarchy alone.
pub(crate) fn is_unified() -> Result<bool, Failure> {
    match get_cgroup_setup() {
        Ok(setup) => Ok(matches!(setup, CgroupSetup::Unified)),
        Err(error) => Err(Failure::from_error(ErrorClass::Internal, &error)),
    }
}

/// The folder of the container's cgroup in the hierarchy that has `controller`.
pub(crate) fn folder(
    location: &ContainerLocation,
    controller: ControllerType,
) -> Result<PathBuf, Failure> {
    let path = location.cgroup_path().ok_or_else(|| {
        Failure::new(
            ErrorClass::NotFound,
            format!("container {} has no cgroup", location.id),
        )
    })?;
    let mut root = PathBuf::from(DEFAULT_CGROUP_ROOT);
    if !is_unified()? {
        root.push(controller.to_string());
        // Two controllers may be one hierarchy, and no link may have the name of each.
        if !root.is_dir() {
            root = get_subsystem_mount_point(&controller)
                .map_err(|error| Failure::from_error(ErrorClass::Internal, &error))?;
        }
    }
    Ok(root.join(plain_path(&path)))
}

/// Puts this process into the container's cgroup, in every hierarchy.
///
/// On cgroup v2 a container may have moved its init further down, and then the kernel refuses
/// its own cgroup ("no internal processes"): this process follows init there, as with runc.
pub(crate) fn join(location: &ContainerLocation, init: i32) -> Result<(), Failure> {
    let failed = |folder: &Path, error: std::io::Error| {
        let message = format!("cannot join the cgroup {}: {error}", folder.display());
        location.or_ended(Failure::internal(message), ErrorClass::FailedPrecondition)
    };
    // 0 stands for the process that writes.
    let enter = |folder: &Path| std::fs::write(folder.join("cgroup.procs"), "0");
    if is_unified()? {
        let folder = folder(location, ControllerType::Memory)?;
        return match enter(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                let below = unified_cgroup_of(init).map_err(|error| failed(&folder, error))?;
                enter(&below).map_err(|error| failed(&below, error))
            }
            entered => entered.map_err(|error| failed(&folder, error)),
        };
    }
    // libcgroups makes none where the container asks for nothing.
    for folder in folders(location)? {
        enter(&folder).map_err(|error| failed(&folder, error))?;
    }
    Ok(())
}

/// The folders of the container's cgroup, in every hierarchy that has one.
fn folders(location: &ContainerLocation) -> Result<Vec<PathBuf>, Failure> {
    let Some(path) = location.cgroup_path() else {
        return Ok(Vec::new());
    };
    let path = plain_path(&path);
    let root = PathBuf::from(DEFAULT_CGROUP_ROOT);
    if is_unified()? {
        let folder = root.join(path);
        return Ok(folder.is_dir().then_some(folder).into_iter().collect());
    }
    // Hierarchies are folders here, and links to them. The table of mounts says so too, but
    // reading it takes time that grows with all containers of the node.
    let entries = std::fs::read_dir(&root)
        .map_err(|error| Failure::internal(format!("cannot read {}: {error}", root.display())))?;
    let folders = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path().join(&path));
    Ok(folders.filter(|folder| folder.is_dir()).collect())
}

/// Refuses a cgroup that others' processes are in, as runc does since 1.2: the container's limits
/// would hold for them, and its removal would kill them.
pub(crate) fn require_empty(location: &ContainerLocation) -> Result<(), Failure> {
    for folder in folders(location)? {
        let table = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let count = table.lines().count();
        if count > 0 {
            return Err(Failure::new(
                ErrorClass::FailedPrecondition,
                format!(
                    "its cgroup {} is not empty: {count} process(es) found; give the container a cgroup of its own (linux.cgroupsPath)",
                    folder.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Whether any hierarchy has the container's cgroup.
pub(crate) fn exists(location: &ContainerLocation) -> bool {
    folders(location).is_ok_and(|folders| !folders.is_empty())
}

/// Waits for a while until systemd, if it made the container's cgroup, has removed it: it answers
/// before that.
pub(crate) fn await_systemd(location: &ContainerLocation) {
    if !location.cgroup_path().is_some_and(|path| is_systemd(&path)) {
        return;
    }
    let end = Instant::now() + SYSTEMD_LIMIT;
    while exists(location) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes the cgroups that a container has made below its own, whose processes have ended. The
/// kernel removes none that has others in it.
pub(crate) fn remove_below(location: &ContainerLocation) {
    for folder in folders(location).unwrap_or_default() {
        remove_folders_in(&folder);
    }
}

fn remove_folders_in(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folders_in(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

/// The folder of a process's cgroup on the unified hierarchy (cgroups(7), /proc/pid/cgroup).
fn unified_cgroup_of(pid: i32) -> std::io::Result<PathBuf> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(Path::new(DEFAULT_CGROUP_ROOT).join(path.unwrap_or_default()))
}

/// A file of lines of a name and a number. Empty if there is no such file.
pub(crate) fn read_keyed(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_names_become_its_folders() {
        for (path, folder) in [
            ("/default/a", "default/a"),
            ("default/a", "default/a"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:abc",
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope",
            ),
            (":docker:abc", "system.slice/docker-abc.scope"),
            ("-.slice:docker:abc", "docker-abc.scope"),
            ("a.slice::b-c.slice", "a.slice/b-c.slice"),
        ] {
            assert_eq!(plain_path(Path::new(path)), Path::new(folder), "{path}");
        }
        assert!(is_systemd(Path::new(":docker:abc")));
        assert!(!is_systemd(Path::new("/a:b/c")));
    }
}
