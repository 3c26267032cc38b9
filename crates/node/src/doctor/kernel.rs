//! What the kernel has to have.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Finding;

/// The first kernel with mount_setattr, which a guest's mounts are sealed by.
const OLDEST: (u32, u32) = (5, 12);
/// What containers are limited by.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub fn user() -> Finding {
    // The owner of a process's folder is its effective user.
    match fs::metadata("/proc/self").map(|folder| folder.uid()) {
        Ok(0) => Ok("root".to_owned()),
        Ok(uid) => Err(format!(
            "this is user {uid}: run it as root, as containerd does"
        )),
        Err(error) => Err(format!("/proc/self: {error}: mount /proc")),
    }
}

pub fn version() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|error| format!("cannot read the kernel's version: {error}"))?;
    judge(release.trim())
}

fn judge(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Ok(release.to_owned()),
        _ => Err(format!(
            "{release} is too old: Lighter needs {}.{} or later",
            OLDEST.0, OLDEST.1
        )),
    }
}

pub fn cgroups() -> Finding {
    cgroups_in(Path::new("/sys/fs/cgroup"))
}

fn cgroups_in(root: &Path) -> Finding {
    let (version, there) = match fs::read_to_string(root.join("cgroup.controllers")) {
        Ok(text) => ("v2", text.split_whitespace().map(str::to_owned).collect()),
        Err(_) => {
            let mounted = |name: &&str| root.join(name).join("cgroup.procs").exists();
            let there: Vec<String> = CONTROLLERS
                .iter()
                .filter(|name| mounted(name))
                .map(|name| (*name).to_owned())
                .collect();
            ("v1", there)
        }
    };
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| !there.iter().any(|present| present == name))
        .collect();
    if missing.is_empty() {
        return Ok(format!("{version} with {}", CONTROLLERS.join(", ")));
    }
    Err(format!(
        "{version} without {}: containers and compilations are not limited by it; enable it on \
         the kernel's command line (cgroup_enable=...) or mount it below {}",
        missing.join(", "),
        root.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused() {
        for release in ["5.12.0", "5.15.0-91-generic", "6.1.0-18-amd64", "10.0"] {
            assert!(judge(release).is_ok(), "{release}");
        }
        for release in ["5.11.22", "4.18.0-553.el8.x86_64", "", "linux"] {
            assert!(judge(release).unwrap_err().contains("5.12"), "{release}");
        }
    }

    #[test]
    fn missing_controllers_are_named() {
        let root = tempfile::tempdir().unwrap();
        let fault = cgroups_in(root.path()).unwrap_err();
        assert!(fault.starts_with("v1 without cpu, memory, pids"), "{fault}");
        for name in CONTROLLERS {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("cgroup.procs"), "").unwrap();
        }
        assert!(cgroups_in(root.path()).unwrap().starts_with("v1"));
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
        let fault = cgroups_in(root.path()).unwrap_err();
        assert!(fault.starts_with("v2 without memory"), "{fault}");
    }
}
