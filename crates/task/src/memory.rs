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
    /// How many of them have been told.
    told: u64,
    slice: Option<Slice>,
}

/// The slice of a scope that systemd has made (decision 0021).
///
/// systemd removes the scope as soon as its last process has ended, before or after the shim
/// could read what killed it. The slice stays, and the kernel counts there what was killed below.
#[derive(Debug)]
struct Slice {
    /// Its `memory.events`.
    events: File,
    /// How many of its kills are not the container's.
    others: u64,
}

impl MemoryWatch {
    /// `slice` is its `memory.events`, for a scope of systemd's.
    pub(crate) fn new(watch: OwnedFd, events: File, slice: Option<File>) -> Self {
        let is_version_1 = read(&events).is_some_and(|text| text.starts_with("oom_kill_disable"));
        let mut memory = Self {
            watch,
            events,
            is_version_1,
            kills: 0,
            told: 0,
            slice: slice.map(|events| Slice { events, others: 0 }),
        };
        memory.count();
        memory.told = memory.kills;
        memory
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
        let counted = self.count();
        let killed = self.kills > self.told;
        self.told = self.kills;
        if self.is_version_1 {
            counted && notified
        } else {
            killed
        }
    }

    /// The same once init has been killed, when systemd may have removed the cgroup already: of
    /// what was killed in the slice, it is told then what no other cgroup is known to have.
    pub(crate) fn had_run_out(&mut self) -> bool {
        if !self.count()
            && let Some(slice) = &self.slice
            && let Some(all) = kills(&slice.events)
        {
            self.kills = self.kills.max(all.saturating_sub(slice.others));
        }
        self.has_run_out()
    }

    /// Counts what was killed so far, in this cgroup and in others of its slice. False if the
    /// cgroup is gone.
    ///
    /// The slice comes first: a kill in between is then one of the container's own, which may be
    /// told twice, but is never lost.
    pub(crate) fn count(&mut self) -> bool {
        let all = self.slice.as_ref().and_then(|slice| kills(&slice.events));
        let Some(text) = read(&self.events) else {
            return false;
        };
        self.kills = kills_in(&text).unwrap_or(self.kills);
        if let (Some(slice), Some(all)) = (&mut self.slice, all) {
            slice.others = all.saturating_sub(self.kills);
        }
        true
    }
}

fn kills(events: &File) -> Option<u64> {
    kills_in(&read(events)?)
}

fn read(file: &File) -> Option<String> {
    let mut buffer = [0; 512];
    let length = file.read_at(&mut buffer, 0).ok()?;
    String::from_utf8(buffer[..length].to_vec()).ok()
}

fn kills_in(text: &str) -> Option<u64> {
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
        let mut memory = MemoryWatch::new(open().into(), open(), None);
        write("low 0\nhigh 0\nmax 9\noom 0\noom_kill 1\noom_group_kill 0\n");
        assert!(!memory.has_run_out(), "a limit that was hit is no kill");
        write("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n");
        assert!(memory.has_run_out());
        assert!(!memory.has_run_out());
    }

    /// A scope that systemd has removed cannot be read; a directory cannot be either.
    #[test]
    fn what_only_the_slice_still_counts_is_told_of_who_was_killed() {
        let slice = tempfile::NamedTempFile::new().unwrap();
        let write = |kills: u64| std::fs::write(slice.path(), format!("oom_kill {kills}\n"));
        write(4).unwrap();
        let watch = |own: u64| {
            let scope = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(scope.path(), format!("oom_kill {own}\n")).unwrap();
            let open = |path| File::open(path).unwrap();
            let (watch, events) = (open(scope.path()), open(scope.path()));
            MemoryWatch::new(watch.into(), events, Some(open(slice.path())))
        };
        let (mut first, mut second) = (watch(1), watch(0));
        write(5).unwrap();
        first.events = File::open("/").unwrap();
        assert!(!first.has_run_out(), "nothing has ended yet");
        assert!(first.had_run_out());
        assert!(!first.had_run_out(), "it is told once");
        assert!(second.count(), "the shim counts a sibling's kill with it");
        second.events = File::open("/").unwrap();
        assert!(!second.had_run_out(), "that was the sibling's");
        write(6).unwrap();
        assert!(second.had_run_out());
    }

    #[test]
    fn version_1_tells_by_its_eventfd() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n").unwrap();
        let flags = nix::sys::eventfd::EfdFlags::EFD_NONBLOCK;
        let watch = nix::sys::eventfd::EventFd::from_flags(flags).unwrap();
        let descriptor = std::os::fd::AsFd::as_fd(&watch).try_clone_to_owned();
        let events = File::open(file.path()).unwrap();
        let mut memory = MemoryWatch::new(descriptor.unwrap(), events, None);
        assert!(!memory.has_run_out());
        watch.write(1).unwrap();
        assert!(memory.has_run_out());
        assert!(!memory.has_run_out());
    }
}
