//! Native code that this node compiled, kept in a folder that only this user can enter.
//!
//! The name of an artifact is the SHA-256 of its Wasm and a hash of everything else that
//! decides whether it fits (see `engine::compatibility`). Nothing else ever reaches Wasmtime's
//! `deserialize`, which trusts its input completely: a forged artifact is native code that
//! runs outside of any sandbox.
//!
//! ```text
//! artifacts/DIGEST-COMPATIBILITY           complete: renamed here after fsync
//! artifacts/DIGEST-COMPATIBILITY.partial   being written, by the holder of the lock
//! artifacts/DIGEST-COMPATIBILITY.lock      exists while somebody compiles
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::classify::{NotRunnable, World, classify};
use crate::compile::{self, CompileError};
use crate::engine::{self, Compilation};
use crate::source::{Digest, Source};

/// Why there is no artifact for a Wasm file.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The Wasm file could not be read.
    #[error("cannot be read: {0}")]
    Source(#[source] io::Error),
    /// The file is no Wasm binary.
    #[error(transparent)]
    NotRunnable(#[from] NotRunnable),
    /// This node does not run binaries of this kind; the text says why.
    #[error("{0}")]
    NotAllowed(String),
    /// The Wasm binary was not compiled.
    #[error("cannot be compiled: {0}")]
    Compile(#[from] CompileError),
    /// The folder does not belong to this user alone.
    #[error(
        "cannot be compiled: the folder {path} of compiled Wasm {fault}; nobody but its owner may be able to write native code there: fix it or remove the folder"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A file of the cache could not be made, locked or renamed.
    #[error("cannot be compiled: {path}: {error}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

/// An artifact of this node. That it exists says who made it, not that it is undamaged.
#[derive(Debug)]
pub(crate) struct Artifact {
    pub(crate) path: PathBuf,
    pub(crate) world: World,
    pub(crate) compilation: Compilation,
}

/// The folder of artifacts, and the compile worker that fills it.
#[derive(Clone, Debug)]
pub struct ArtifactCache {
    directory: PathBuf,
    compiler: PathBuf,
}

impl ArtifactCache {
    /// Where a node keeps its artifacts unless it is told otherwise.
    pub const DEFAULT_DIRECTORY: &str = "/var/lib/lighter/artifacts";

    /// A cache in `directory` (made at the first use, mode 0700) whose artifacts are compiled
    /// by the program at the path `compiler`.
    pub fn new(directory: PathBuf, compiler: PathBuf) -> Self {
        Self {
            directory,
            compiler,
        }
    }

    /// The artifact for `source`, compiled now if it is not there. Blocks while it is compiled,
    /// by this process or another one. `choose` says how a program of a world is compiled.
    pub(crate) fn artifact(
        &self,
        source: &Source,
        choose: &dyn Fn(World) -> Result<Compilation, String>,
    ) -> Result<Artifact, CacheError> {
        self.check_directory()?;
        let wasm = source.copy().map_err(CacheError::Source)?;
        let world = classify(&wasm)?;
        let compilation = choose(world).map_err(CacheError::NotAllowed)?;
        let path = self.path_of(Digest::of(&wasm), compilation);
        let lock = Lock::take(&path.with_extension("lock"))?;
        if !path.exists() {
            self.compile(wasm, compilation, &path)?;
        }
        lock.release();
        Ok(Artifact {
            path,
            world,
            compilation,
        })
    }

    /// Forgets an artifact that turned out to be damaged.
    pub(crate) fn discard(&self, artifact: &Artifact) -> Result<(), CacheError> {
        remove(&artifact.path)
    }

    fn path_of(&self, digest: Digest, compilation: Compilation) -> PathBuf {
        let key = compatibility_key(compilation);
        self.directory.join(format!("{digest}-{compilation}-{key}"))
    }

    /// Only the holder of the lock of `path` calls this.
    fn compile(
        &self,
        wasm: Vec<u8>,
        compilation: Compilation,
        path: &Path,
    ) -> Result<(), CacheError> {
        let partial = path.with_extension("partial");
        // A leftover may still be open in the worker of a process that was killed.
        remove(&partial)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .map_err(|error| at(&partial, error))?;
        let compiled = compile::compile(
            &self.compiler,
            compilation,
            wasm,
            &file,
            compile::TIME_LIMIT,
        )
        .map_err(CacheError::from)
        // Without it, a power cut could leave a complete name on incomplete code.
        .and_then(|()| file.sync_all().map_err(|error| at(&partial, error)))
        .and_then(|()| fs::rename(&partial, path).map_err(|error| at(path, error)));
        if compiled.is_err() {
            remove(&partial)?;
        }
        compiled
    }

    fn check_directory(&self) -> Result<(), CacheError> {
        let path = &self.directory;
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(path)
                    .map_err(|error| at(path, error))?;
                fs::symlink_metadata(path)
            }
            other => other,
        }
        .map_err(|error| at(path, error))?;
        let fault = if !metadata.is_dir() {
            "is not a folder".to_owned()
        } else if metadata.uid() != geteuid().as_raw() {
            format!("belongs to user {}, not {}", metadata.uid(), geteuid())
        } else if metadata.mode() & 0o077 != 0 {
            format!("has mode {:03o}, not 700", metadata.mode() & 0o777)
        } else {
            return Ok(());
        };
        Err(CacheError::Folder {
            path: path.clone(),
            fault,
        })
    }
}

/// The part of every name that stands for versions and configuration: 16 hexadecimal digits.
fn compatibility_key(compilation: Compilation) -> String {
    let mut key = Digest::of(engine::compatibility(compilation).as_bytes()).to_string();
    key.truncate(16);
    key
}

/// Who holds it compiles one artifact; the file is there only as long as somebody does.
struct Lock {
    /// Unlocked when it is dropped, after [`Lock::drop`].
    _file: Flock<File>,
    path: PathBuf,
}

impl Lock {
    fn take(path: &Path) -> Result<Self, CacheError> {
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|error| at(path, error))?;
            let file = lock(file).map_err(|error| at(path, error))?;
            // If whoever had it before has removed its name, ours locks nothing any more.
            let ours = file.metadata().map_err(|error| at(path, error))?;
            match fs::symlink_metadata(path) {
                Ok(current) if current.ino() == ours.ino() => {
                    return Ok(Self {
                        _file: file,
                        path: path.to_owned(),
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at(path, error)),
            }
        }
    }

    fn release(self) {
        drop(self);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is unlocked, so that nobody finds the name of a lock that is not held. If
        // it fails, an empty file stays and the next holder removes it.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(mut file: File) -> io::Result<Flock<File>> {
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(locked) => return Ok(locked),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, error)) => return Err(error.into()),
        }
    }
}

