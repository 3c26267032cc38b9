//! What could not be compiled lately, so that it is not tried again and again: a module that takes
//! two minutes to fail would else hold a node's compilations at each restart of its container.
//!
//! Only what the module causes is remembered, and only for the limits and the release that it
//! failed with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lighter_core::{ErrorClass, Failure};

use super::error::{FolderError, at};
use super::folder::{Folder, names, remove};
use super::limits::CacheLimits;
use crate::cache::Choose;
use crate::classify::World;
use crate::engine::{self, Compilation};
use crate::source::Fingerprint;

/// How long a failure is remembered. kubelet waits five minutes at most before it restarts a
/// container.
pub(super) const FAILURE_TTL: Duration = Duration::from_secs(600);

/// Most failures that are remembered; the oldest are forgotten first.
const MAX_FAILURES: usize = 256;

/// Longest text of a failure that is kept, in bytes.
const MAX_MESSAGE: usize = 4096;

/// What has failed for some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// To find out what they are, or to make one component of several.
    Read,
    /// To compile them as this.
    Compile(World, Compilation),
}

/// A failure of some time ago.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The text, as it was told then.
    pub(super) message: String,
    pub(super) class: ErrorClass,
    pub(super) age: Duration,
}

impl Attempt {
    fn name(self) -> String {
        match self {
            Self::Read => "read".to_owned(),
            Self::Compile(_, compilation) => compilation.to_string(),
        }
    }
}

/// Notes that `attempt` has failed for these bytes. Only the holder of their lock calls this.
pub(super) fn note(
    folder: &Folder,
    fingerprint: Fingerprint,
    attempt: Attempt,
    limits: &CacheLimits,
    failure: &Failure,
) -> Result<(), FolderError> {
    let failures = folder.made("failures")?;
    make_room(&failures)?;
    let world = match attempt {
        Attempt::Read => "-",
        Attempt::Compile(world, _) => world.name(),
    };
    let Failure { class, message } = failure;
    let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
    let facts = format!(
        "{} {world} {} {message}",
        conditions(limits),
        class_name(*class)
    );
    let path = failures.join(format!("{fingerprint}-{}", attempt.name()));
    // Not synced, and not renamed: one that is cut is none.
    fs::write(&path, format!("{facts}\n{}", check(&facts))).map_err(|error| at(&path, error))
}

/// What has failed for these bytes, if it is what would be done with them now.
pub(super) fn find(
    folder: &Folder,
    fingerprint: Fingerprint,
    limits: &CacheLimits,
    choose: &Choose<'_>,
) -> Result<Option<Failed>, FolderError> {
    let failures = folder.path().join("failures");
    let record = |name: String| read(&failures.join(format!("{fingerprint}-{name}")), limits);
    if let Some((_, failed)) = record(Attempt::Read.name())? {
        return Ok(Some(failed));
    }
    for compilation in Compilation::all() {
        if let Some((world, failed)) = record(compilation.to_string())?
            && World::from_name(&world).is_some_and(|world| choose(world) == Ok(compilation))
        {
            return Ok(Some(failed));
        }
    }
    Ok(None)
}

/// A record's world and text. None if it is damaged, too old, or of other limits.
fn read(path: &Path, limits: &CacheLimits) -> Result<Option<(String, Failed)>, FolderError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        other => other.map_err(|error| at(path, error))?,
    };
    let Some(age) = age(path) else {
        return Ok(None);
    };
    let Some((facts, found)) = text.rsplit_once('\n') else {
        return Ok(None);
    };
    let mut words = facts.splitn(4, ' ');
    let (Some(made), Some(world), Some(class), Some(message)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Ok(None);
    };
    let Some(class) = class_of(class) else {
        return Ok(None);
    };
    let fits = found == check(facts) && made == conditions(limits);
    let failed = Failed {
        message: message.to_owned(),
        class,
        age,
    };
    Ok(fits.then(|| (world.to_owned(), failed)))
}

/// The classes of failures that last, as words of a record.
const CLASSES: [(ErrorClass, &str); 3] = [
    (ErrorClass::InvalidArgument, "invalid"),
    (ErrorClass::ResourceExhausted, "exhausted"),
    (ErrorClass::Internal, "internal"),
];

fn class_name(class: ErrorClass) -> &'static str {
    let known = CLASSES.iter().find(|(known, _)| *known == class);
    known.map_or("internal", |(_, name)| *name)
}

fn class_of(name: &str) -> Option<ErrorClass> {
    let known = CLASSES.iter().find(|(_, known)| *known == name);
    known.map(|(class, _)| *class)
}

/// How old a record is. None if that is too old, or in the future, as after a step of the clock.
fn age(path: &Path) -> Option<Duration> {
    let written = fs::symlink_metadata(path).ok()?.modified().ok()?;
    let age = SystemTime::now().duration_since(written).ok()?;
    (age < FAILURE_TTL).then_some(age)
}

/// Removes what is too old, and the oldest of too many.
fn make_room(failures: &Path) -> Result<(), FolderError> {
    let mut kept: Vec<(Duration, PathBuf)> = Vec::new();
    for name in names(failures)? {
        let path = failures.join(name);
        match age(&path) {
            Some(age) => kept.push((age, path)),
            None => remove(&path)?,
        }
    }
    kept.sort();
    for (_, path) in kept.drain(..).skip(MAX_FAILURES - 1) {
        remove(&path)?;
    }
    Ok(())
}

