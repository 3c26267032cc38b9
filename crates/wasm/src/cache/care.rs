//! What an administrator does with the cache, and what keeps it within its bounds.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::artifact::{Artifact, is_undamaged, read_trailer};
use super::error::{CacheError, FolderError, at};
use super::folder::{Folder, names, remove};
use super::key::Key;
use super::lock::Lock;
use super::trailer::Trailer;
use super::{ArtifactCache, Choose, sources};
use crate::classify::World;
use crate::compile::remove_left_cgroups;
use crate::engine::Compilation;
use crate::source::Source;

/// How long others may look after the folder: `verify` reads all of it.
const CARE_TIMEOUT: Duration = Duration::from_secs(60);

/// An artifact, as a listing shows it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// SHA-256 of the Wasm, as 64 hexadecimal digits.
    pub source: String,
    /// What it was compiled for.
    pub compilation: Compilation,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was used last, to the minute.
    pub last_used: SystemTime,
    /// Whether a process maps it.
    pub in_use: bool,
    /// Whether this release can map it on this processor.
    pub usable: bool,
    /// What it says of itself; none when it is damaged.
    pub details: Option<Details>,
    path: PathBuf,
}

/// What an artifact says of itself.
#[derive(Clone, Debug)]
pub struct Details {
    /// What the Wasm is.
    pub world: World,
    /// Length of the Wasm.
    pub source_bytes: u64,
    /// `Engine::precompile_compatibility_hash` of the engine that compiled it.
    pub engine: String,
    /// How long that took.
    pub compiled_in: Duration,
}

/// What [`ArtifactCache::prune`] did.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// What is gone.
    pub removed: Vec<Entry>,
    /// Bytes of what stays.
    pub bytes: u64,
    /// How many of what stays are there only because a process maps them.
    pub kept_in_use: usize,
}

impl ArtifactCache {
    /// All artifacts, by their source.
    ///
    /// # Errors
    /// When the folder cannot be trusted or read.
    pub fn list(&self) -> Result<Vec<Entry>, FolderError> {
        list(&Folder::open(&self.directory)?)
    }

    /// Removes all artifacts of the sources whose digests begin with `prefix`.
    ///
    /// # Errors
    /// When there is none, when the prefix stands for several sources, or when one of the
    /// artifacts is in use; nothing is removed then.
    pub fn remove(&self, prefix: &str) -> Result<Vec<Entry>, FolderError> {
        let folder = Folder::open(&self.directory)?;
        let lock = care_lock(&folder)?;
        let refused = |why: &str| Err(FolderError::Refused(format!("{prefix}: {why}")));
        let mut chosen = list(&folder)?;
        chosen.retain(|entry| !prefix.is_empty() && entry.source.starts_with(prefix));
        let Some(first) = chosen.first() else {
            return refused("there is no compiled code of a source with this digest");
        };
        if chosen.iter().any(|entry| entry.source != first.source) {
            return refused("several digests begin so: give more digits");
        }
        // All are locked before the first one goes.
        let mut locks = Vec::new();
        for entry in &chosen {
            match lock_unused(&entry.path)? {
                Some(lock) => locks.push(lock),
                None => return refused("a container runs it: stop the container first"),
            }
        }
        for entry in &chosen {
            remove(&entry.path)?;
        }
        drop(locks);
        forget_sources(&folder)?;
        lock.release();
        Ok(chosen)
    }

