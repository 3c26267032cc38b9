//! Containers that run out of memory.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// The watch on a container's memory cgroup.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    /// Readable when something may have happened.
    watch: OwnedFd,
    /// `memory.events` or, on cgroup v1, `memory.oom_control`.
    events: File,
    /// How many processes have been killed so far.
    kills: u64,
}

impl MemoryWatch {
    pub(crate) fn new(watch: OwnedFd, events: File) -> Self {
        let kills = read(&events)
            .and_then(|text| kills(&text))
            .unwrap_or_default();
        Self {
            watch,
            events,
            kills,
        }
    }

    /// A descriptor to wait for, readable when [`MemoryWatch::has_run_out`] should be asked.
    pub(crate) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.watch.try_clone()
    }

    /// Whether the container has run out of memory since the last call.
    ///
    /// On cgroup v1 the kernel tells it before it kills, so the count is not there yet; and it
    /// tells the same when the cgroup is removed, when the file cannot be read any more.
    pub(crate) fn has_run_out(&mut self) -> bool {
        let mut notified = false;
        let mut buffer = [0; 4096];
        while nix::unistd::read(&self.watch, &mut buffer).is_ok_and(|length| length > 0) {
            notified = true;
        }
        let Some(text) = read(&self.events) else {
            return false;
        };
        let before = self.kills;
        self.kills = kills(&text).unwrap_or(before);
        if is_version_1(&text) {
            notified
        } else {
            self.kills > before
        }
    }
}

fn read(file: &File) -> Option<String> {
    let mut buffer = [0; 512];
    let length = file.read_at(&mut buffer, 0).ok()?;
    String::from_utf8(buffer[..length].to_vec()).ok()
}

fn is_version_1(text: &str) -> bool {
    text.starts_with("oom_kill_disable")
}

fn kills(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    use std::os::fd::AsFd;

    #[test]
    fn only_kills_are_told_and_each_time_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 0\n");
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        inotify
            .add_watch(file.path(), AddWatchFlags::IN_MODIFY)
            .unwrap();
        let watch = inotify.as_fd().try_clone_to_owned().unwrap();
        let mut memory = MemoryWatch::new(watch, File::open(file.path()).unwrap());
        write("low 0\nhigh 0\nmax 9\noom 0\noom_kill 1\noom_group_kill 0\n");
        assert!(!memory.has_run_out(), "a limit that was hit is no kill");
        write("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n");
        assert!(memory.has_run_out());
        assert!(!memory.has_run_out());
    }
}
