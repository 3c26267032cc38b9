//! `/dev` of a bundle without a mount there: runc creates it, libcontainer fails.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use lighter_core::{ErrorClass, Failure};

use crate::mount_points::ContainerTree;

/// Creates the directory in which libcontainer makes device nodes and links, if neither the image nor
/// a mount has it.
pub(crate) fn create_missing(tree: &ContainerTree<'_>, rootfs: &Path) -> Result<(), Failure> {
    // The tree has refused a link there.
    if tree.find(Path::new("/dev"))?.mount.is_some() || rootfs.join("dev").exists() {
        return Ok(());
    }
    let failed = |error: pathrs::error::Error| {
        let cause = Failure::from_error(ErrorClass::Internal, &error);
        Failure::internal(format!("cannot create /dev in the rootfs: {cause}"))
    };
    let root = pathrs::Root::open(rootfs).map_err(failed)?;
    root.mkdir_all("dev", &Permissions::from_mode(0o755))
        .map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{MountBuilder, SpecBuilder};

    #[test]
    fn a_directory_is_created_where_nothing_is_mounted() {
        let rootfs = tempfile::tempdir().unwrap();
        let dev = MountBuilder::default()
            .destination("/dev")
            .typ("tmpfs")
            .source("tmpfs")
            .build()
            .unwrap();
        for (mounts, is_created) in [(vec![dev], false), (vec![], true)] {
            let spec = SpecBuilder::default().mounts(mounts).build().unwrap();
            let tree = ContainerTree::new(&spec, rootfs.path()).unwrap();
            create_missing(&tree, rootfs.path()).unwrap();
            assert_eq!(rootfs.path().join("dev").is_dir(), is_created);
        }
    }
}
