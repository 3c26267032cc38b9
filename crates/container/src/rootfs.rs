//! Mounting and unmounting the rootfs of a bundle.

use std::path::{Path, PathBuf};

use libcontainer::syscall::linux::MountOption;
use lighter_core::{Failure, Mount};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::idmapped_rootfs;

/// Options for a whole tree of mounts that libcontainer knows, beside those of single mounts, and those
/// that map the ids of a volume.
const OTHER_OPTIONS: &[&str] = &[
    "idmap",
    "ridmap",
    "ratime",
    "rdev",
    "rdiratime",
    "rexec",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "rrelatime",
    "rro",
    "rrw",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
];

/// The options that mounts of a container may have, by name; containerd asks for recursive
/// read-only mounts only where they are named.
pub fn mount_options() -> Vec<String> {
    let mut options = MountOption::known_options();
    options.extend(OTHER_OPTIONS.iter().map(ToString::to_string));
    options.sort();
    options.dedup();
    options
}

/// The kernel takes one page of mount data (mount(2)); one byte is the final NUL.
const MAX_DATA: usize = 4095;

/// Options of fstab(5) that are flags of mount(2): name, flag, and whether it is set or cleared.
const FLAGS: &[(&str, MsFlags, bool)] = &[
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

/// Mounts what containerd's snapshotter prepared, in order, on `target`.
///
/// Blocks, and may change the working directory: only for a forked operation. An empty list
/// means that the rootfs is there already (dockerd without the containerd image store).
pub(crate) fn mount(mounts: &[Mount], target: &Path) -> Result<(), Failure> {
    if mounts.is_empty() {
        return Ok(());
    }
    std::fs::create_dir_all(target).map_err(|error| {
        Failure::internal(format!("cannot create {}: {error}", target.display()))
    })?;
    for mount in mounts {
        mount_one(mount, target).map_err(|error| {
            Failure::internal(format!(
                "cannot mount the rootfs ({} of {}) on {}: {error}",
                mount.kind,
                mount.source,
                target.display()
            ))
        })?;
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &Path) -> std::io::Result<()> {
    match idmapped_rootfs::take_mappings(mount)? {
        None => mount_plain(mount, target),
        Some((mappings, mount)) => {
            idmapped_rootfs::mount_mapped(&mount, target, &mappings, mount_plain)
        }
    }
}

fn mount_plain(mount: &Mount, target: &Path) -> std::io::Result<()> {
    let (flags, data) = split_options(&mount.options);
    let (folder, data) = if data.len() > MAX_DATA {
        shorten_lower_folders(&data)
    } else {
        (None, data)
    };
    if let Some(folder) = folder {
        std::env::set_current_dir(folder)?;
    }
    if data.len() > MAX_DATA {
        return Err(std::io::Error::other(format!(
            "the mount options have {} bytes, the kernel takes {MAX_DATA}",
            data.len()
        )));
    }
    let (kind, source) = (mount.kind.as_str(), mount.source.as_str());
    nix::mount::mount(Some(source), target, Some(kind), flags, Some(data.as_str()))?;
    // The first mount of a bind ignores all other flags (mount(2)).
    if flags.contains(MsFlags::MS_BIND) && !(flags - MsFlags::MS_BIND - MsFlags::MS_REC).is_empty()
    {
        let flags = flags | MsFlags::MS_REMOUNT;
        nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Parts options into the flags of mount(2) and the data that the file system gets.
fn split_options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match FLAGS.iter().find(|(name, ..)| name == option) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags -= *flag,
            None => data.push(option.as_str()),
        }
    }
    (flags, data.join(","))
}

/// Makes the lower folders of an overlay relative to the folder they share, which is returned
/// as the one to mount from. An image of some 50 layers does not fit one page otherwise.
fn shorten_lower_folders(data: &str) -> (Option<PathBuf>, String) {
    let lower = data
        .split(',')
        .find_map(|option| option.strip_prefix("lowerdir="));
    let Some(lower) = lower else {
        return (None, data.to_owned());
    };
    let folders: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let shared = folders[0]
        .ancestors()
        .skip(1)
        .find(|ancestor| folders.iter().all(|folder| folder.starts_with(ancestor)));
    let Some(shared) = shared.filter(|shared| shared.is_absolute()) else {
        return (None, data.to_owned());
    };
    let relative: Vec<_> = folders
        .iter()
        .map(|folder| {
            folder
                .strip_prefix(shared)
                .unwrap_or(folder)
                .to_string_lossy()
        })
        .collect();
    let options: Vec<_> = data
        .split(',')
        .map(|option| match option.starts_with("lowerdir=") {
            true => format!("lowerdir={}", relative.join(":")),
            false => option.to_owned(),
        })
        .collect();
    (Some(shared.to_owned()), options.join(","))
}

/// Unmounts all that is mounted on `target`; no mount and no folder is no error.
pub(crate) fn unmount(target: &Path) -> Result<(), Failure> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => {
                return Err(Failure::internal(format!(
                    "cannot unmount {}: {error}",
                    target.display()
                )));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_and_data_are_told_apart() {
        let (flags, data) = split_options(&options(&[
            "ro",
            "nodev",
            "lowerdir=/a:/b",
            "rw",
            "index=off",
        ]));
        assert_eq!(flags, MsFlags::MS_NODEV);
        assert_eq!(data, "lowerdir=/a:/b,index=off");
        assert!(
            split_options(&options(&["rbind"]))
                .0
                .contains(MsFlags::MS_REC)
        );
    }

    #[test]
    fn many_layers_are_named_relative_to_the_folder_they_share() {
        let (folder, data) =
            shorten_lower_folders("index=off,lowerdir=/s/12/fs:/s/3/fs,upperdir=/s/13/fs");
        assert_eq!(folder.as_deref(), Some(Path::new("/s")));
        assert_eq!(data, "index=off,lowerdir=12/fs:3/fs,upperdir=/s/13/fs");
        assert_eq!(shorten_lower_folders("size=1"), (None, "size=1".to_owned()));
    }

    /// 120 real layers: more than a page of options.
    #[test]
    fn an_overlay_of_many_layers_is_mounted_and_unmounted() {
        let folder = tempfile::tempdir().unwrap();
        let layer = |n: usize| {
            folder
                .path()
                .join(format!("snapshots-with-a-long-name/{n}/fs"))
        };
        let lower: Vec<_> = (0..120)
            .map(|n| {
                std::fs::create_dir_all(layer(n)).unwrap();
                std::fs::write(layer(n).join(format!("file-{n}")), "").unwrap();
                layer(n).display().to_string()
            })
            .collect();
        let target = folder.path().join("rootfs");
        let mounts = [Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options: options(&["ro", &format!("lowerdir={}", lower.join(":"))]),
        }];
        mount(&mounts, &target).unwrap();
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 120);
        unmount(&target).unwrap();
        unmount(&target).unwrap();
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    }
}
