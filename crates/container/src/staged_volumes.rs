//! Volumes of a container with a user namespace, and those with ids of their own: mounted in front of
//! libcontainer.
//!
//! Symptom: libcontainer 0.7 binds volumes as the root of the container's user namespace, who is
//! nobody on the host: it cannot pass a directory like that of a kubelet's pods, which is root's alone,
//! and cannot change the flags that the host's mount has. It refuses idmapped mounts
//! (`MountIdmapUnsupported`).
//!
//! Fix: the operation takes a mount namespace of its own, clones each volume there as the host's root,
//! gives it its flags and its mapping of ids, and puts it into a directory of the bundle that the
//! container's root can reach. From there libcontainer binds it. Neither the host nor another container
//! sees that directory, and the container loses it with the rest of the host's mounts.
//!
//! Upstream: `container/mount_validation.rs` (its TODO) and `rootfs/mount.rs` of libcontainer. runc
//! opens sources as the host's root, too (`mount_linux.go`, `mountFd`).

use std::fs::{self, DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use lighter_core::Failure;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};

use crate::guest_view::{has_own, kernel_mounts, mount_points};
use crate::mount_points::is_bind;
use crate::mount_tree::MountTree;
use crate::user_namespace::UserNamespace;
use crate::volume_plan::{Ids, Plan, cannot_map, is_mapped, no_mappings};

/// The mount namespace that the volumes are in. While the value lives, the operation is in it.
pub(crate) struct StagedVolumes {
    dir: PathBuf,
}

/// Whether a spec has a volume with ids of its own.
pub(crate) fn has_mapped(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(is_mapped)
}

/// Mounts the volumes of `spec` that need it, and names them by where they are. None if none does.
///
/// A guest's volumes lose the kernel's file systems here: in a user namespace nobody can unmount what
/// came with the mount above it.
pub(crate) fn stage(
    spec: &mut Spec,
    bundle: &Path,
    users: Option<&UserNamespace>,
    is_guest: bool,
) -> Result<Option<StagedVolumes>, Failure> {
    // What libcontainer makes itself, as the container's directories of cgroup v1, it can bind, too.
    let is_there = |mount: &Mount| mount.source().as_deref().is_some_and(Path::exists);
    let wanted =
        |mount: &Mount| is_mapped(mount) || (users.is_some() && is_bind(mount) && is_there(mount));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if !mounts.iter().any(wanted) {
        return Ok(None);
    }
    if !has_own(spec, LinuxNamespaceType::Mount) {
        // What is mounted for a container that shares its mounts stays as it is.
        return match mounts.iter().find(|mount| is_mapped(mount)) {
            None => Ok(None),
            Some(mount) => Err(cannot_map(
                mount,
                "the container needs a mount namespace of its own",
            )),
        };
    }
    // As the host has them: what is opened in the other namespace would hear of its mounts alone.
    let mut trees = Vec::new();
    for (number, mount) in mounts.iter_mut().enumerate() {
        if wanted(mount) {
            let plan = Plan::of(mount, users.is_some())?;
            trees.push((number, open(mount, &plan, users, is_guest)?));
            mount.set_options(Some(plan.left));
            mount.set_uid_mappings(None).set_gid_mappings(None);
        }
    }
    let staged = StagedVolumes::enter(bundle)?;
    for (number, tree) in trees {
        mounts[number].set_source(Some(staged.add(number, &tree)?));
    }
    if is_guest {
        let taken = staged.take_kernel_away()?;
        mounts.retain(|mount| !taken.iter().any(|it| mount.source().as_ref() == Some(it)));
    }
    spec.set_mounts(Some(mounts));
    Ok(Some(staged))
}

/// A clone of a volume, as it will be in the container.
fn open(
    mount: &Mount,
    plan: &Plan,
    users: Option<&UserNamespace>,
    is_guest: bool,
) -> Result<MountTree, Failure> {
    let source = mount
        .source()
        .as_deref()
        .ok_or_else(|| Failure::invalid("a mount of type bind has no source"))?;
    let failed = |what: &str, error: Errno| {
        Failure::internal(format!(
            "cannot mount {} at {}: {what}: {error}",
            source.display(),
            mount.destination().display()
        ))
    };
    let tree = MountTree::clone_of(source, plan.is_recursive)
        .map_err(|error| failed("open_tree", error))?;
    if is_guest {
        tree.make_private()
            .map_err(|error| failed("make it private", error))?;
    }
    let flags = |error| failed("set its flags", error);
    tree.change(plan.attributes, false).map_err(flags)?;
    if let Some(attributes) = plan.all_attributes {
        tree.change(attributes, true).map_err(flags)?;
    }
    if let Ids::Mapped {
        mappings,
        is_recursive,
    } = &plan.ids
    {
        let own = mappings.as_ref().map(UserNamespace::new).transpose()?;
        let users = own.as_ref().or(users).ok_or_else(|| no_mappings(mount))?;
        tree.map_ids(users.as_fd(), *is_recursive)
            .map_err(|error| {
                let hint = match error {
                    Errno::EINVAL => {
                        " (maybe the filesystem used doesn't support idmap mounts on this kernel?)"
                    }
                    _ => "",
                };
                Failure::invalid(format!(
                    "failed to set MOUNT_ATTR_IDMAP on {}: {}{hint}",
                    source.display(),
                    error.desc().to_lowercase()
                ))
            })?;
    }
    Ok(tree)
}

