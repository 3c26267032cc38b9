//! The page of counters of a guest's container: a file in the container's state folder, which
//! the guest's process has mapped and nothing else of.
//!
//! Init has to have the page before libcontainer makes the folder: so the file has no name at
//! first, and one that is created in vain leaves nothing behind. It goes with the folder; what was
//! counted is kept for a while, because a kubelet removes a container as soon as it has ended.
#![allow(unsafe_code)] // mmap(2).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lighter_core::{
    COUNTERS_BYTES, COUNTERS_FILE, Count, Counters, ENDED_FOLDER, KEPT_FOR, MOST_KEPT,
    ProcessTimes, STATE_FILE, STATE_ROOT,
};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use crate::manage::ContainerLocation;
use crate::{state_dir, warnings};

/// The page, and the file that it is a page of.
pub(crate) struct CountersPage {
    file: File,
    pub(crate) counters: &'static Counters,
}

fn path(location: &ContainerLocation) -> PathBuf {
    location.state().join(COUNTERS_FILE)
}

impl CountersPage {
    /// A page of zeros, which the forks of this process share.
    pub(crate) fn new(location: &ContainerLocation) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE)
            .open(location.state_folder())?;
        file.set_len(COUNTERS_BYTES as u64)?;
        let length = NonZeroUsize::new(COUNTERS_BYTES).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &file, 0)? };
        // SAFETY: the mapping is aligned to a page, as long as `Counters`, and stays as long as
        // this process. It is accessed by atomic operations only, for which all bytes are valid.
        let counters = unsafe { page.cast::<Counters>().as_ref() };
        Ok(Self { file, counters })
    }

    /// Gives the file its name, for who watches the container whose init is `pid`.
    pub(crate) fn publish(&self, location: &ContainerLocation, pid: i32) -> io::Result<()> {
        self.counters.set(Count::Started, started(pid)?);
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            unnamed.as_str(),
            nix::fcntl::AT_FDCWD,
            &path(location),
            AtFlags::AT_SYMLINK_FOLLOW,
        )?;
        Ok(())
    }
}

/// Keeps what a container that is being removed has counted. The container's removal
/// does not depend on it.
pub(crate) fn keep(location: &ContainerLocation) {
    if let Err(error) = try_keep(location)
        && error.kind() != io::ErrorKind::NotFound
    {
        warnings::warn(format!("what the container has counted is lost: {error}"));
    }
}

fn try_keep(location: &ContainerLocation) -> io::Result<()> {
    let mut bytes = fs::read(path(location))?;
    bytes.extend(fs::read(location.state().join(STATE_FILE))?);
    let folder = Path::new(STATE_ROOT).join(ENDED_FOLDER);
    state_dir::create_private(&folder)?;
    let file = folder.join(format!("{}:{}", location.namespace, location.id));
    state_dir::create_private_file(&file)?.write_all(&bytes)?;
    prune(&folder, SystemTime::now())
}

/// Removes those that are older than [`KEPT_FOR`], and the oldest of too many. Their number is
/// bounded, and so is the work.
fn prune(folder: &Path, now: SystemTime) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    kept.sort_by(|one, other| other.cmp(one));
    let is_old = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age >= KEPT_FOR);
    for (number, (time, path)) in kept.iter().enumerate() {
        if number >= MOST_KEPT || is_old(*time) {
            // Another removal may have been faster.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// When a process was started.
fn started(pid: i32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/stat");
    ProcessTimes::of_stat(&fs::read_to_string(&path)?)
        .map(|times| times.started)
        .ok_or_else(|| io::Error::other(format!("{path} is of another form")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_of_too_many_go_and_all_that_are_old() {
        let folder = tempfile::tempdir().unwrap();
        let begin = SystemTime::UNIX_EPOCH;
        for number in 0..MOST_KEPT as u64 + 3 {
            let file = File::create(folder.path().join(format!("ns:{number}"))).unwrap();
            file.set_modified(begin + Duration::from_secs(number))
                .unwrap();
        }
        let has = |number: usize| folder.path().join(format!("ns:{number}")).exists();
        prune(folder.path(), begin + KEPT_FOR).unwrap();
        assert!(!has(0) && !has(2) && has(3) && has(MOST_KEPT + 2));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), MOST_KEPT);
        prune(folder.path(), begin + Duration::from_secs(9) + KEPT_FOR).unwrap();
        assert!(!has(9) && has(10) && has(MOST_KEPT + 2));
    }
}
