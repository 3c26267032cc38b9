//! The working directory: runc creates a missing one, libcontainer fails.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

/// Creates the container's working directory if it does not exist, as runc does.
///
/// It is created in the volume that covers it or else in the rootfs, and symlinks cannot lead
/// out of either. A failure is left to libcontainer's chdir to report.
pub(crate) fn create_missing(spec: &Spec, rootfs: &Path) {
    let Some(process) = spec.process() else {
        return;
    };
    let Some((folder, rest)) = locate(spec, rootfs, process.cwd()) else {
        return;
    };
    if let Ok(root) = pathrs::Root::open(&folder)
        && root.resolve(&rest).is_err()
    {
        let _ = root.mkdir_all(&rest, &std::fs::Permissions::from_mode(0o755));
    }
}

/// The folder outside the container that `cwd` lies in, and the rest of the path in it.
fn locate(spec: &Spec, rootfs: &Path, cwd: &Path) -> Option<(PathBuf, PathBuf)> {
    let covering = spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| cwd.starts_with(mount.destination()))
        .max_by_key(|mount| mount.destination().components().count());
    let (folder, rest) = match covering {
        Some(mount) => {
            let source = mount.source().as_ref().filter(|source| source.is_dir())?;
            (
                source.as_path(),
                cwd.strip_prefix(mount.destination()).ok()?,
            )
        }
        None => (rootfs, cwd.strip_prefix("/").unwrap_or(cwd)),
    };
    (!rest.as_os_str().is_empty()).then(|| (folder.to_owned(), rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{MountBuilder, ProcessBuilder, SpecBuilder};

    fn spec(cwd: &Path, volume: Option<&Path>) -> Spec {
        let mut mounts = vec![];
        if let Some(volume) = volume {
            mounts.push(
                MountBuilder::default()
                    .destination("/data")
                    .typ("bind")
                    .source(volume)
                    .build()
                    .unwrap(),
            );
        }
        SpecBuilder::default()
            .process(ProcessBuilder::default().cwd(cwd).build().unwrap())
            .mounts(mounts)
            .build()
            .unwrap()
    }

    #[test]
    fn a_missing_folder_is_created_where_the_container_will_see_it() {
        let rootfs = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        create_missing(&spec(Path::new("/a/b"), None), rootfs.path());
        assert!(rootfs.path().join("a/b").is_dir());
        create_missing(
            &spec(Path::new("/data/x"), Some(volume.path())),
            rootfs.path(),
        );
        assert!(volume.path().join("x").is_dir());
        assert!(!rootfs.path().join("data").exists());
    }

    #[test]
    fn a_symlink_does_not_lead_out_of_the_rootfs() {
        let rootfs = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), rootfs.path().join("link")).unwrap();
        create_missing(&spec(Path::new("/link/made"), None), rootfs.path());
        create_missing(&spec(Path::new("/../../made"), None), rootfs.path());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
