//! Where the paths of a spec lead in the container, found before libcontainer makes it, and what is
//! refused for where it leads.
//!
//! A path is followed as the kernel will follow it: through the links of the image and of the volumes that
//! are mounted before it. Who can change a volume meanwhile can still lead libcontainer elsewhere in
//! the container, but not out of it: it resolves destinations below the rootfs.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

use lighter_core::Failure;
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};
use oci_spec::runtime::{Mount, Spec};

/// As many links as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Files of procfs that lxcfs replaces, the same as runc allows (`checkProcMount`).
const REPLACED_PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// The file system of a container, as its spec describes it.
pub(crate) struct ContainerTree<'a> {
    rootfs: &'a Path,
    /// In the order of the spec, each with the path that it covers.
    mounts: Vec<(PathBuf, &'a Mount)>,
}

/// A path of the container.
#[derive(Debug, PartialEq)]
pub(crate) struct Place<'a> {
    /// Absolute, without links.
    pub(crate) path: PathBuf,
    /// The mount that it is in, and the path that this covers; none for the rootfs.
    pub(crate) mount: Option<(PathBuf, &'a Mount)>,
}

impl<'a> ContainerTree<'a> {
    /// The tree of a spec whose rootfs is at `rootfs`.
    ///
    /// # Errors
    /// InvalidArgument for a spec or an image that would have something mounted or made where it
    /// must not be:
    /// - on or below `/proc`, but for procfs itself and what lxcfs replaces. runc refuses the same: a
    ///   volume there would pass for the kernel, and for a guest, procfs would be left below it.
    /// - on `/`, which would hide the other mounts and not remove them.
    /// - in `/dev`, if that is a link of the image: libcontainer makes links and device nodes in it,
    ///   by a path that it would follow on the host.
    /// - a device node in a directory of a volume, which could be replaced by a link meanwhile.
    pub(crate) fn new(spec: &'a Spec, rootfs: &'a Path) -> Result<Self, Failure> {
        let mut tree = Self {
            rootfs,
            mounts: Vec::new(),
        };
        let dev = tree.find(Path::new("/dev"))?.path;
        if dev != Path::new("/dev") {
            return Err(Failure::invalid(format!(
                "/dev of the image is a link to {}, and a container's devices are made in /dev; make it a directory",
                dev.display()
            )));
        }
        for mount in spec.mounts().iter().flatten() {
            let place = tree.find(mount.destination())?;
            check_mount(mount, &place.path)?;
            tree.mounts.push((place.path, mount));
        }
        let devices = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.devices().as_ref());
        for device in devices.into_iter().flatten() {
            let parent = device.path().parent().unwrap_or(Path::new("/"));
            if parent != Path::new("/dev")
                && let Some((destination, _)) =
                    tree.find(parent)?.mount.filter(|(_, mount)| is_bind(mount))
            {
                return Err(Failure::invalid(format!(
                    "cannot make the device {}: it is in the volume at {}; give it another path",
                    device.path().display(),
                    destination.display()
                )));
            }
        }
        Ok(tree)
    }

    /// The paths that the mounts of the spec cover, in its order.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().map(|(covered, _)| covered.as_path())
    }

    /// Where `path` leads in the container. What does not exist is no link.
    pub(crate) fn find(&self, path: &Path) -> Result<Place<'a>, Failure> {
        let mut found = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = parts(path);
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            if part == ".." {
                found.pop();
                continue;
            }
            found.push(&part);
            // What is mounted is no link.
            let is_mount = self.mounts.iter().any(|(covered, _)| *covered == found);
            let target = match self.on_host(&found) {
                Some(host) if !is_mount => fs::read_link(host).ok(),
                _ => None,
            };
            let Some(target) = target else {
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Failure::invalid(format!(
                    "{}: too many levels of symbolic links",
                    path.display()
                )));
            }
            found.pop();
            if target.is_absolute() {
                found = PathBuf::from("/");
            }
            for part in parts(&target).into_iter().rev() {
                rest.push_front(part);
            }
        }
        Ok(Place {
            mount: self.covering(&found).cloned(),
            path: found,
        })
    }

    /// The mount that `path`, which has no links, is in: the last one counts, it covers others.
    fn covering(&self, path: &Path) -> Option<&(PathBuf, &'a Mount)> {
        let mut mounts = self.mounts.iter().rev();
        mounts.find(|(covered, _)| path.starts_with(covered))
    }

    /// The path on the host of `path`, which has no links. None in a file system that is not
    /// there yet.
    pub(crate) fn on_host(&self, path: &Path) -> Option<PathBuf> {
        let (root, covered) = match self.covering(path) {
            None => (self.rootfs, Path::new("/")),
            Some((covered, mount)) if is_bind(mount) => {
                (mount.source().as_deref()?, covered.as_path())
            }
            Some(_) => return None,
        };
        let rest = path.strip_prefix(covered).ok()?;
        // A path that ends in a slash would be followed.
        Some(match rest.as_os_str().is_empty() {
            true => root.to_owned(),
            false => root.join(rest),
        })
    }
}