/// What a failure depends on beside the bytes, as 16 digits: the release and the limits.
fn conditions(limits: &CacheLimits) -> String {
    check(&format!("{} {limits:?}", engine::VERSION))
}

fn check(facts: &str) -> String {
    let mut digits = blake3::hash(facts.as_bytes()).to_hex().to_string();
    digits.truncate(16);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Variant;

    fn folder() -> (tempfile::TempDir, Folder) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("cache")).unwrap();
        (parent, folder)
    }

    fn as_http(_: World) -> Result<Compilation, String> {
        Ok(Compilation {
            variant: Variant::Http,
            preview3: false,
        })
    }

    fn exhausted(message: &str) -> Failure {
        Failure::new(ErrorClass::ResourceExhausted, message)
    }

    #[test]
    fn the_class_of_a_failure_is_kept() {
        let (_parent, folder) = folder();
        let limits = CacheLimits::default();
        let bytes = Fingerprint::of(b"one");
        for (class, _) in CLASSES {
            let failure = Failure::new(class, "some thing");
            note(&folder, bytes, Attempt::Read, &limits, &failure).unwrap();
            let found = find(&folder, bytes, &limits, &as_http).unwrap().unwrap();
            assert_eq!((found.class, found.message.as_str()), (class, "some thing"));
        }
    }

    #[test]
    fn a_failure_is_found_for_the_same_attempt_alone() {
        let (_parent, folder) = folder();
        let limits = CacheLimits::default();
        let bytes = Fingerprint::of(b"one");
        let compilation = as_http(World::Service).unwrap();
        let found = |bytes, limits: &CacheLimits, choose: &Choose<'_>| {
            let found = find(&folder, bytes, limits, choose).unwrap();
            found.map(|failed| failed.message)
        };
        assert_eq!(found(bytes, &limits, &as_http), None);
        let attempt = Attempt::Compile(World::Service, compilation);
        note(
            &folder,
            bytes,
            attempt,
            &limits,
            &exhausted("takes too long"),
        )
        .unwrap();
        assert_eq!(
            found(bytes, &limits, &as_http).as_deref(),
            Some("takes too long")
        );
        assert_eq!(found(Fingerprint::of(b"two"), &limits, &as_http), None);
        let as_command = |_| Ok(Compilation::default());
        assert_eq!(found(bytes, &limits, &as_command), None);
        let refuse = |_| Err("not here".to_owned());
        assert_eq!(found(bytes, &limits, &refuse), None);
        let more = CacheLimits {
            seconds: 999,
            ..limits.clone()
        };
        assert_eq!(found(bytes, &more, &as_http), None);
        note(
            &folder,
            bytes,
            Attempt::Read,
            &limits,
            &Failure::invalid("is no Wasm"),
        )
        .unwrap();
        assert_eq!(
            found(bytes, &limits, &refuse).as_deref(),
            Some("is no Wasm")
        );
    }

    #[test]
    fn a_failure_is_forgotten_after_some_time() {
        let (_parent, folder) = folder();
        let limits = CacheLimits::default();
        let bytes = Fingerprint::of(b"one");
        note(
            &folder,
            bytes,
            Attempt::Read,
            &limits,
            &Failure::invalid("bad"),
        )
        .unwrap();
        let path = folder.path().join("failures").join(format!("{bytes}-read"));
        let written = |time| {
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
            find(&folder, bytes, &limits, &as_http).unwrap()
        };
        let now = SystemTime::now();
        let old = written(now - Duration::from_secs(90)).unwrap();
        assert!(old.age.as_secs() >= 90 && old.age.as_secs() < 120);
        assert_eq!(written(now - FAILURE_TTL), None);
        assert_eq!(written(now + Duration::from_secs(90)), None);
        // Another failure clears it away.
        note(
            &folder,
            Fingerprint::of(b"two"),
            Attempt::Read,
            &limits,
            &Failure::invalid(""),
        )
        .unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_record_is_none() {
        let (_parent, folder) = folder();
        let limits = CacheLimits::default();
        let bytes = Fingerprint::of(b"one");
        note(
            &folder,
            bytes,
            Attempt::Read,
            &limits,
            &Failure::invalid("bad thing"),
        )
        .unwrap();
        let path = folder.path().join("failures").join(format!("{bytes}-read"));
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(find(&folder, bytes, &limits, &as_http).unwrap(), None);
        }
        fs::write(&path, [0xff; 40]).unwrap();
        assert_eq!(find(&folder, bytes, &limits, &as_http).unwrap(), None);
    }

    #[test]
    fn there_are_never_too_many() {
        let (_parent, folder) = folder();
        let limits = CacheLimits::default();
        for number in 0..MAX_FAILURES as u32 + 20 {
            let bytes = Fingerprint::of(&number.to_le_bytes());
            note(
                &folder,
                bytes,
                Attempt::Read,
                &limits,
                &Failure::invalid("bad"),
            )
            .unwrap();
        }
        let kept = names(&folder.path().join("failures")).unwrap();
        assert_eq!(kept.len(), MAX_FAILURES);
    }
}
