//! The programs: put beside each other by renames, so that what runs goes on with the old ones.
//!
//! A file of somebody else where one of them goes is refused, or set aside as `NAME.before-lighter`
//! until the programs are removed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::geteuid;

use super::SHIM;
use super::files::{self, Prepared, digest};
use super::program::{Foreign, Found, is_own, look_at};
use super::running;

/// What belongs together. The compile worker first: a shim finds one of its release or a newer one.
pub const NAMES: [&str; 3] = ["lighter-compiler", SHIM, "lighter"];

/// The folder of the programs.
pub fn folder(prefix: &Path) -> PathBuf {
    prefix.join("bin")
}

/// What to do with a file of somebody else where a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnForeign {
    Refuse,
    SetAside,
}

impl OnForeign {
    /// As the command line's `--replace-foreign` says.
    pub fn new(replace: bool) -> Self {
        if replace {
            Self::SetAside
        } else {
            Self::Refuse
        }
    }
}

/// Why a program cannot be put where it goes.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot install {}: {from} is no program of Lighter; --from names the folder with {}", place.display(), NAMES.join(", "))]
    NotOurs { place: PathBuf, from: String },
    #[error("cannot install {}: {what} stands there, which is not Lighter's; keep it and install elsewhere by --prefix /opt/lighter, or have it set aside until Lighter is uninstalled by --replace-foreign", place.display())]
    Foreign { place: PathBuf, what: Foreign },
    #[error("cannot install {}: it is a directory; move it away, or install elsewhere by --prefix", place.display())]
    Directory { place: PathBuf },
    #[error("cannot set {} aside: {} is there already; keep the one of them that you need, and move the other away", place.display(), backup.display())]
    BackupExists { place: PathBuf, backup: PathBuf },
    #[error("cannot set {} aside: the processes {processes:?} run on it, and containerd would end them by Lighter's; remove their pods first", place.display())]
    InUse { place: PathBuf, processes: Vec<i32> },
    #[error("cannot move {} to {}: {error}", from.display(), to.display())]
    Move {
        from: PathBuf,
        to: PathBuf,
        error: nix::Error,
    },
    #[error("cannot read {}: {error}", place.display())]
    Unreadable { place: PathBuf, error: io::Error },
    #[error("cannot install in {}: users other than root can change what is in it; choose another --prefix", folder.display())]
    Untrusted { folder: PathBuf },
}

impl From<ProgramError> for String {
    fn from(error: ProgramError) -> Self {
        error.to_string()
    }
}

/// What putting the programs has done.
#[derive(Debug)]
pub struct Installed {
    /// The names of those that differed, or were not there.
    pub changed: Vec<&'static str>,
    /// Those that were not there.
    created: Vec<PathBuf>,
    /// Places of somebody else's files, which are set aside.
    set_aside: Vec<PathBuf>,
    /// Where the programs are.
    folder: PathBuf,
    /// Folders that were made, the deepest first.
    pub folders: Vec<PathBuf>,
}

impl Installed {
    /// What was done, as lines for whoever has asked for it.
    pub fn lines(&self) -> Vec<String> {
        let set_aside = self.set_aside.iter().map(|place| {
            let (place, backup) = (place.display(), backup(place));
            format!("set {place} aside as {}", backup.display())
        });
        let mut lines: Vec<String> = set_aside.collect();
        if !self.changed.is_empty() {
            let (names, folder) = (self.changed.join(", "), self.folder.display());
            lines.push(format!("installed {names} in {folder}"));
        }
        lines
    }

    /// Removes what was not there before, and puts back what was.
    pub fn undo(&self) {
        for file in &self.created {
            let _ = fs::remove_file(file);
        }
        for place in &self.set_aside {
            let _ = fs::rename(backup(place), place);
        }
        remove_folders(&self.folders);
    }
}

/// A program that is to be put at its place.
struct Wanted {
    name: &'static str,
    place: PathBuf,
    bytes: Vec<u8>,
    found: Found,
}

/// Puts the programs of `from` below `prefix`. All are written before the first gets its name. `recorded`
/// are the programs of the installation that is there, with their digests.
pub fn install(
    from: &Path,
    prefix: &Path,
    recorded: &[(String, String)],
    on_foreign: OnForeign,
) -> Result<Installed, String> {
    let folder = folder(prefix);
    refuse_untrusted(&folder)?;
    let mut wanted = Vec::new();
    for name in NAMES {
        let source = from.join(name);
        let bytes = fs::read(&source).map_err(|error| {
            let source = source.display();
            format!(
                "cannot read {source}: {error}: --from names the folder with {}",
                NAMES.join(", ")
            )
        })?;
        let place = folder.join(name);
        if !is_own(&bytes) {
            let from = source.display().to_string();
            return Err(ProgramError::NotOurs { place, from }.into());
        }
        let found = found(&place, recorded_digest(recorded, name))?;
        match &found {
            Found::Own { digest: old } if *old == digest(&bytes) => continue,
            Found::Foreign(what) => may_set_aside(&place, *what, on_foreign)?,
            _ => {}
        }
        wanted.push(Wanted {
            name,
            place,
            bytes,
            found,
        });
    }
    let mut installed = Installed {
        changed: wanted.iter().map(|each| each.name).collect(),
        created: Vec::new(),
        set_aside: Vec::new(),
        folders: files::make_folders(&folder)?,
        folder,
    };
    let prepared = wanted
        .iter()
        .map(|each| files::prepare_program(&each.place, &each.bytes))
        .collect::<Result<Vec<_>, _>>();
    let published = prepared.and_then(|files| {
        let mut files = wanted.iter().zip(files);
        files.try_for_each(|(wanted, file)| installed.publish(wanted, file))
    });
    published.inspect_err(|_| installed.undo())?;
    Ok(installed)
}

