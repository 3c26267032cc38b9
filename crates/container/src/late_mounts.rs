//! What a spec says of its mounts and libcontainer leaves out, done once it has mounted them.
//!
//! | symptom with libcontainer 0.7 | what is done here |
//! | --- | --- |
//! | `rprivate`, `rslave`, `rshared` and the like of one mount are dropped | set in the order of the spec, and then those of `rootfsPropagation` for the whole tree, as runc does |
//! | `tmpcopyup` is an unknown option (EINVAL) | what the tmpfs covers is copied into it |
//! | a working directory that is missing in a tmpfs is not created (ENOENT) | it is created, and init enters it when it starts |

use std::path::{Path, PathBuf};

use lighter_core::Failure;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use oci_spec::runtime::{Mount, Spec};

use crate::mount_points::{ContainerTree, is_bind, is_read_only};
use crate::{child, copy_up, namespace, stdio, user_namespace};

/// The option of a tmpfs that starts with what it covers.
const COPY_UP: &str = "tmpcopyup";

/// Refuses to copy out of a volume, which a neighbour could change meanwhile so that something else is
/// copied.
///
/// # Errors
/// InvalidArgument.
pub(crate) fn check(spec: &Spec, tree: &ContainerTree<'_>) -> Result<(), Failure> {
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        let Some(parent) = destination.parent().filter(|_| has_option(mount, COPY_UP)) else {
            continue;
        };
        if let Some((volume, _)) = tree.find(parent)?.mount.filter(|(_, mount)| is_bind(mount)) {
            return Err(Failure::invalid(format!(
                "cannot mount a tmpfs with {COPY_UP} at {}: it is in the volume at {}; leave the option out",
                destination.display(),
                volume.display()
            )));
        }
    }
    Ok(())
}

/// The work that is left when libcontainer has made a container.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct LateMounts {
    /// Mount points of tmpfs to fill, and whether they are read-only then.
    copied: Vec<(PathBuf, bool)>,
    /// The working directory to create.
    missing_cwd: Option<PathBuf>,
    /// The container's root as the host has it, to whom belongs what is created.
    root: (u32, u32),
    /// Mount points, and the type of propagation that they get.
    propagation: Vec<(PathBuf, MsFlags)>,
}

impl LateMounts {
    /// Takes out of `spec` what libcontainer would refuse or get wrong.
    ///
    /// `is_cwd_late` says that the working directory is in a tmpfs, where only this can create it.
    pub(crate) fn take(spec: &mut Spec, is_cwd_late: bool) -> Self {
        let mut late = Self {
            propagation: take_propagation(spec),
            root: stdio::host_owner(spec, None),
            ..Self::default()
        };
        late.copied = take_copied(spec);
        if let Some(mut process) = spec.process().clone() {
            let is_late = |mount: &PathBuf| process.cwd().starts_with(mount);
            // The mount that libcontainer would enter is moved away meanwhile.
            let is_moved = late.copied.iter().any(|(mount, _)| is_late(mount));
            if is_cwd_late || is_moved {
                late.missing_cwd = Some(process.cwd().clone());
                process.set_cwd("/".into());
                spec.set_process(Some(process));
            }
        }
        late
    }

    /// For a container whose mounts all become private.
    pub(crate) fn without_propagation(self) -> Self {
        Self {
            propagation: Vec::new(),
            ..self
        }
    }

    /// The working directory that init enters when it starts, if libcontainer cannot.
    pub(crate) fn cwd(&self) -> Option<&Path> {
        self.missing_cwd.as_deref()
    }

    /// Does the work in the container of `pid`, a created init that waits. Only for a forked
    /// operation, which has one thread.
    pub(crate) fn apply(&self, pid: i32) -> Result<(), Failure> {
        if self.copied.is_empty() && self.missing_cwd.is_none() && self.propagation.is_empty() {
            return Ok(());
        }
        if self.root == (0, 0) || self.copied.is_empty() {
            return namespace::within(pid, CloneFlags::CLONE_NEWNS, || {
                self.copy()?;
                self.apply_here()
            });
        }
        // The owners of what is copied have a place in the file system for who is in the namespace.
        child::apart(|| {
            user_namespace::enter(pid)?;
            self.copy()
        })?;
        namespace::within(pid, CloneFlags::CLONE_NEWNS, || self.apply_here())
    }

