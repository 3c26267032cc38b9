//! Where records are kept on the node, found after the pod has gone, and bounded.
//!
//! ```text
//! debug/                        root's alone: a core dump holds what the guest had in memory
//!   NAMESPACE/CONTAINER/        of containerd
//!     1/                        of its first start; docker starts a container more than once
//!       container.json          whose it is; locked while the container's process is there
//!       coredump.wasm, profile.folded
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Tool;

const SUBJECT: &str = "container.json";
/// Bytes that are read of it.
const LONGEST_SUBJECT: u64 = 64 << 10;
/// What a record counts at least, in bytes, so that there are not endlessly many small ones.
const LEAST_COUNTED: u64 = 64 << 10;

/// Whose record it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// containerd's namespace.
    pub namespace: String,
    /// containerd's id of the container.
    pub id: String,
    /// NAMESPACE/POD/CONTAINER of Kubernetes.
    pub pod: Option<String>,
    /// The program, as the container's log names it.
    pub program: String,
}

/// Nothing can be recorded, or a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// Others could read what guests had in memory.
    #[error("the folder {0} has to belong to this user alone (mode 700): fix it or remove it")]
    Unfit(PathBuf),
    /// A file could not be made, read or removed.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// The files of a container that is about to be created.
#[derive(Debug)]
pub struct Record {
    pub(super) lock: File,
    pub(super) core_dump: Option<(PathBuf, File)>,
    pub(super) profile: Option<File>,
    pub(super) most_bytes: u64,
}

/// What was recorded of one start of a container.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Whose it is.
    pub subject: Subject,
    /// Its folder.
    pub folder: PathBuf,
    /// Whether the container's process is still there.
    pub in_use: bool,
    /// When it was begun.
    pub begun: SystemTime,
    /// What there is, and its length in bytes.
    pub files: Vec<(Tool, u64)>,
}

impl Recorded {
    /// The path of what this tool has written.
    pub fn path(&self, tool: Tool) -> Option<PathBuf> {
        let there = self.files.iter().any(|(each, _)| *each == tool);
        there.then(|| self.folder.join(tool.file()))
    }

    fn counted(&self) -> u64 {
        let bytes: u64 = self.files.iter().map(|(_, bytes)| bytes).sum();
        bytes.max(LEAST_COUNTED)
    }
}

/// The records of a node.
#[derive(Clone, Debug)]
pub struct DebugFolder {
    path: PathBuf,
}

impl DebugFolder {
    /// Where it is on a node.
    pub const DEFAULT: &str = "/var/lib/lighter/debug";

    /// The records in the folder `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Opens what `tools` write for a container that is about to be created, after the oldest
    /// records have made room: all together have `most_bytes`.
    ///
    /// # Errors
    /// The folder is not this user's alone, or a file cannot be made.
    pub fn record(
        &self,
        subject: &Subject,
        tools: &[Tool],
        most_bytes: u64,
    ) -> Result<Record, DebugError> {
        make(&self.path)?;
        self.check()?;
        self.make_room(most_bytes)?;
        let folder = self.next_folder(subject)?;
        let open = |tool: Tool| -> Result<Option<File>, DebugError> {
            let wanted = tools.contains(&tool);
            wanted
                .then(|| create(&folder.join(tool.file())))
                .transpose()
        };
        let path = folder.join(SUBJECT);
        let lock = serde_json::to_writer(create(&path)?, subject)
            .map_err(io::Error::from)
            // The guest's process has it open, and has nothing to write there.
            .and_then(|()| File::open(&path))
            .and_then(|lock| lock.lock().map(|()| lock))
            .map_err(|error| DebugError::Io(path, error))?;
        let dumped = folder.join(Tool::CoreDump.file());
        Ok(Record {
            lock,
            core_dump: open(Tool::CoreDump)?.map(|file| (dumped, file)),
            profile: open(Tool::Profile)?,
            most_bytes,
        })
    }