    /// Removes what this release cannot use, and then what was not used for longest, until no
    /// more than `limit` bytes are left; never what a process maps. Nothing goes while they
    /// are fewer. What killed compilations have left goes too.
    ///
    /// # Errors
    /// When the folder cannot be trusted, read or written.
    pub fn prune(&self, limit: u64) -> Result<Pruned, FolderError> {
        let folder = Folder::open(&self.directory)?;
        let lock = care_lock(&folder)?;
        remove_unfinished(&folder)?;
        remove_left_cgroups();
        let mut entries = list(&folder)?;
        entries.sort_by_key(|entry| (entry.usable, entry.last_used));
        let mut pruned = Pruned {
            bytes: entries.iter().map(|entry| entry.bytes).sum(),
            ..Pruned::default()
        };
        for entry in entries {
            if pruned.bytes <= limit {
                break;
            }
            match lock_unused(&entry.path) {
                // The lock is held until the file is gone: see `artifact::open`.
                Ok(Some(_lock)) => remove(&entry.path)?,
                Ok(None) => {
                    pruned.kept_in_use += 1;
                    continue;
                }
                // Thrown away as damaged meanwhile.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
            pruned.bytes -= entry.bytes;
            pruned.removed.push(entry);
        }
        if !pruned.removed.is_empty() {
            forget_sources(&folder)?;
        }
        lock.release();
        Ok(pruned)
    }

    /// Reads all code and removes what is damaged, whether or not it is in use: who maps it
    /// keeps it, and the next start compiles it again.
    ///
    /// # Errors
    /// When the folder cannot be trusted, read or written.
    pub fn verify(&self) -> Result<Vec<Entry>, FolderError> {
        let folder = Folder::open(&self.directory)?;
        let lock = care_lock(&folder)?;
        let mut damaged = list(&folder)?;
        let mut error = None;
        damaged.retain(|entry| match is_whole(entry) {
            Ok(whole) => !whole,
            Err(failure) => {
                error.get_or_insert(failure);
                false
            }
        });
        if let Some(error) = error {
            return Err(error);
        }
        for entry in &damaged {
            remove(&entry.path)?;
        }
        lock.release();
        Ok(damaged)
    }

    /// Compiles a Wasm file unless that has been done before. The second value says whether it
    /// was compiled now.
    ///
    /// # Errors
    /// [`CacheError`]; the text follows the name of the file.
    pub fn precompile(&self, file: File, choose: &Choose<'_>) -> Result<(Entry, bool), CacheError> {
        let source = Source::new(file).map_err(CacheError::Source)?;
        let artifact = self.artifact(&source, choose)?;
        let Artifact {
            path,
            trailer,
            file,
            is_new,
            ..
        } = artifact;
        drop(file);
        Ok((entry(path, trailer.key)?, is_new))
    }
}

/// One at a time looks after the folder: two that prune would each remove enough for both.
fn care_lock(folder: &Folder) -> Result<Lock, FolderError> {
    let deadline = Instant::now() + CARE_TIMEOUT;
    Lock::take(&folder.work().join("care.lock"), deadline)
}

fn is_gone(error: &FolderError) -> bool {
    matches!(error, FolderError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
}

fn list(folder: &Folder) -> Result<Vec<Entry>, FolderError> {
    let code = folder.code();
    let mut entries = Vec::new();
    for name in names(&code)? {
        let Some(key) = Key::parse(&name) else {
            continue;
        };
        match entry(code.join(name), key) {
            Err(error) if is_gone(&error) => {}
            other => entries.push(other?),
        }
    }
    Ok(entries)
}

fn entry(path: PathBuf, key: Key) -> Result<Entry, FolderError> {
    let failed = |error| at(&path, error);
    let file = open_unnoticed(&path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let trailer = trailer_of(&file, &key).map_err(failed)?;
    Ok(Entry {
        usable: key.is_usable(),
        source: key.source,
        compilation: key.compilation,
        bytes: metadata.len(),
        last_used: metadata.accessed().map_err(failed)?,
        in_use: matches!(file.try_lock(), Err(TryLockError::WouldBlock)),
        details: trailer.map(|trailer| Details {
            world: trailer.world,
            source_bytes: trailer.source_bytes,
            engine: trailer.engine,
            compiled_in: Duration::from_millis(trailer.milliseconds),
        }),
        path,
    })
}

/// What the file says of itself, if it is what its name says.
fn trailer_of(file: &File, key: &Key) -> io::Result<Option<Trailer>> {
    let trailer = read_trailer(file, file.metadata()?.len())?;
    Ok(trailer.filter(|trailer| trailer.key == *key))
}

fn is_whole(entry: &Entry) -> Result<bool, FolderError> {
    let failed = |error| at(&entry.path, error);
    if entry.details.is_none() {
        return Ok(false);
    }
    let file = open_unnoticed(&entry.path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    match read_trailer(&file, length).map_err(failed)? {
        None => Ok(false),
        Some(trailer) => is_undamaged(&file, &trailer).map_err(failed),
    }
}

/// Opens an artifact without making it look used.
fn open_unnoticed(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOATIME)
        .open(path)
}

/// Locks an artifact against whoever wants to map it. None if a process maps it already.
fn lock_unused(path: &Path) -> Result<Option<File>, FolderError> {
    let file = open_unnoticed(path).map_err(|error| at(path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(at(path, error)),
    }
}

/// Forgets what is known of sources that no code is left of.
fn forget_sources(folder: &Folder) -> Result<(), FolderError> {
    let names = names(&folder.code())?;
    sources::retain(folder, |digest| {
        let after = names.partition_point(|name| name.as_str() < digest);
        names
            .get(after)
            .is_some_and(|name| name.starts_with(digest))
    })
}

/// Removes the files of compilations that nobody is at any more.
fn remove_unfinished(folder: &Folder) -> Result<(), FolderError> {
    let work = folder.work();
    for name in names(&work)? {
        let Some((stem, kind @ ("lock" | "partial" | "source"))) = name.rsplit_once('.') else {
            continue;
        };
        if let Some(lock) = Lock::try_take(&work.join(format!("{stem}.lock")))? {
            if kind != "lock" {
                remove(&work.join(&name))?;
            }
            lock.release();
        }
    }
    Ok(())
}
