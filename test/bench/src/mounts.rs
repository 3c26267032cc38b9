//! Mounts that make a host look like one with many containers.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts of this process' namespace.
pub(crate) fn count() -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    mounts.lines().count()
}

/// Bind mounts and small file systems in memory, in turn; undone when dropped.
pub(crate) struct ExtraMounts {
    folder: PathBuf,
    made: Vec<PathBuf>,
}

impl ExtraMounts {
    /// Makes `count` mounts below a new folder in `place`.
    pub(crate) fn add(place: &Path, count: usize) -> Self {
        let mut extra = Self {
            folder: place.join("extra-mounts"),
            made: Vec::new(),
        };
        let source = extra.folder.join("source");
        fs::create_dir_all(&source).expect("make the folder of the mounts");
        for number in 0..count {
            let target = extra.folder.join(number.to_string());
            fs::create_dir(&target).expect("make a mount point");
            let none = None::<&Path>;
            let done = if number % 2 == 0 {
                mount(Some(&source), &target, none, MsFlags::MS_BIND, none)
            } else {
                mount(
                    none,
                    &target,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    Some("size=4k"),
                )
            };
            done.unwrap_or_else(|error| panic!("cannot mount {}: {error}", target.display()));
            extra.made.push(target);
        }
        extra
    }
}

impl Drop for ExtraMounts {
    fn drop(&mut self) {
        for target in self.made.iter().rev() {
            if let Err(error) = umount2(target, MntFlags::empty()) {
                eprintln!("cannot unmount {}: {error}", target.display());
            }
        }
        // Not recursive: a folder that is still a mount point must not be emptied.
        for target in self
            .made
            .iter()
            .chain([&self.folder.join("source"), &self.folder])
        {
            let _ = fs::remove_dir(target);
        }
    }
}
