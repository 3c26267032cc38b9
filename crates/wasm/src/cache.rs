//! Native code that this node compiled, kept in a folder that only this user can enter.
//!
//! The name of an artifact is the SHA-256 of its Wasm and everything else that decides whether
//! it fits (see `key`). Nothing else ever reaches Wasmtime's `deserialize`, which trusts its
//! input completely: a forged artifact is native code that runs outside of any sandbox.
//!
//! ```text
//! bytes --BLAKE3--> what is known of them --+--> artifact, locked and mapped
//!          (sources/)                       |     (code/)
//!                  nothing or no artifact --+--> lock, turn, and a job: SHA-256, classify,
//!                           (failures/)           compile, evict (work/, turns/)
//! ```
//!
//! What is new to the node is read and compiled by a job (see `job`), in a process of its own
//! where the cache is used by operations. It holds lock and turn, so that it goes on when the
//! operation is killed: whoever asks again finds what it has made.
//!
//! Components that become one are found as bytes are, by the BLAKE3 of their digests; if nothing
//! is known, the worker composes them first, and what it has made are bytes like any.

mod artifact;
mod care;
mod error;
mod failures;
mod folder;
mod job;
mod key;
mod limits;
mod lock;
mod mapping;
mod progress;
mod sources;
mod trailer;
mod turns;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use lighter_core::Failure;

use self::error::at;
use self::failures::{Attempt, Failed};
use self::folder::Folder;
use self::key::Key;
use self::lock::Lock;
use self::sources::Known;
use self::turns::Turn;
use crate::classify::{World, classify};
use crate::compile::{self, CompileError};
use crate::engine::Compilation;
use crate::source::{Composition, Digest, Fingerprint, Source, bytes_of, sealed_copy};

pub(crate) use self::artifact::Artifact;
pub use self::care::{Details, Entry, Pruned};
pub use self::error::{CacheError, FolderError};
pub use self::job::{Detach, Job};
pub use self::limits::CacheLimits;
pub use self::progress::Progress;
pub use self::sources::Known as KnownSource;
pub use self::trailer::Trailer;
pub use self::turns::Owner;

/// How long a start waits until its program is compiled, by its own job or another one, with its
/// turn. A create operation has 150 s in all: this leaves it the time to say what it has waited for.
const PATIENCE: Duration = Duration::from_secs(140);

/// Says how a program of a world is compiled, or why it is not.
pub type Choose<'a> = dyn Fn(World) -> Result<Compilation, String> + 'a;

