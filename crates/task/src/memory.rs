//! Containers that run out of memory.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use tokio::io::Interest;

/// The watch on a container's memory cgroup.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    /// Ready when something may have happened.
    watch: OwnedFd,
    /// `memory.events` or, on cgroup v1, `memory.oom_control`.
    events: File,
    is_version_1: bool,
    /// How many processes have been killed so far.
    kills: u64,
}

impl MemoryWatch {
    pub(crate) fn new(watch: OwnedFd, events: File) -> Self {
        let text = read(&events).unwrap_or_default();
        Self {
            watch,
            events,
            is_version_1: text.starts_with("oom_kill_disable"),
            kills: kills(&text).unwrap_or_default(),
        }
    }

    /// A descriptor to wait for, and what for, before [`MemoryWatch::has_run_out`] is asked.
    pub(crate) fn descriptor(&self) -> std::io::Result<(OwnedFd, Interest)> {
        let interest = if self.is_version_1 {
            Interest::READABLE
        } else {
            Interest::PRIORITY
        };
        Ok((self.watch.try_clone()?, interest))
    }

    /// Whether the container has run out of memory since the last call.
    ///
    /// On cgroup v1 the kernel tells it before it kills, so the count is not there yet; and it
    /// tells the same when the cgroup is removed, when the file cannot be read any more. On v2
    /// reading the file is what makes the next event possible.
    pub(crate) fn has_run_out(&mut self) -> bool {
        let notified = self.is_version_1 && nix::unistd::read(&self.watch, &mut [0; 8]).is_ok();
        let Some(text) = read(&self.events) else {
            return false;
        };
        let before = self.kills;
        self.kills = kills(&text).unwrap_or(before);
        if self.is_version_1 {
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

fn kills(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kills_are_told_and_each_time_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\noom_group_kill 0\n");
        let open = || File::open(file.path()).unwrap();
        let mut memory = MemoryWatch::new(open().into(), open());
        write("low 0\nhigh 0\nmax 9\noom 0\noom_kill 1\noom_group_kill 0\n");
        assert!(!memory.has_run_out(), "a limit that was hit is no kill");
        write("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n");
        assert!(memory.has_run_out());
        assert!(!memory.has_run_out());
    }

    #[test]
    fn version_1_tells_by_its_eventfd() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n").unwrap();
        let flags = nix::sys::eventfd::EfdFlags::EFD_NONBLOCK;
        let watch = nix::sys::eventfd::EventFd::from_flags(flags).unwrap();
        let descriptor = std::os::fd::AsFd::as_fd(&watch).try_clone_to_owned();
        let events = File::open(file.path()).unwrap();
        let mut memory = MemoryWatch::new(descriptor.unwrap(), events);
        assert!(!memory.has_run_out());
        watch.write(1).unwrap();
        assert!(memory.has_run_out());
        assert!(!memory.has_run_out());
    }
}
