//! Programs of ours, executed so that no container can overwrite them.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;

use crate::mount::read_only_mount;

/// A program that can be executed and not be written to, neither through `/proc/PID/exe` of a
/// process that executes it nor by a script whose interpreter is `/proc/self/exe`.
///
/// A replacement of the file by rename, as upgrades do it, changes nothing for who executes it.
#[derive(Debug)]
pub struct SealedExecutable {
    file: OwnedFd,
    copied: Option<io::Error>,
}

impl SealedExecutable {
    /// Opens the program at `path` through a read-only mount of its directory.
    ///
    /// Where that cannot be, it is a sealed copy in memory, which is as safe and takes as much
    /// memory as the file is long: see [`Self::copied`]. A file that is itself a mount point, or
    /// that was replaced while it was opened, has no directory to go through.
    ///
    /// # Errors
    /// When the file cannot be read, or neither way works.
    pub fn open(path: &Path) -> io::Result<Self> {
        let plain = File::open(path)?;
        let (file, copied) = match below_read_only_mount(path, &plain.metadata()?) {
            Ok(file) => (file, None),
            Err(error) => (sealed_copy(plain)?, Some(error)),
        };
        Ok(Self { file, copied })
    }

    /// The path to execute it at, for this process and its children, while this value lives.
    ///
    /// The descriptor is inherited across execve: the interpreter of a script opens it once more.
    /// It is the file, which is as harmless there as `/proc/self/exe`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Why it is a copy in memory, if it is one.
    pub fn copied(&self) -> Option<&io::Error> {
        self.copied.as_ref()
    }
}

/// Opens the file that `expected` describes. Links are resolved before, as they could lead out of
/// the mount.
fn below_read_only_mount(path: &Path, expected: &Metadata) -> io::Result<OwnedFd> {
    let path = path.canonicalize()?;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mount = read_only_mount(dir)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
    let file = File::from(openat(mount, name, flags, Mode::empty())?);
    let found = file.metadata()?;
    if (found.dev(), found.ino()) != (expected.dev(), expected.ino()) {
        return Err(io::Error::other(
            "it was replaced meanwhile, or it is a mount point",
        ));
    }
    Ok(file.into())
}

fn sealed_copy(mut program: File) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_ALLOW_SEALING;
    let exec = MFdFlags::from_bits_retain(libc::MFD_EXEC);
    let name = c"lighter-program";
    let memory = match memfd_create(name, flags | exec) {
        // Before Linux 6.3 each such file can be executed.
        Err(Errno::EINVAL) => memfd_create(name, flags),
        memory => memory,
    }?;
    let mut memory = File::from(memory);
    io::copy(&mut program, &mut memory)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    /// A shell script in a directory of its own.
    fn program() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        fs::write(&path, "#!/bin/sh\necho executed\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        (dir, path)
    }

    fn output(executable: &SealedExecutable) -> String {
        let output = Command::new(executable.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn write_error(executable: &SealedExecutable) -> Option<i32> {
        let opened = File::options().write(true).open(executable.path());
        // A memory file can be opened, and not be written to.
        let written = opened.and_then(|mut file| io::Write::write(&mut file, b"x"));
        written.unwrap_err().raw_os_error()
    }

    #[test]
    fn a_program_is_executed_and_cannot_be_written_to() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (dir, path) = program();
        let link = dir.path().join("link");
        symlink("program", &link).unwrap();
        for path in [&path, &link] {
            let executable = SealedExecutable::open(path).unwrap();
            assert!(executable.copied().is_none(), "{:?}", executable.copied());
            assert_eq!(output(&executable), "executed\n");
            assert_eq!(write_error(&executable), Some(Errno::EROFS as i32));
        }
    }

    #[test]
    fn a_replaced_program_stays_what_it_was() {
        let (dir, path) = program();
        let executable = SealedExecutable::open(&path).unwrap();
        let new = dir.path().join("new");
        fs::write(&new, "#!/bin/sh\necho new\n").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(output(&executable), "executed\n");
    }

    #[test]
    fn a_program_without_a_name_is_copied() {
        let (_dir, path) = program();
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let executable = SealedExecutable::open(Path::new(&path)).unwrap();
        assert!(executable.copied().is_some());
        assert_eq!(output(&executable), "executed\n");
        assert_eq!(write_error(&executable), Some(Errno::EPERM as i32));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = SealedExecutable::open(Path::new("/nonexistent/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
