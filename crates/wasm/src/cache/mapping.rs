//! How code is mapped: from where nobody can write to it. And whether it can be run from the
//! folder at all: tried, as no flag tells what a policy forbids.
#![allow(unsafe_code)] // Mapping memory, and mapping code as a program does.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{mem, ptr};

use lighter_seal::read_only_mount;
use nix::errno::Errno;
use wasmtime::Module;

use super::error::{CacheError, FolderError, at};
use super::folder::{Folder, remove};
use super::{Artifact, ArtifactCache};
use crate::engine::{Compilation, EngineError, engine};
use crate::source::{Source, sealed};

/// Bytes of a page.
const PAGE: usize = 4096;

/// Does with the first page of `file` what Wasmtime does with code.
///
/// # Errors
/// What is in the way, as a fault of `folder`.
pub(super) fn check(folder: &Path, file: &File) -> Result<(), FolderError> {
    let failure = match try_first_page(file) {
        Err(error @ (Errno::EACCES | Errno::EPERM)) => error,
        // Wasmtime says better what is wrong.
        _ => return Ok(()),
    };
    Err(FolderError::Unfit {
        path: folder.to_owned(),
        fault: format!(
            "holds code that must not be run ({}): {}",
            failure.desc(),
            cause(Path::new("/sys/fs/selinux/enforce").exists())
        ),
    })
}

fn cause(selinux: bool) -> &'static str {
    if selinux {
        "SELinux forbids it, most likely; `ausearch -m avc -ts recent` names the rule, and \
         `restorecon -R` on the folder or a policy that lets container runtimes execute files of \
         its type helps"
    } else {
        "a security module of the kernel or the options of the mount forbid it"
    }
}

fn try_first_page(file: &File) -> Result<(), Errno> {
    let (data, code) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::PROT_READ | libc::PROT_EXEC,
    );
    // SAFETY: a new private mapping at an address that the kernel chooses. Nothing reads or
    // writes it, so that it does no harm if the file is shorter, and it is unmapped here.
    unsafe {
        let page = libc::mmap(
            ptr::null_mut(),
            PAGE,
            data,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        );
        if page == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let result = Errno::result(libc::mprotect(page, PAGE, code)).map(drop);
        libc::munmap(page, PAGE);
        result
    }
}

impl Artifact {
    /// The file by another way, which leads through a mount that nobody can write to: its path,
    /// for as long as this process is there, and the file opened by it and locked.
    ///
    /// A process that maps code keeps the file open. Whoever may trace that process (a debugger
    /// in the same pod) can open what it has open once more, for writing too, and would change
    /// what other containers run: but for the mount, which the file keeps.
    ///
    /// # Errors
    /// When the mount cannot be made, or the artifact has been replaced meanwhile.
    pub(crate) fn read_only(&self) -> io::Result<(PathBuf, File)> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mount = read_only_mount(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())).join(name);
        // Closing it takes the kernel a tenth of a millisecond. An operation ends soon, after
        // it has answered.
        mem::forget(mount);
        let file = self.locked_again(&path)?;
        Ok((path, file))
    }
}

impl ArtifactCache {
    /// Whether code can be kept in the folder and run from there, tried on a file of its own.
    ///
    /// # Errors
    /// What is wrong with the folder, and what to do.
    pub fn check(&self) -> Result<(), FolderError> {
        let folder = Folder::open(&self.directory)?;
        let path = folder.work().join(format!("{}.try", std::process::id()));
        let failed = |error| at(&path, error);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        remove(&path)?;
        file.set_len(PAGE as u64).map_err(failed)?;
        check(folder.path(), &file)
    }

    /// Compiles an empty module and maps the result, to see whether both work on this node.
    ///
    /// # Errors
    /// What does not work, and what to do. The text follows a name of the module.
    pub fn try_out(&self) -> Result<(), CacheError> {
        let wasm = sealed(b"\0asm\x01\0\0\0").map_err(CacheError::Source)?;
        let source = Source::new(wasm).map_err(CacheError::Source)?;
        let artifact = self.artifact(&source, &|_| Ok(Compilation::default()))?;
        let mapped = map(&artifact);
        // Also when it can be mapped: the next try shall compile again.
        self.discard(&artifact)?;
        Ok(mapped?)
    }
}

fn map(artifact: &Artifact) -> Result<(), EngineError> {
    let engine = engine(artifact.compilation, None, &[])?;
    // SAFETY: the artifact was compiled by this node and found whole, as `Artifact` says.
    unsafe { Module::deserialize_file(&engine, &artifact.path) }
        .map(drop)
        .map_err(|error| EngineError::from_wasmtime(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_can_be_run_from_an_ordinary_file() {
        let file = tempfile::tempfile().unwrap();
        check(Path::new("/folder"), &file).unwrap();
    }

    #[test]
    fn what_is_open_cannot_be_opened_for_writing() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("code");
        std::fs::write(&path, "code").unwrap();
        let mount = read_only_mount(folder.path()).unwrap();
        let through = format!("/proc/self/fd/{}/code", mount.as_raw_fd());
        let file = File::open(&through).unwrap();
        drop(mount);
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(std::fs::read(&again).unwrap(), b"code");
        let error = File::options().write(true).open(&again).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EROFS as i32));
    }

    #[test]
    fn a_refusal_is_passed_on() {
        // Files of procfs cannot be mapped at all.
        let error = try_first_page(&File::open("/proc/self/status").unwrap());
        assert!(error.is_err());
        assert!(cause(true).contains("SELinux"));
        assert!(!cause(false).contains("SELinux"));
    }
}