/// The folder of artifacts, and the compile worker that fills it.
#[derive(Clone, Debug)]
pub struct ArtifactCache {
    directory: PathBuf,
    compiler: PathBuf,
    limits: CacheLimits,
    owner: Owner,
    detach: Detach,
    patience: Duration,
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
            limits: CacheLimits::default(),
            owner: Owner::default(),
            detach: |job| job.run().map(Some),
            patience: PATIENCE,
        }
    }

    /// The same cache for somebody in particular, who shares the node's compilations with others.
    pub fn for_owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// The same cache whose jobs are done by `detach`, which may have a process for each. Without
    /// it, the process that asks does them.
    pub fn with_jobs(self, detach: Detach) -> Self {
        Self { detach, ..self }
    }

    /// The same cache for somebody who waits no longer than that until a program is compiled.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same cache with other limits.
    pub fn with_limits(self, limits: CacheLimits) -> Self {
        Self { limits, ..self }
    }

    /// The artifact for `source`, compiled now if it is not there. Blocks while it is compiled,
    /// by this process or another one.
    pub(crate) fn artifact(
        &self,
        source: &Source<'_>,
        choose: &Choose<'_>,
    ) -> Result<Artifact, CacheError> {
        let folder = Folder::open(&self.directory)?;
        let deadline = Instant::now() + self.patience;
        if let Some(composition) = source.components() {
            return self.composed(&folder, composition, choose, deadline);
        }
        if let Some(digest) = source.digest()
            && let Some(artifact) = find_by_digest(&folder, digest, choose)?
        {
            return Ok(artifact);
        }
        Ok(self.of_bytes(&folder, source, choose, deadline)?.0)
    }

    /// The artifact for the bytes of `source`, and what is known of them.
    fn of_bytes(
        &self,
        folder: &Folder,
        source: &Source<'_>,
        choose: &Choose<'_>,
        deadline: Instant,
    ) -> Result<(Artifact, Known), CacheError> {
        let limit = self.limits.source_bytes;
        let fingerprint = source.fingerprint(limit).map_err(CacheError::Source)?;
        if let Some(found) = find(folder, fingerprint, choose)? {
            return Ok(found);
        }
        // Whoever starts the same program now waits here, with nothing of it in memory.
        let lock = self.lock(folder, fingerprint, deadline)?;
        if let Some(found) = find(folder, fingerprint, choose)? {
            return Ok(found);
        }
        self.check_failures(folder, fingerprint, choose)?;
        let turn = self.turn(folder, deadline)?;
        let file = source.reopened().map_err(CacheError::Source)?;
        let is_new = self.detached(folder, file, fingerprint, choose, (lock, turn), deadline)?;
        let (mut artifact, known) =
            find(folder, fingerprint, choose)?.ok_or(CacheError::Evicted)?;
        artifact.is_new = is_new;
        Ok((artifact, known))
    }

    /// Has the bytes of `file` compiled by a job, which gets `lock` and `turn`. Returns whether
    /// that was necessary.
    fn detached(
        &self,
        folder: &Folder,
        file: File,
        fingerprint: Fingerprint,
        choose: &Choose<'_>,
        (mut lock, mut turn): (Lock, Turn),
        deadline: Instant,
    ) -> Result<bool, CacheError> {
        let descriptors = vec![file.as_raw_fd(), lock.descriptor(), turn.0.descriptor()];
        lock.hand_over();
        turn.0.hand_over();
        let work = move || {
            lock.adopt();
            turn.0.adopt();
            let mut attempt = Attempt::Read;
            let done = self.job(folder, file, (fingerprint, &lock), choose, &mut attempt);
            if let Err(error) = &done {
                self.note_failure(folder, fingerprint, attempt, error);
            }
            turn.release();
            lock.release();
            // What is new is locked until it has not been evicted.
            done.and_then(|artifact| {
                if artifact.is_new {
                    self.prune(self.limits.bytes)?;
                }
                Ok(artifact.is_new)
            })
            .map_err(|error| Failure::new(error.class(), error.to_string()))
        };
        let job = Job {
            descriptors,
            limits: &self.limits,
            deadline,
            work: Box::new(work),
        };
        let done = (self.detach)(job);
        compile::remove_job_cgroup();
        done.map_err(CacheError::Job)?
            .ok_or_else(|| self.at_work(folder, fingerprint))
    }

    /// Compiles the bytes of `file`, unless there is an artifact of them already. `attempt` says
    /// how far it came.
    fn job(
        &self,
        folder: &Folder,
        file: File,
        (fingerprint, lock): (Fingerprint, &Lock),
        choose: &Choose<'_>,
        attempt: &mut Attempt,
    ) -> Result<Artifact, CacheError> {
        let limit = self.limits.source_bytes;
        let sealed = sealed_copy(&file, limit, fingerprint).map_err(CacheError::Source)?;
        // The job may outlive the container, whose rootfs it must not keep.
        drop(file);
        let wasm = bytes_of(&sealed).map_err(CacheError::Source)?;
        let known = Known::new(Digest::of(&wasm), classify(&wasm)?);
        let length = wasm.len() as u64;
        drop(wasm);
        let compilation = choose(known.world).map_err(CacheError::NotAllowed)?;
        *attempt = Attempt::Compile(known.world, compilation);
        let key = Key::of(&known.digest, compilation);
        let artifact = match artifact::open(&folder.code(), &key)? {
            Some(artifact) => artifact,
            None => self.compile(folder, (fingerprint, lock), (sealed, length), &known, key)?,
        };
        sources::note(folder, fingerprint, &known)?;
        Ok(artifact)
    }

    /// Refuses what has failed lately and would fail again.
    fn check_failures(
        &self,
        folder: &Folder,
        fingerprint: Fingerprint,
        choose: &Choose<'_>,
    ) -> Result<(), CacheError> {
        match failures::find(folder, fingerprint, &self.limits, choose)? {
            None => Ok(()),
            Some(Failed {
                message,
                class,
                age,
            }) => Err(CacheError::Failed {
                message,
                class,
                seconds: age.as_secs(),
            }),
        }
    }

    /// Remembers a failure that will come again. That it cannot be remembered is not said: the
    /// failure itself is.
    fn note_failure(
        &self,
        folder: &Folder,
        fingerprint: Fingerprint,
        attempt: Attempt,
        error: &CacheError,
    ) {
        if error.is_lasting() {
            let failure = Failure::new(error.class(), error.to_string());
            let _ = failures::note(folder, fingerprint, attempt, &self.limits, &failure);
        }
    }

    /// The artifact for what components become. What they became before is known by their
    /// digests, so that none of them is read then.
    fn composed(
        &self,
        folder: &Folder,
        composition: &Composition<'_>,
        choose: &Choose<'_>,
        deadline: Instant,
    ) -> Result<Artifact, CacheError> {
        let identity = composition.identity();
        let fingerprint = Fingerprint::of_composition(&identity);
        if let Some((artifact, _)) = find(folder, fingerprint, choose)? {
            return Ok(artifact);
        }
        let lock = self.lock(folder, fingerprint, deadline)?;
        if let Some((artifact, _)) = find(folder, fingerprint, choose)? {
            return Ok(artifact);
        }
        self.check_failures(folder, fingerprint, choose)?;
        let turn = self.turn(folder, deadline)?;
        let source = self.compose(composition, &identity).inspect_err(|error| {
            self.note_failure(folder, fingerprint, Attempt::Read, error);
        })?;
        turn.release();
        let (artifact, known) = self.of_bytes(folder, &source, choose, deadline)?;
        sources::note(folder, fingerprint, &known)?;
        lock.release();
        Ok(artifact)
    }

    /// Has the worker make one component of several.
    fn compose(
        &self,
        composition: &Composition<'_>,
        identity: &str,
    ) -> Result<Source<'static>, CacheError> {
        let limit = self.limits.source_bytes;
        let input = composition.input(limit).map_err(CacheError::Source)?;
        let file = self.scratch_file()?;
        let composed = compile::compose(&self.compiler, input, &file, &self.limits)
            .map_err(CacheError::Compose)?;
        if composed.identity != Digest::of(identity.as_bytes()).to_string() {
            return Err(CacheError::Compose(CompileError::OtherSource));
        }
        Source::new(file).map_err(CacheError::Source)
    }

    /// Waits until nobody else compiles these bytes.
    fn lock(
        &self,
        folder: &Folder,
        fingerprint: Fingerprint,
        deadline: Instant,
    ) -> Result<Lock, CacheError> {
        match Lock::take(&lock_path(folder, fingerprint), deadline) {
            Err(FolderError::Busy { .. }) => Err(self.at_work(folder, fingerprint)),
            other => Ok(other?),
        }
    }

    /// Says that these bytes are being compiled.
    fn at_work(&self, folder: &Folder, fingerprint: Fingerprint) -> CacheError {
        let lock = lock_path(folder, fingerprint);
        CacheError::AtWork(Progress::of(&lock, self.limits.seconds))
    }

    /// Waits until this compilation may run, so that pods do not take a node's memory by many
    /// programs that are new to it.
    fn turn(&self, folder: &Folder, deadline: Instant) -> Result<Turn, CacheError> {
        let began = Instant::now();
        let turn = Turn::take(folder, &self.owner, self.limits.at_a_time, deadline)?;
        turn.ok_or_else(|| CacheError::NoTurn {
            seconds: began.elapsed().as_secs(),
        })
    }

    /// An empty file without a name, for bytes on their way into the cache.
    ///
    /// # Errors
    /// When the folder cannot be trusted or written.
    pub fn scratch_file(&self) -> Result<File, FolderError> {
        let folder = Folder::open(&self.directory)?;
        let path = folder.work().join(format!("{}.source", std::process::id()));
        let file = folder::create(&path)?;
        folder::remove(&path)?;
        Ok(file)
    }

    /// The longest Wasm that is accepted.
    pub fn source_limit(&self) -> u64 {
        self.limits.source_bytes
    }

    /// Forgets an artifact that Wasmtime refuses, so that it is compiled again.
    ///
    /// # Errors
    /// When the fault is not the artifact's: no code of the folder can be run.
    pub(crate) fn discard(&self, artifact: &Artifact) -> Result<(), CacheError> {
        mapping::check(&self.directory, &artifact.file)?;
        Ok(artifact::forget(artifact)?)
    }

    /// Only the holder of the lock of `fingerprint` calls this.
    fn compile(
        &self,
        folder: &Folder,
        (fingerprint, lock): (Fingerprint, &Lock),
        (wasm, source_bytes): (File, u64),
        known: &Known,
        key: Key,
    ) -> Result<Artifact, CacheError> {
        let unfinished = folder.work().join(format!("{fingerprint}.partial"));
        // A leftover may still be open in the worker of a process that was killed.
        let file = folder::create(&unfinished)?;
        let compiled = self
            .fill(
                (&file, &unfinished),
                lock,
                (wasm, source_bytes),
                known.world,
                key,
            )
            .and_then(|trailer| {
                Ok(artifact::publish(
                    &folder.code(),
                    &unfinished,
                    &file,
                    trailer,
                )?)
            });
        if compiled.is_err() {
            folder::remove(&unfinished)?;
        }
        compiled
    }

    /// Has the worker write its code into `file`.
    fn fill(
        &self,
        (file, path): (&File, &Path),
        lock: &Lock,
        (wasm, source_bytes): (File, u64),
        world: World,
        key: Key,
    ) -> Result<Trailer, CacheError> {
        let began = Instant::now();
        let report = compile::compile(
            &self.compiler,
            key.compilation,
            wasm,
            file,
            &self.limits,
            &|worker| progress::note(lock, worker),
        )?;
        if report.source != key.source {
            return Err(CompileError::OtherSource.into());
        }
        let code_bytes = file.metadata().map_err(|error| at(path, error))?.len();
        let checksum = Fingerprint::of_file(file, code_bytes).map_err(|error| at(path, error))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Trailer {
            key,
            world,
            source_bytes,
            code_bytes,
            checksum: checksum.to_string(),
            engine: report.engine,
            written: now.unwrap_or_default().as_secs(),
            milliseconds: began.elapsed().as_millis() as u64,
        })
    }
}