impl Installed {
    fn publish(&mut self, wanted: &Wanted, file: Prepared) -> Result<(), String> {
        let place = &wanted.place;
        match wanted.found {
            Found::Own { .. } => return file.publish(),
            Found::Nothing => {}
            Found::Foreign(_) => {
                move_to_nothing(place, &backup(place))?;
                self.set_aside.push(place.clone());
            }
        }
        file.publish_new()?;
        self.created.push(place.clone());
        Ok(())
    }
}

/// Whose bin it is, if it is there: what root runs is no other user's to change.
fn refuse_untrusted(folder: &Path) -> Result<(), ProgramError> {
    let Ok(metadata) = fs::metadata(folder) else {
        return Ok(());
    };
    let is_owned = [0, geteuid().as_raw()].contains(&metadata.uid());
    let is_open = metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0;
    if is_owned && !is_open {
        return Ok(());
    }
    Err(ProgramError::Untrusted {
        folder: folder.to_owned(),
    })
}

fn may_set_aside(place: &Path, what: Foreign, on_foreign: OnForeign) -> Result<(), ProgramError> {
    let place = place.to_owned();
    if what == Foreign::Directory {
        return Err(ProgramError::Directory { place });
    }
    if on_foreign == OnForeign::Refuse {
        return Err(ProgramError::Foreign { place, what });
    }
    let backup = backup(&place);
    if fs::symlink_metadata(&backup).is_ok() {
        return Err(ProgramError::BackupExists { place, backup });
    }
    let processes = running::processes(&place);
    if !processes.is_empty() {
        return Err(ProgramError::InUse { place, processes });
    }
    Ok(())
}

/// Where a file of somebody else is until the programs are removed.
pub fn backup(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".before-lighter");
    name.into()
}

fn found(place: &Path, recorded: Option<&str>) -> Result<Found, ProgramError> {
    look_at(place, recorded).map_err(|error| ProgramError::Unreadable {
        place: place.to_owned(),
        error,
    })
}

fn recorded_digest<'a>(recorded: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut recorded = recorded.iter();
    recorded
        .find(|(each, _)| each == name)
        .map(|(_, digest)| digest.as_str())
}

/// Renames a file, of any kind, to where there is none.
fn move_to_nothing(from: &Path, to: &Path) -> Result<(), ProgramError> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE).map_err(|error| {
        ProgramError::Move {
            from: from.to_owned(),
            to: to.to_owned(),
            error,
        }
    })
}

/// Which programs are the installation's to remove.
#[derive(Clone, Copy, Debug)]
pub enum Owned<'a> {
    /// Those that it has recorded, with these digests.
    Recorded(&'a [(String, String)]),
    /// All of Lighter, where nothing was recorded.
    Marked,
}

/// What removing the programs has not removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files of somebody else that are at their places again.
    pub restored: Vec<PathBuf>,
    /// What somebody has put in the place of a program since.
    pub left: Vec<PathBuf>,
}

impl Removed {
    /// As lines for whoever has asked for it.
    pub fn lines(&self) -> Vec<String> {
        let restored = self.restored.iter().map(|place| {
            let place = place.display();
            format!("put back {place}, which stood there before")
        });
        let left = self.left.iter().map(|place| {
            let backup = backup(place);
            let before = match fs::symlink_metadata(&backup) {
                Ok(_) => format!("; what stood there before is {}", backup.display()),
                Err(_) => String::new(),
            };
            let place = place.display();
            format!("left {place}, which is not what was installed{before}")
        });
        restored.chain(left).collect()
    }
}

/// Removes the programs, and puts back what was set aside for them.
pub fn remove(prefix: &Path, owned: Owned<'_>) -> Result<Removed, String> {
    let mut removed = Removed::default();
    for name in NAMES {
        let place = folder(prefix).join(name);
        let recorded = match owned {
            Owned::Recorded(programs) => Some(recorded_digest(programs, name).unwrap_or_default()),
            Owned::Marked => None,
        };
        let is_gone = match found(&place, recorded)? {
            Found::Nothing => true,
            Found::Own { digest } if recorded.is_none_or(|recorded| recorded == digest) => false,
            Found::Own { .. } | Found::Foreign(_) => {
                removed.left.push(place);
                continue;
            }
        };
        let backup = backup(&place);
        if fs::symlink_metadata(&backup).is_ok() {
            match is_gone {
                true => move_to_nothing(&backup, &place)?,
                false => fs::rename(&backup, &place)
                    .map_err(|error| format!("cannot put {} back: {error}", place.display()))?,
            }
            removed.restored.push(place);
        } else {
            files::remove(&place)?;
        }
    }
    Ok(removed)
}

/// Removes folders that are empty, the deepest first.
pub fn remove_folders(folders: &[PathBuf]) {
    for folder in folders {
        let _ = fs::remove_dir(folder);
    }
}

/// The digest of an installed program; nothing when it is not there.
pub fn installed(prefix: &Path, name: &str) -> Option<String> {
    Some(digest(&fs::read(folder(prefix).join(name)).ok()?))
}

#[cfg(test)]
mod tests;
