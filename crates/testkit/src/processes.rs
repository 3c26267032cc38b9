//! The processes of this machine, read from /proc.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A process as /proc shows it at one moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's id.
    pub parent: i32,
    /// Its name, at most 15 bytes.
    pub comm: String,
    /// Its state: `R`, `S`, `D`, `Z` ...
    pub state: char,
    /// When it started, in clock ticks since boot: tells a reused pid from the old one.
    pub started: u64,
    /// Its arguments, separated by spaces; empty for a zombie.
    pub command_line: String,
    /// The text of its cgroup file.
    pub cgroups: String,
}

impl Process {
    /// The process of this id; nothing when it has ended.
    pub fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may itself contain parentheses and spaces.
        let (start, end) = (stat.find('(')?, stat.rfind(')')?);
        let fields: Vec<&str> = stat[end + 1..].split_whitespace().collect();
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            comm: stat[start + 1..end].to_owned(),
            state: fields.first()?.chars().next()?,
            // Field 22 of stat(5); the fields here begin with the third.
            started: fields.get(19)?.parse().ok()?,
            command_line: String::from_utf8_lossy(&command_line).replace('\0', " "),
            cgroups: fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default(),
        })
    }

    /// All processes.
    pub fn all() -> Vec<Self> {
        fs::read_dir("/proc")
            .expect("/proc is mounted")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(Self::read)
            .collect()
    }

    /// The paths of the Unix sockets that it has open and that have a path.
    pub fn sockets(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/net/unix").expect("/proc is mounted");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid))
            .into_iter()
            .flatten();
        let open: BTreeSet<String> = descriptors
            .flatten()
            .filter_map(|entry| {
                fs::read_link(entry.path())
                    .ok()?
                    .into_os_string()
                    .into_string()
                    .ok()
            })
            .collect();
        table
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace().skip(6);
                let (inode, path) = (fields.next()?, fields.next()?);
                open.contains(&format!("socket:[{inode}]"))
                    .then(|| PathBuf::from(path))
            })
            .collect()
    }
}