/// The artifact for bytes that were compiled before, of which nothing but the SHA-256 is known.
/// What they are stands in every artifact that was made of them.
fn find_by_digest(
    folder: &Folder,
    digest: &str,
    choose: &Choose<'_>,
) -> Result<Option<Artifact>, CacheError> {
    for compilation in Compilation::all() {
        let key = Key::of(digest, compilation);
        if let Some(artifact) = artifact::open(&folder.code(), &key)? {
            let wanted = choose(artifact.world).map_err(CacheError::NotAllowed)?;
            if wanted == compilation {
                return Ok(Some(artifact));
            }
            return Ok(artifact::open(&folder.code(), &Key::of(digest, wanted))?);
        }
    }
    Ok(None)
}

/// The lock of whoever is the only one who compiles these bytes.
fn lock_path(folder: &Folder, fingerprint: Fingerprint) -> PathBuf {
    folder.work().join(format!("{fingerprint}.lock"))
}

/// The artifact for bytes that were compiled before, and what is known of them.
fn find(
    folder: &Folder,
    fingerprint: Fingerprint,
    choose: &Choose<'_>,
) -> Result<Option<(Artifact, Known)>, CacheError> {
    let Some(known) = sources::find(folder, fingerprint)? else {
        return Ok(None);
    };
    let compilation = choose(known.world).map_err(CacheError::NotAllowed)?;
    let key = Key::of(&known.digest, compilation);
    let artifact = artifact::open(&folder.code(), &key)?;
    Ok(artifact.map(|artifact| (artifact, known)))
}
