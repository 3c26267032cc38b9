//! A rootfs whose files are shown with the ids of a user namespace: mounts with the options `uidmap=`
//! and `gidmap=`, by which a snapshotter of containerd asks for it (`core/mount/mount_linux.go`).
//!
//! An overlay has its lower directories mapped, all others are mapped as a whole. It is made in a mount
//! namespace of this process's own, so that the mapped directories appear nowhere else and go with it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use lighter_core::Mount;
use nix::mount::MsFlags;
use nix::sched::{CloneFlags, setns, unshare};

use crate::id_mappings::IdMappings;
use crate::mount_tree::{Attributes, MountTree};
use crate::user_namespace::UserNamespace;

const LOWER: &str = "lowerdir=";

/// The mappings that a mount asks for, and the mount without them.
pub(crate) fn take_mappings(mount: &Mount) -> io::Result<Option<(IdMappings, Mount)>> {
    let value = |name: &str| mount.options.iter().find_map(|it| it.strip_prefix(name));
    let (Some(uids), Some(gids)) = (value("uidmap="), value("gidmap=")) else {
        return Ok(None);
    };
    let mappings = IdMappings::from_options(uids, gids).map_err(io::Error::other)?;
    let mut plain = mount.clone();
    plain
        .options
        .retain(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="));
    Ok(Some((mappings, plain)))
}

/// Mounts `mount` on `target` with mapped ids; `mount_plain` mounts without.
///
/// Only for a forked operation, whose working directory may change.
pub(crate) fn mount_mapped(
    mount: &Mount,
    target: &Path,
    mappings: &IdMappings,
    mount_plain: impl FnOnce(&Mount, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let users = UserNamespace::new(mappings).map_err(io::Error::other)?;
    let host = File::open("/proc/self/ns/mnt")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let made = mount_apart(mount, target, &users, mount_plain);
    setns(host.as_fd(), CloneFlags::CLONE_NEWNS)?;
    made?.attach(target)?;
    Ok(())
}

/// Mounts it in the mount namespace of this process, and returns a clone of it.
fn mount_apart(
    mount: &Mount,
    target: &Path,
    users: &UserNamespace,
    mount_plain: impl FnOnce(&Mount, &Path) -> io::Result<()>,
) -> io::Result<MountTree> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&Path>, "/", None::<&Path>, private, None::<&Path>)?;
    if mount.kind != "overlay" {
        mount_plain(mount, target)?;
        let tree = MountTree::clone_of(target, false)?;
        map(&tree, users)?;
        return Ok(tree);
    }
    let (shared, mount) = below(mount, target)?;
    let lower = MountTree::clone_of(&shared, false)?;
    lower.change(
        Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            clear: 0,
        },
        false,
    )?;
    map(&lower, users)?;
    lower.attach(target)?;
    mount_plain(&mount, target)?;
    Ok(MountTree::clone_of(target, false)?)
}

fn map(tree: &MountTree, users: &UserNamespace) -> io::Result<()> {
    tree.map_ids(users.as_fd(), false).map_err(|error| {
        io::Error::other(format!(
            "cannot map the owners of its files: {error}; let the snapshotter change them, which needs no kernel support (slow_chown)"
        ))
    })
}

/// The directory that the lower directories of an overlay share, and the overlay with those below
/// `target` instead.
fn below(mount: &Mount, target: &Path) -> io::Result<(std::path::PathBuf, Mount)> {
    let mut options = mount.options.iter();
    let lower = options
        .find_map(|option| option.strip_prefix(LOWER))
        .ok_or_else(|| io::Error::other("an overlay without lowerdir"))?;
    let dirs: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let shared = dirs[0]
        .ancestors()
        .skip(1)
        .find(|ancestor| dirs.iter().all(|dir| dir.starts_with(ancestor)))
        .filter(|shared| shared.is_absolute() && *shared != Path::new("/"))
        .ok_or_else(|| io::Error::other(format!("{lower} have no directory in common")))?;
    let moved: Vec<String> = dirs
        .iter()
        .map(|dir| {
            let rest = dir.strip_prefix(shared).unwrap_or(dir);
            target.join(rest).to_string_lossy().into_owned()
        })
        .collect();
    let mut mount = mount.clone();
    for option in &mut mount.options {
        if option.starts_with(LOWER) {
            *option = format!("{LOWER}{}", moved.join(":"));
        }
    }
    Ok((shared.to_owned(), mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn mappings_are_taken_from_the_options_of_a_snapshotter() {
        assert!(take_mappings(&overlay(&["ro"])).unwrap().is_none());
        let mount = overlay(&["uidmap=0:1000:5", "gidmap=0:2000:6", "index=off"]);
        let (mappings, plain) = take_mappings(&mount).unwrap().unwrap();
        assert_eq!(mappings.uids[0].host_id(), 1000);
        assert_eq!(mappings.gids[0].host_id(), 2000);
        assert_eq!(plain.options, ["index=off"]);
        assert!(take_mappings(&overlay(&["uidmap=x", "gidmap=0:0:1"])).is_err());
    }

    #[test]
    fn lower_directories_are_those_of_the_mapped_mount() {
        let mount = overlay(&["lowerdir=/s/2/fs:/s/1/fs", "upperdir=/s/3/fs"]);
        let (shared, moved) = below(&mount, Path::new("/b/rootfs")).unwrap();
        assert_eq!(shared, Path::new("/s"));
        assert_eq!(
            moved.options,
            ["lowerdir=/b/rootfs/2/fs:/b/rootfs/1/fs", "upperdir=/s/3/fs"]
        );
        let (shared, _) = below(&overlay(&["lowerdir=/s/1/fs"]), Path::new("/b")).unwrap();
        assert_eq!(shared, Path::new("/s/1"));
        assert!(below(&overlay(&["lowerdir=/a/b:/c/d"]), Path::new("/b")).is_err());
    }

    /// Files of the lower directories and those that are written have the container's owners.
    #[test]
    fn an_overlay_shows_mapped_owners() {
        use std::os::unix::fs::{MetadataExt, chown};
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let operation = crate::Operation::fork(|_| {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name);
            for name in ["1/fs", "2/fs", "upper", "work", "rootfs"] {
                std::fs::create_dir_all(path(name)).unwrap();
            }
            std::fs::write(path("1/fs/root"), "").unwrap();
            std::fs::write(path("2/fs/user"), "").unwrap();
            chown(path("2/fs/user"), Some(1000), Some(1000)).unwrap();
            let option = |name: &str, value: &str| format!("{name}={}", path(value).display());
            let mount = overlay(&[
                "uidmap=0:100000:65536",
                "gidmap=0:100000:65536",
                &format!("{}:{}", option("lowerdir", "2/fs"), path("1/fs").display()),
                &option("upperdir", "upper"),
                &option("workdir", "work"),
            ]);
            let mounted = crate::rootfs::mount(&[mount], &path("rootfs"));
            mounted?;
            let owner =
                |name: &str| std::fs::metadata(path("rootfs").join(name)).unwrap().uid() as i32;
            let owners = [owner("root"), owner("user")];
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let place = dir.path().to_string_lossy().into_owned();
            let mounts = table.lines().filter(|line| line.contains(&place)).count();
            crate::rootfs::unmount(&path("rootfs"))?;
            Ok(vec![owners[0], owners[1], mounts as i32])
        })
        .unwrap();
        let answer = crate::fork::tests::answer(&operation).unwrap();
        crate::fork::tests::reap(&operation);
        assert_eq!(answer, Ok(vec![100_000, 101_000, 1]));
    }
}
