//! The entrypoint as the container's user sees it, checked in init before Create is answered.
//!
//! The wording follows runc's, because `docker run` derives its exit codes 126 and 127 from
//! "permission denied", "executable file not found" and "no such file or directory".

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lighter_core::Failure;
use nix::unistd::{AccessFlags, access};

use crate::init::as_after_exec;

/// The search path of a container that sets none, as runc has it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds the program `name` as execvp would, by the container's `PATH`.
pub(crate) fn find_executable(
    name: &str,
    env: &[(String, String)],
    cwd: &str,
) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        let path = Path::new(cwd).join(name);
        return executable(&path)
            .map(|()| path)
            .map_err(|error| Failure::invalid(format!("exec: {name:?}: {error}")));
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH");
    let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_str());
    let mut denied = false;
    for folder in path.split(':') {
        let candidate = Path::new(cwd).join(folder).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => denied |= error.contains("permission denied"),
        }
    }
    Err(Failure::invalid(if denied {
        format!("exec: {name:?}: permission denied")
    } else {
        format!("exec: {name:?}: executable file not found in $PATH")
    }))
}

fn executable(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("stat {}: no such file or directory", path.display())
        }
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => format!("stat {}: {error}", path.display()),
    })?;
    if metadata.is_dir() {
        return Err("is a directory".to_owned());
    }
    access(path, AccessFlags::X_OK).map_err(|_| "permission denied".to_owned())
}

/// Checks that the container's user may read the module at `path` and that it is the file the
/// guest was prepared from: a mount or a hook may show the container another one.
pub(crate) fn check_guest(path: &Path, identity: (u64, u64)) -> Result<(), Failure> {
    // A module could have become a FIFO since it was found.
    let open = || {
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
    };
    let opened = as_after_exec(open).map_err(|error| {
        Failure::internal(format!("exec: {path:?}: cannot set capabilities: {error}"))
    })?;
    let file = opened.map_err(|error| {
        Failure::invalid(match error.kind() {
            std::io::ErrorKind::PermissionDenied => format!(
                "exec: {path:?}: permission denied: the container's user may not read the module"
            ),
            _ => format!("exec: {path:?}: {error}"),
        })
    })?;
    let metadata = file
        .metadata()
        .map_err(|error| Failure::internal(format!("exec: {path:?}: {error}")))?;
    if (metadata.dev(), metadata.ino()) == identity {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "exec: {path:?}: the container sees another file there than the one that was found from outside; mounts made by a hook cannot hold the entrypoint"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn message(name: &str, path: Option<&str>) -> String {
        let env: Vec<_> = path
            .map(|path| ("PATH".into(), path.into()))
            .into_iter()
            .collect();
        find_executable(name, &env, "/").unwrap_err().message
    }

    #[test]
    fn programs_are_found_by_path_and_by_name() {
        assert_eq!(
            find_executable("/bin/sh", &[], "/").unwrap(),
            Path::new("/bin/sh")
        );
        assert_eq!(
            find_executable("bin/sh", &[], "/").unwrap(),
            Path::new("/bin/sh")
        );
        assert!(find_executable("sh", &[], "/").unwrap().ends_with("sh"));
        let last_counts = [
            ("PATH".into(), "/nowhere".into()),
            ("PATH".into(), "/bin".into()),
        ];
        assert_eq!(
            find_executable("sh", &last_counts, "/").unwrap(),
            Path::new("/bin/sh")
        );
    }

    #[test]
    fn the_wording_is_the_one_docker_reads() {
        assert_eq!(
            message("/missing", None),
            "exec: \"/missing\": stat /missing: no such file or directory"
        );
        assert_eq!(
            message("missing", None),
            "exec: \"missing\": executable file not found in $PATH"
        );
        assert_eq!(message("/usr", None), "exec: \"/usr\": is a directory");
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, "").unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).unwrap();
        let folder = folder.path().to_str().unwrap();
        assert_eq!(
            message("program", Some(folder)),
            "exec: \"program\": permission denied"
        );
    }

    #[test]
    fn a_fifo_at_the_guests_path_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(check_guest(&path, (0, 0)).is_err());
    }

    #[test]
    fn another_file_at_the_guests_path_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        std::fs::write(&path, "a").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let identity = (metadata.dev(), metadata.ino());
        check_guest(&path, identity).unwrap();
        std::fs::write(folder.path().join("b"), "b").unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert!(check_guest(&path, identity).is_err());
    }
}