fn remove(path: &Path) -> Result<(), CacheError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path, error)),
        _ => Ok(()),
    }
}

fn at(path: &Path, error: io::Error) -> CacheError {
    CacheError::Io {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn fault_of(directory: PathBuf) -> String {
        let cache = ArtifactCache::new(directory, PathBuf::from("/nonexistent"));
        cache.check_directory().unwrap_err().to_string()
    }

    #[test]
    fn the_folder_is_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/b");
        let cache = ArtifactCache::new(directory.clone(), PathBuf::from("/nonexistent"));
        cache.check_directory().unwrap();
        cache.check_directory().unwrap();
        let mode = fs::metadata(directory).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("shared");
        fs::create_dir(&directory).unwrap();
        for mode in [0o701, 0o710, 0o720, 0o777] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            let fault = fault_of(directory.clone());
            assert!(fault.contains(&format!("mode {mode:o}")), "{fault}");
        }
    }

    #[test]
    fn what_only_looks_like_a_folder_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(fault_of(file).contains("is not a folder"));
        let link = parent.path().join("link");
        symlink(parent.path(), &link).unwrap();
        assert!(fault_of(link).contains("is not a folder"));
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("foreign");
        fs::create_dir(&directory).unwrap();
        if std::os::unix::fs::chown(&directory, Some(65534), None).is_err() {
            // Only root can give a folder away; anybody else meets one of root's instead.
            assert!(fault_of(PathBuf::from("/root")).contains("belongs to user 0"));
            return;
        }
        assert!(fault_of(directory).contains("belongs to user 65534"));
    }

    #[test]
    fn a_lock_excludes_others_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    use std::sync::atomic::Ordering::SeqCst;
                    for _ in 0..50 {
                        let lock = Lock::take(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                        lock.release();
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