/// The components of a path, without `/` and `.`.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind")
}

/// Whether nothing can be written through the mount. The last option counts, as in fstab(5).
pub(crate) fn is_read_only(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten().map(String::as_str).rev();
    let last = options.find(|option| matches!(*option, "ro" | "rro" | "rw" | "rrw"));
    matches!(last, Some("ro" | "rro"))
}

/// Refuses a mount that covers `path` where that is none of its business.
fn check_mount(mount: &Mount, path: &Path) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Failure::invalid(format!(
            "cannot mount {} at {}: {why}",
            mount
                .source()
                .as_deref()
                .unwrap_or(Path::new("it"))
                .display(),
            mount.destination().display()
        ))
    };
    if path == Path::new("/") {
        return Err(refuse("it would hide the root file system"));
    }
    let Ok(below) = path.strip_prefix("/proc") else {
        return Ok(());
    };
    let is_procfs = mount.typ().as_deref() == Some("proc")
        || (is_bind(mount) && mount.source().as_deref().is_some_and(is_in_procfs));
    if below.as_os_str().is_empty() {
        return if is_procfs {
            Ok(())
        } else {
            Err(refuse("it is not of type proc"))
        };
    }
    if REPLACED_PROC_FILES
        .iter()
        .any(|file| path == Path::new(file))
    {
        Ok(())
    } else {
        Err(refuse("it is inside /proc; choose another destination"))
    }
}

