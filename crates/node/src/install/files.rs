//! Files that are there as they were, or as they should be, and never half.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// A file that is complete, and not yet at its place.
pub struct Prepared {
    file: NamedTempFile,
    place: PathBuf,
}

impl Prepared {
    /// Puts it at its place.
    pub fn publish(self) -> Result<(), String> {
        let place = self.place;
        self.file
            .persist(&place)
            .map_err(|error| format!("cannot rename a file to {}: {error}", place.display()))?;
        sync_dir(&place);
        Ok(())
    }

    /// The same, unless something has taken the place meanwhile.
    pub fn publish_new(self) -> Result<(), String> {
        let place = self.place;
        self.file.persist_noclobber(&place).map_err(|error| {
            format!(
                "cannot rename a file to {}: {}; something was put there meanwhile, so look at it and try again",
                place.display(),
                error.error
            )
        })?;
        sync_dir(&place);
        Ok(())
    }

    /// Where it is until then.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// A rename is on the disk when its directory is.
fn sync_dir(place: &Path) {
    let dir = place.parent().unwrap_or(Path::new("/"));
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}

/// Writes a file beside its place. It gets the mode and the owner of the one that is there, else `mode`.
pub fn prepare(place: &Path, bytes: &[u8], mode: u32) -> Result<Prepared, String> {
    let old = fs::metadata(place).ok();
    let access = old.map(|old| (old.uid(), old.gid(), old.mode() & 0o7777));
    write(place, bytes, access, mode)
}

/// Writes a program beside its place. Nothing of the file that is there is taken over: neither its owner,
/// who could change the program later, nor a set-user-ID bit.
pub fn prepare_program(place: &Path, bytes: &[u8]) -> Result<Prepared, String> {
    write(place, bytes, None, 0o755)
}

fn write(
    place: &Path,
    bytes: &[u8],
    access: Option<(u32, u32, u32)>,
    mode: u32,
) -> Result<Prepared, String> {
    write_beside(place, bytes, access, mode).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull => ": make room on that disk; nothing was changed",
            io::ErrorKind::ReadOnlyFilesystem => {
                ": the file system is read-only; choose another place"
            }
            _ => "",
        };
        format!("cannot write {}: {error}{hint}", place.display())
    })
}

fn write_beside(
    place: &Path,
    bytes: &[u8],
    access: Option<(u32, u32, u32)>,
    mode: u32,
) -> io::Result<Prepared> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let mut file = tempfile::Builder::new()
        // Hidden, and without `.toml` at the end: nothing reads it.
        .prefix(&format!(".{name}."))
        .suffix(".new")
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    let mode = match access {
        Some((user, group, mode)) => {
            fchown(file.as_file(), Some(user), Some(group))?;
            mode
        }
        None => mode,
    };
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(Prepared {
        file,
        place: place.to_owned(),
    })
}

/// The file that a path leads to in the end. A configuration may be a link to where it is kept: what is
/// changed is that file, and the link stays.
pub fn target(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Replaces a file, or makes it. A link is replaced too, and never written through.
pub fn replace(place: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    prepare(place, bytes, mode)?.publish()
}

/// A file's text; nothing when there is no file.
pub fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Removes a file that may be gone already.
pub fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes a folder and those above it. Answers which were not there, the deepest first.
pub fn make_folders(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let new: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|folder| !folder.exists())
        .map(Path::to_owned)
        .collect();
    fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    Ok(new)
}

/// Waits until no other installation is at work with this folder, and keeps others waiting. It is the
/// folder above that is locked, as this one comes and goes.
pub fn lock(state: &Path) -> Result<Flock<File>, String> {
    let folder = state.parent().unwrap_or(Path::new("/"));
    make_folders(folder)?;
    lock_dir(folder)
}

/// Waits until no other installation has locked this directory, and keeps others waiting.
pub fn lock_dir(folder: &Path) -> Result<Flock<File>, String> {
    let error = |error: String| format!("cannot lock {}: {error}", folder.display());
    let file = File::open(folder).map_err(|each| error(each.to_string()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, each)| error(each.to_string()))
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_mode_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("config.toml");
        replace(&place, b"a", 0o600).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&place, b"b", 0o600).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o640);
        assert_eq!(read(&place).unwrap().unwrap(), "b");
        drop(prepare(&place, b"c", 0o600).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&place).unwrap();
        remove(&place).unwrap();
        assert_eq!(read(&place).unwrap(), None);
    }

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_is_changed_only_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "of somebody").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        replace(&target(&link), b"changed", 0o600).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&file).unwrap().unwrap(), "changed");
        replace(&link, b"new", 0o600).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(read(&file).unwrap().unwrap(), "changed");
    }

    #[test]
    fn a_program_has_nothing_of_the_file_that_it_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("program");
        fs::write(&place, "old").unwrap();
        std::os::unix::fs::chown(&place, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o4777)).unwrap();
        let taken = prepare_program(&place, b"new").unwrap();
        assert!(taken.publish_new().is_err(), "the place is taken");
        prepare_program(&place, b"new").unwrap().publish().unwrap();
        let file = fs::metadata(&place).unwrap();
        assert_eq!((file.uid(), file.mode() & 0o7777), (0, 0o755));
    }

    #[test]
    fn folders_that_were_made_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        let made = make_folders(&deep).unwrap();
        assert_eq!(made, [deep.clone(), folder.path().join("a")]);
        assert!(make_folders(&deep).unwrap().is_empty());
    }
}