    fn copy(&self) -> Result<(), Failure> {
        for (mount, read_only) in &self.copied {
            copy_up::fill(mount, *read_only).map_err(|error| {
                let mount = mount.display();
                Failure::invalid(format!(
                    "cannot copy what the image has at {mount} into the tmpfs there: {error}"
                ))
            })?;
        }
        Ok(())
    }

    fn apply_here(&self) -> Result<(), Failure> {
        if let Some(cwd) = &self.missing_cwd {
            self.create_cwd(cwd)?;
        }
        for (path, flags) in &self.propagation {
            mount(None::<&Path>, path, None::<&Path>, *flags, None::<&Path>).map_err(|error| {
                let path = path.display();
                Failure::invalid(format!("cannot set the propagation of {path}: {error}"))
            })?;
        }
        Ok(())
    }

    /// Here, `/` is the root of the container: no link leads out of it.
    fn create_cwd(&self, cwd: &Path) -> Result<(), Failure> {
        let created = user_namespace::as_owner(self.root, || std::fs::create_dir_all(cwd));
        created.map_err(|error| {
            Failure::invalid(format!(
                "cannot create the working directory {}: {error}; choose another",
                cwd.display()
            ))
        })
    }
}

/// The mounts of type tmpfs that start with what they cover, without that option and without being
/// read-only, which they get later.
fn take_copied(spec: &mut Spec) -> Vec<(PathBuf, bool)> {
    let is_copied = |mount: &Mount| has_option(mount, COPY_UP);
    if !spec.mounts().iter().flatten().any(is_copied) {
        return Vec::new();
    }
    let mut copied = Vec::new();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| is_copied(mount)) {
        let is_tmpfs = mount.typ().as_deref() == Some("tmpfs");
        if is_tmpfs {
            copied.push((mount.destination().clone(), is_read_only(mount)));
        }
        let mut options = mount.options().clone().unwrap_or_default();
        options.retain(|option| option != COPY_UP && !(is_tmpfs && option == "ro"));
        mount.set_options(Some(options));
    }
    spec.set_mounts(Some(mounts));
    copied
}

/// Has libcontainer set the propagation where one type is right for all mounts; returns what is left to
/// set.
fn take_propagation(spec: &mut Spec) -> Vec<(PathBuf, MsFlags)> {
    let Some(mut linux) = spec.linux().clone() else {
        return Vec::new();
    };
    let wanted: Vec<(PathBuf, MsFlags)> = spec
        .mounts()
        .iter()
        .flatten()
        .flat_map(|mount| {
            let options = mount.options().iter().flatten();
            let flags = options.filter_map(|option| propagation(option));
            flags.map(|flags| (mount.destination().clone(), flags))
        })
        .collect();
    let all_private = spec.mounts().iter().flatten().all(|mount| {
        let mut options = mount.options().iter().flatten();
        !is_bind(mount) || options.any(|option| option == "private" || option == "rprivate")
    });
    let root = linux.rootfs_propagation().clone();
    let root = root.filter(|root| !root.is_empty());
    let is_private = |flags: MsFlags| flags.contains(MsFlags::MS_PRIVATE);
    // What is copied of a private tree is private.
    if root.is_none() && all_private && wanted.iter().all(|(_, flags)| is_private(*flags)) {
        if !wanted.is_empty() {
            linux.set_rootfs_propagation(Some("private".to_owned()));
            spec.set_linux(Some(linux));
        }
        return Vec::new();
    }
    let Some(root) = root else {
        return wanted;
    };
    let flags = propagation(&root);
    if let Some(plain) = root.strip_prefix('r').filter(|_| flags.is_some()) {
        // libcontainer knows them without their r, and takes them recursively at first.
        linux.set_rootfs_propagation(Some(plain.to_owned()));
        spec.set_linux(Some(linux));
    }
    let root = flags.filter(|flags| flags.contains(MsFlags::MS_REC) && !is_private(*flags));
    let root = root.map(|flags| (PathBuf::from("/"), flags));
    wanted.into_iter().chain(root).collect()
}