    /// Removes what nothing was written to, after the container has ended. There need not have
    /// been anything.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn settle(&self, namespace: &str, id: &str) -> Result<(), DebugError> {
        let container = self.path.join(namespace).join(id);
        for folder in entries(&container)? {
            let Some(recorded) = read(&folder) else {
                continue;
            };
            if recorded.in_use {
                continue;
            }
            if recorded.files.is_empty() {
                remove(&folder)?;
                continue;
            }
            for tool in Tool::ALL {
                let path = folder.join(tool.file());
                if recorded.path(tool).is_none() && path.exists() {
                    fs::remove_file(&path).map_err(|error| DebugError::Io(path, error))?;
                }
            }
        }
        remove_empty(&container);
        Ok(())
    }

    /// All records, the newest first.
    ///
    /// # Errors
    /// The folder cannot be read, or is not this user's alone.
    pub fn list(&self) -> Result<Vec<Recorded>, DebugError> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        self.check()?;
        let mut list = Vec::new();
        for namespace in entries(&self.path)? {
            for container in entries(&namespace)? {
                list.extend(
                    entries(&container)?
                        .iter()
                        .filter_map(|folder| read(folder)),
                );
            }
        }
        list.sort_by_key(|recorded| std::cmp::Reverse(recorded.begun));
        Ok(list)
    }

    /// Removes a record, also one that is still written to: its process notices nothing.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, recorded: &Recorded) -> Result<(), DebugError> {
        remove(&recorded.folder)?;
        if let Some(container) = recorded.folder.parent() {
            remove_empty(container);
        }
        Ok(())
    }

    fn make_room(&self, most: u64) -> Result<(), DebugError> {
        let list = self.list()?;
        let mut total: u64 = list.iter().map(Recorded::counted).sum();
        for recorded in list.iter().rev() {
            if total <= most {
                break;
            }
            if !recorded.in_use {
                total -= recorded.counted();
                self.remove(recorded)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), DebugError> {
        let metadata = fs::symlink_metadata(&self.path)
            .map_err(|error| DebugError::Io(self.path.clone(), error))?;
        let own = nix::unistd::geteuid().as_raw();
        if metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o077 == 0 {
            Ok(())
        } else {
            Err(DebugError::Unfit(self.path.clone()))
        }
    }

    /// A new folder for the next start of a container.
    fn next_folder(&self, subject: &Subject) -> Result<PathBuf, DebugError> {
        let container = self.path.join(&subject.namespace).join(&subject.id);
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
        let last = entries(&container)?.iter().filter_map(number).max();
        let folder = container.join((last.unwrap_or(0) + 1).to_string());
        make(&folder)?;
        Ok(folder)
    }
}

/// What is in a folder, or nothing if it is none of a record or is just being removed.
fn read(folder: &Path) -> Option<Recorded> {
    let lock = File::open(folder.join(SUBJECT)).ok()?;
    let subject = serde_json::from_reader((&lock).take(LONGEST_SUBJECT)).ok()?;
    let length = |tool: Tool| Some((tool, fs::metadata(folder.join(tool.file())).ok()?.len()));
    Some(Recorded {
        subject,
        folder: folder.to_owned(),
        in_use: matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)),
        begun: lock.metadata().ok()?.modified().ok()?,
        files: Tool::ALL
            .into_iter()
            .filter_map(length)
            .filter(|(_, bytes)| *bytes > 0)
            .collect(),
    })
}

fn make(path: &Path) -> Result<(), DebugError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| DebugError::Io(path.to_owned(), error))
}

fn create(path: &Path) -> Result<File, DebugError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| DebugError::Io(path.to_owned(), error))
}

fn remove(folder: &Path) -> Result<(), DebugError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DebugError::Io(folder.to_owned(), error))
        }
        _ => Ok(()),
    }
}

/// Removes a container's folder, and its namespace's, if nothing is in them.
fn remove_empty(container: &Path) {
    let _ = fs::remove_dir(container);
    if let Some(namespace) = container.parent() {
        let _ = fs::remove_dir(namespace);
    }
}

/// Paths in a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DebugError> {
    let failed = |error| DebugError::Io(folder.to_owned(), error);
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