fn is_in_procfs(path: &Path) -> bool {
    statfs(path).is_ok_and(|file_system| file_system.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxBuilder, LinuxDeviceBuilder, MountBuilder, SpecBuilder};
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    fn mount(destination: &str, kind: &str, source: &Path) -> Mount {
        MountBuilder::default()
            .destination(destination)
            .typ(kind)
            .source(source)
            .build()
            .unwrap()
    }

    fn spec(mounts: Vec<Mount>) -> Spec {
        SpecBuilder::default().mounts(mounts).build().unwrap()
    }

    /// An image with links, and a volume with one.
    fn dirs() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (rootfs, volume) = (dir.path().join("rootfs"), dir.path().join("volume"));
        fs::create_dir_all(rootfs.join("a/b")).unwrap();
        fs::create_dir_all(volume.join("inside")).unwrap();
        symlink("/proc", rootfs.join("absolute")).unwrap();
        symlink("../../../proc", rootfs.join("a/climbs")).unwrap();
        symlink("loop", rootfs.join("loop")).unwrap();
        symlink("/proc/sys", volume.join("link")).unwrap();
        (dir, rootfs, volume)
    }

    #[test]
    fn links_of_images_and_volumes_are_followed_in_the_container() {
        let (_dir, rootfs, volume) = dirs();
        let spec = spec(vec![mount("/v", "bind", &volume)]);
        let tree = ContainerTree::new(&spec, &rootfs).unwrap();
        for (path, leads_to) in [
            ("/a/b/../b", "/a/b"),
            ("/absolute/x", "/proc/x"),
            ("/a/climbs", "/proc"),
            ("/../../a", "/a"),
            ("/v/link/kernel", "/proc/sys/kernel"),
            ("/v/inside", "/v/inside"),
            ("/v/missing/..", "/v"),
        ] {
            let place = tree.find(Path::new(path)).unwrap();
            assert_eq!(place.path, Path::new(leads_to), "{path}");
        }
        assert!(tree.find(Path::new("/loop/x")).is_err());
        let inside = tree.find(Path::new("/v/inside")).unwrap();
        assert_eq!(inside.mount.unwrap().0, Path::new("/v"));
        assert_eq!(
            tree.on_host(Path::new("/v/inside")),
            Some(volume.join("inside"))
        );
    }

    #[test]
    fn nothing_is_mounted_on_the_kernels_places() {
        let (_dir, rootfs, volume) = dirs();
        let refused = |destination: &str, kind: &str, source: &Path| {
            let mounts = vec![
                mount("/v", "bind", &volume),
                mount(destination, kind, source),
            ];
            ContainerTree::new(&spec(mounts), &rootfs).err()
        };
        for destination in [
            "/proc",
            "/proc/",
            "/proc/sys",
            "//proc/./1",
            "/a/../proc",
            "/absolute",
            "/a/climbs/fs",
            "/v/link",
            "/",
            "/a/..",
        ] {
            let failure = refused(destination, "bind", &volume).unwrap();
            assert_eq!(failure.class, lighter_core::ErrorClass::InvalidArgument);
            assert!(
                refused(destination, "tmpfs", &volume).is_some(),
                "{destination}"
            );
        }
        for (destination, kind, source) in [
            ("/proc", "proc", Path::new("proc")),
            ("/proc", "bind", Path::new("/proc")),
            ("/proc/cpuinfo", "bind", volume.as_path()),
            ("/processes", "bind", volume.as_path()),
            ("/dev", "tmpfs", Path::new("tmpfs")),
        ] {
            assert_eq!(refused(destination, kind, source), None, "{destination}");
        }
    }

    #[test]
    fn devices_are_made_in_a_directory_of_the_container() {
        let (_dir, rootfs, volume) = dirs();
        let device = LinuxDeviceBuilder::default()
            .path("/dev/snd/a")
            .build()
            .unwrap();
        let linux = LinuxBuilder::default()
            .devices(vec![device])
            .build()
            .unwrap();
        let mut with_device = spec(vec![mount("/dev", "tmpfs", &volume)]);
        with_device.set_linux(Some(linux));
        assert!(ContainerTree::new(&with_device, &rootfs).is_ok());
        with_device.set_mounts(Some(vec![mount("/dev/snd", "bind", &volume)]));
        let failure = ContainerTree::new(&with_device, &rootfs).err().unwrap();
        assert!(failure.message.contains("/dev/snd/a"), "{failure}");

        for target in ["/tmp", "..", "../../outside"] {
            symlink(target, rootfs.join("dev")).unwrap();
            let spec = spec(vec![mount("/dev", "tmpfs", &volume)]);
            let failure = ContainerTree::new(&spec, &rootfs).err().unwrap();
            assert!(failure.message.contains("link"), "{failure}");
            fs::remove_file(rootfs.join("dev")).unwrap();
        }
    }

    #[test]
    fn the_last_option_says_whether_a_mount_is_read_only() {
        let with = |options: &[&str]| {
            let options = options.iter().map(ToString::to_string).collect::<Vec<_>>();
            let mut mount = mount("/v", "bind", Path::new("/"));
            mount.set_options(Some(options));
            is_read_only(&mount)
        };
        assert!(with(&["rbind", "ro"]) && with(&["rw", "rro"]));
        assert!(!with(&["rbind"]) && !with(&["ro", "rw"]));
    }

    proptest! {
        /// Whatever path a spec names, it is found in the container, and never outside.
        #[test]
        fn a_place_is_absolute_and_has_no_links(parts in prop::collection::vec(
            prop::sample::select(vec!["..", ".", "a", "b", "absolute", "climbs", "v", "link", "x"]),
            0..12,
        )) {
            let (_dir, rootfs, volume) = dirs();
            let spec = spec(vec![mount("/v", "bind", &volume)]);
            let tree = ContainerTree::new(&spec, &rootfs).unwrap();
            let place = tree.find(Path::new(&parts.join("/"))).unwrap();
            prop_assert!(place.path.is_absolute());
            let only_names = place.path.components().skip(1);
            prop_assert!(only_names.clone().all(|part| matches!(part, Component::Normal(_))));
            if let Some(host) = tree.on_host(&place.path) {
                prop_assert!(host.starts_with(&rootfs) || host.starts_with(&volume));
                prop_assert!(fs::read_link(host).is_err());
            }
        }
    }
}
