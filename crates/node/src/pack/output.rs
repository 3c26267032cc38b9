//! Writes an image to a file or a folder, whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tar::{Builder, Header};

use crate::pack::image::Image;

/// Writes to an archive if `path` ends in `.tar`, else to a new folder.
pub fn write(image: &Image, path: &Path) -> Result<(), String> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let written = if path.extension().is_some_and(|extension| extension == "tar") {
        archive(image, path, parent)
    } else {
        folder(image, path, parent)
    };
    written.map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

fn archive(image: &Image, path: &Path, parent: &Path) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".lighter-pack-")
        // Less the umask, as any file that a user makes.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent)?;
    into_archive(image, file.as_file_mut())?;
    file.persist(path)?;
    Ok(())
}

/// The files with the names of the layout, all of one time and of root's.
pub fn into_archive(image: &Image, file: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(BufWriter::new(file));
    for (name, bytes) in image.archive_files() {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes)?;
    }
    archive.into_inner()?.flush()
}

fn folder(image: &Image, path: &Path, parent: &Path) -> io::Result<()> {
    // A rename replaces an empty folder only, and says less.
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(io::Error::other("it is a folder that is not empty"));
    }
    let work = tempfile::Builder::new()
        .prefix(".lighter-pack-")
        .tempdir_in(parent)?;
    // Below the private folder, so that it gets the rights of any folder that a user makes.
    let root = work.path().join("image");
    for (name, bytes) in image.files() {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap_or(&root))?;
        File::create_new(file)?.write_all(bytes)?;
    }
    fs::rename(root, path)
}
