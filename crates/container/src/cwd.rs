//! The working directory: runc creates a missing one, libcontainer fails.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lighter_core::Failure;
use oci_spec::runtime::Spec;

use crate::mount_points::{ContainerTree, is_bind, is_read_only};
use crate::volume_plan::is_mapped;
use crate::{stdio, user_namespace};

/// Creates the container's working directory if it does not exist, as runc does.
///
/// It is created in the volume that covers it or else in the rootfs, and symlinks cannot lead
/// out of either. A failure is left to libcontainer's chdir to report.
///
/// Returns whether it has to be created later: it is in a tmpfs, which is not there yet.
///
/// # Errors
/// When it would have to be created in a volume that the container may not write to.
pub(crate) fn create_missing(
    spec: &Spec,
    tree: &ContainerTree<'_>,
    rootfs: &Path,
) -> Result<bool, Failure> {
    let Some(process) = spec.process() else {
        return Ok(false);
    };
    let place = tree.find(process.cwd())?;
    let (root, covered) = match &place.mount {
        None => (rootfs, PathBuf::from("/")),
        Some((covered, mount)) if is_bind(mount) => match mount.source().as_deref() {
            Some(source) if source.is_dir() => (source, covered.clone()),
            _ => return Ok(false),
        },
        Some((covered, mount)) => {
            return Ok(mount.typ().as_deref() == Some("tmpfs") && place.path != *covered);
        }
    };
    let rest = place.path.strip_prefix(&covered).unwrap_or(&place.path);
    if rest.as_os_str().is_empty() {
        return Ok(false);
    }
    let Ok(root) = pathrs::Root::open(root) else {
        return Ok(false);
    };
    if root.resolve(rest).is_ok() {
        return Ok(false);
    }
    let mount = place.mount.map(|(_, mount)| mount);
    if mount.is_some_and(is_read_only) {
        return Err(Failure::invalid(format!(
            "cannot create the working directory {}: the volume at {} is read-only; create it in the volume, or choose another",
            process.cwd().display(),
            covered.display()
        )));
    }
    // A volume with the container's ids has those of the host for who is on the host.
    let owner = match mount.is_some_and(is_mapped) {
        true => (0, 0),
        false => stdio::host_owner(spec, None),
    };
    user_namespace::as_owner(owner, || {
        let _ = root.mkdir_all(rest, &std::fs::Permissions::from_mode(0o755));
    });
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{MountBuilder, ProcessBuilder, SpecBuilder};

    fn create(cwd: &str, volume: Option<(&Path, &str)>, rootfs: &Path) -> Result<bool, Failure> {
        let mut mounts = vec![];
        if let Some((volume, option)) = volume {
            mounts.push(
                MountBuilder::default()
                    .destination("/data")
                    .typ("bind")
                    .source(volume)
                    .options(vec!["rbind".to_owned(), option.to_owned()])
                    .build()
                    .unwrap(),
            );
        }
        let spec = SpecBuilder::default()
            .process(ProcessBuilder::default().cwd(cwd).build().unwrap())
            .mounts(mounts)
            .build()
            .unwrap();
        create_missing(&spec, &ContainerTree::new(&spec, rootfs).unwrap(), rootfs)
    }

    #[test]
    fn a_missing_directory_is_created_where_the_container_will_see_it() {
        let rootfs = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        create("/a/b", None, rootfs.path()).unwrap();
        assert!(rootfs.path().join("a/b").is_dir());
        create("/data/x", Some((volume.path(), "rw")), rootfs.path()).unwrap();
        assert!(volume.path().join("x").is_dir());
        assert!(!rootfs.path().join("data").exists());
    }

    #[test]
    fn nothing_is_created_in_a_read_only_volume() {
        let rootfs = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/data/deep", rootfs.path().join("link")).unwrap();
        for cwd in ["/data/x", "/link/x"] {
            let failure = create(cwd, Some((volume.path(), "ro")), rootfs.path()).unwrap_err();
            assert!(failure.message.contains("read-only"), "{failure}");
        }
        assert_eq!(std::fs::read_dir(volume.path()).unwrap().count(), 0);
        create("/data", Some((volume.path(), "ro")), rootfs.path()).unwrap();
    }

    #[test]
    fn a_symlink_does_not_lead_out_of_the_rootfs() {
        let rootfs = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), rootfs.path().join("link")).unwrap();
        create("/link/made", None, rootfs.path()).unwrap();
        create("/../../made", None, rootfs.path()).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