/// The flags of mount(2) for an option of propagation.
fn propagation(option: &str) -> Option<MsFlags> {
    let flags = match option.strip_prefix('r').unwrap_or(option) {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(match option.starts_with('r') {
        true => flags | MsFlags::MS_REC,
        false => flags,
    })
}

fn has_option(mount: &Mount, wanted: &str) -> bool {
    let mut options = mount.options().iter().flatten();
    options.any(|option| option == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxBuilder, MountBuilder, ProcessBuilder, SpecBuilder};

    fn spec(mounts: &[(&str, &str, &[&str])], propagation: Option<&str>) -> Spec {
        let mounts: Vec<Mount> = mounts
            .iter()
            .map(|(destination, kind, options)| {
                MountBuilder::default()
                    .destination(*destination)
                    .typ(*kind)
                    .source("/source")
                    .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
                    .build()
                    .unwrap()
            })
            .collect();
        let mut linux = LinuxBuilder::default().build().unwrap();
        linux.set_rootfs_propagation(propagation.map(ToOwned::to_owned));
        SpecBuilder::default()
            .process(ProcessBuilder::default().cwd("/work/sub").build().unwrap())
            .mounts(mounts)
            .linux(linux)
            .build()
            .unwrap()
    }

    fn root_propagation(spec: &Spec) -> Option<String> {
        spec.linux().as_ref().unwrap().rootfs_propagation().clone()
    }

    #[test]
    fn private_volumes_cost_nothing() {
        let mut spec = spec(
            &[
                ("/proc", "proc", &[]),
                ("/a", "bind", &["rbind", "rprivate"]),
            ],
            None,
        );
        let late = LateMounts::take(&mut spec, false);
        assert_eq!(late.propagation, []);
        assert_eq!(root_propagation(&spec).as_deref(), Some("private"));
    }

    #[test]
    fn a_spec_without_propagation_is_left_alone() {
        let mut spec = spec(&[("/a", "bind", &["rbind"]), ("/b", "tmpfs", &[])], None);
        let before = spec.clone();
        assert_eq!(LateMounts::take(&mut spec, false).propagation, []);
        assert_eq!(spec, before);
    }

    #[test]
    fn each_mount_gets_its_own_propagation_and_the_root_comes_last() {
        let mounts: &[(&str, &str, &[&str])] = &[
            ("/a", "bind", &["rbind", "rprivate"]),
            ("/b", "bind", &["bind", "rslave"]),
            ("/c", "bind", &["bind"]),
        ];
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        let mut without = spec(mounts, None);
        assert_eq!(
            LateMounts::take(&mut without, false).propagation,
            [(PathBuf::from("/a"), private), (PathBuf::from("/b"), slave)]
        );
        assert_eq!(root_propagation(&without), None);
        let mut shared = spec(mounts, Some("rshared"));
        let late = LateMounts::take(&mut shared, false);
        assert_eq!(
            late.propagation.last(),
            Some(&(PathBuf::from("/"), MsFlags::MS_SHARED | MsFlags::MS_REC))
        );
        assert_eq!(root_propagation(&shared).as_deref(), Some("shared"));
    }

    #[test]
    fn a_tmpfs_that_is_copied_into_is_writable_at_first() {
        let mut spec = spec(&[("/work", "tmpfs", &["tmpcopyup", "ro", "size=1m"])], None);
        let late = LateMounts::take(&mut spec, false);
        assert_eq!(late.copied, [(PathBuf::from("/work"), true)]);
        let mounts = spec.mounts().clone().unwrap();
        assert_eq!(mounts[0].options().clone().unwrap(), ["size=1m"]);
        assert_eq!(late.cwd(), Some(Path::new("/work/sub")));
        assert_eq!(spec.process().as_ref().unwrap().cwd(), Path::new("/"));
    }

    #[test]
    fn nothing_is_copied_out_of_a_volume() {
        let rootfs = tempfile::tempdir().unwrap();
        for (destination, is_refused) in [("/v/sub", true), ("/v", false), ("/work", false)] {
            let volume: (&str, &str, &[&str]) = ("/v", "bind", &["bind"]);
            let copied: (&str, &str, &[&str]) = (destination, "tmpfs", &["tmpcopyup"]);
            let spec = spec(&[volume, copied], None);
            let tree = ContainerTree::new(&spec, rootfs.path()).unwrap();
            assert_eq!(check(&spec, &tree).is_err(), is_refused, "{destination}");
        }
    }

    #[test]
    fn options_are_flags_of_mount() {
        assert_eq!(propagation("unbindable"), Some(MsFlags::MS_UNBINDABLE));
        assert_eq!(propagation("ro"), None);
        assert_eq!(propagation("rw"), None);
    }
}