impl StagedVolumes {
    /// Takes this process into a mount namespace of its own, with an empty directory in `bundle` for
    /// volumes that the host does not hear of.
    fn enter(bundle: &Path) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::internal(format!("cannot prepare the volumes: {what}: {error}"))
        };
        let bundle = bundle
            .canonicalize()
            .map_err(|error| failed("find the bundle", &error))?;
        let dir = bundle.join("volumes");
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed("make a directory", &error));
            }
            _ => {}
        }
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| failed("unshare", &error))?;
        let staged = Self { dir };
        // What is mounted on a mount that is shared appears on the host, too. All others stay as they are:
        // hooks of the container run here, and the host hears of what they mount.
        let table = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|error| failed("read /proc/self/mountinfo", &error))?;
        let below = mount_of(&table, &bundle);
        let no_path = None::<&Path>;
        mount(no_path, &below, no_path, MsFlags::MS_PRIVATE, no_path)
            .map_err(|error| failed(&format!("make {} private", below.display()), &error))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("tmpfs"),
            &staged.dir,
            Some("tmpfs"),
            flags,
            Some("mode=755,size=1m"),
        )
        .map_err(|error| failed("mount a directory", &error))?;
        Ok(staged)
    }

    /// Mounts a volume, and returns where.
    fn add(&self, number: usize, tree: &MountTree) -> Result<PathBuf, Failure> {
        let place = self.dir.join(number.to_string());
        let failed = |error: &dyn std::fmt::Display| {
            Failure::internal(format!(
                "cannot mount a volume in front of the container: {error}"
            ))
        };
        let made = match tree.is_directory() {
            Ok(true) => fs::create_dir(&place),
            Ok(false) => File::create(&place).map(drop),
            Err(error) => return Err(failed(&error)),
        };
        made.map_err(|error| failed(&error))?;
        tree.attach(&place).map_err(|error| failed(&error))?;
        Ok(place)
    }

    /// Unmounts the kernel's file systems that are in the volumes. Returns those volumes that were
    /// nothing else.
    fn take_kernel_away(&self) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::internal(format!(
                "cannot take the kernel's file systems out of the guest's volumes: {error}"
            ))
        };
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(|error| failed(&error))?;
        let mut taken = kernel_mounts(&table);
        taken.retain(|path| path.starts_with(&self.dir));
        for path in &taken {
            umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|error| failed(&error))?;
        }
        taken.retain(|path| path.parent() == Some(&self.dir));
        Ok(taken)
    }
}

impl Drop for StagedVolumes {
    /// Takes this process back into the shim's mount namespace.
    fn drop(&mut self) {
        // Nothing is held that leads there: init inherits what is open.
        let shim = format!("/proc/{}/ns/mnt", nix::unistd::getppid());
        let left = File::open(shim).map_err(|error| error.to_string());
        let left = left.and_then(|shim| {
            setns(shim.as_fd(), CloneFlags::CLONE_NEWNS).map_err(|error| error.to_string())
        });
        match left {
            Ok(()) => drop(fs::remove_dir(&self.dir)),
            Err(error) => crate::warn(format!(
                "the operation cannot go back to the host's mounts: {error}"
            )),
        }
    }
}

/// The mount point of the mount that `path`, which has no links, is on: the last of the longest.
fn mount_of(table: &str, path: &Path) -> PathBuf {
    let above = mount_points(table).filter(|point| path.starts_with(point));
    above
        .max_by_key(|point| point.components().count())
        .unwrap_or_else(|| PathBuf::from("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_below_a_path_is_the_last_of_the_longest() {
        let table = "\
            1 0 0:1 / / rw - ext4 /dev/vda rw\n\
            2 1 0:2 / /run rw - tmpfs tmpfs rw\n\
            3 1 0:3 / /running rw - tmpfs tmpfs rw\n\
            4 2 0:4 / /run/a\\040b/rootfs rw - overlay overlay rw\n";
        let below = |path: &str| mount_of(table, Path::new(path));
        assert_eq!(below("/run/a b"), Path::new("/run"));
        assert_eq!(below("/run/a b/rootfs/x"), Path::new("/run/a b/rootfs"));
        assert_eq!(below("/runner"), Path::new("/"));
    }
}
