//! Opens a container's stdio, so that the container owns its descriptors and nobody copies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use lighter_core::{ErrorClass, Failure, Stdio};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Descriptors for 0 to 2; `None` is `/dev/null`, which the operation has there already.
pub(crate) struct Descriptors {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Opens what `stdio` names and gives it to `owner`, so that a program that is not root can
/// open its `/dev/stdout`.
///
/// The shim holds a reading end of the output FIFOs, so opening them does not wait.
pub(crate) fn open(stdio: &Stdio, owner: (u32, u32)) -> Result<Descriptors, Failure> {
    let open = |name: &str, target: &str, input: bool| -> Result<Option<OwnedFd>, Failure> {
        if target.is_empty() {
            return Ok(None);
        }
        let path = path_of(name, target)?;
        let file = if input {
            open_input(path)
        } else {
            open_output(path)
        };
        let file =
            file.map_err(|error| Failure::internal(format!("cannot open {name} {path}: {error}")))?;
        give_to(&file, owner)
            .map_err(|error| Failure::internal(format!("cannot chown {name} {path}: {error}")))?;
        Ok(Some(file.into()))
    };
    Ok(Descriptors {
        stdin: open("stdin", &stdio.stdin, true)?,
        stdout: open("stdout", &stdio.stdout, false)?,
        stderr: open("stderr", &stdio.stderr, false)?,
    })
}

/// The path in a FIFO's name or URI (containerd `docs/runtime-v2.md`, "IO").
fn path_of<'a>(name: &str, target: &'a str) -> Result<&'a str, Failure> {
    match target.split_once("://") {
        None => Ok(target),
        Some(("fifo" | "file", path)) => Ok(path),
        Some((scheme, _)) => Err(Failure::new(
            ErrorClass::Unimplemented,
            format!("{name}: the scheme {scheme}:// is not supported; use a FIFO or file://"),
        )),
    }
}

fn is_fifo(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// The shim holds a writing end of a FIFO until the client has its own, so this neither waits
/// nor reads an end of file too early.
fn open_input(path: &str) -> io::Result<File> {
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    set_blocking(&reader)?;
    Ok(reader)
}

fn open_output(path: &str) -> io::Result<File> {
    let file = if is_fifo(path) {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?
    } else {
        OpenOptions::new().append(true).create(true).open(path)?
    };
    set_blocking(&file)?;
    Ok(file)
}

/// Programs expect blocking stdio; the flag belongs to the open file, which they share.
fn set_blocking(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

fn give_to(file: &File, (uid, gid): (u32, u32)) -> io::Result<()> {
    if uid == 0 && gid == 0 {
        return Ok(());
    }
    nix::unistd::fchown(file.as_fd(), Some(uid.into()), Some(gid.into()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn fifo() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test has threads")]
    fn stdin_is_opened_without_waiting_and_then_blocks() {
        let (_folder, path) = fifo();
        let mut reader = open_input(&path).unwrap();
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            writer.write_all(b"late").unwrap();
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        late.join().unwrap();
        assert_eq!(text, "late");
    }

    #[test]
    fn an_output_without_a_reader_is_an_error_not_a_hang() {
        let (_folder, path) = fifo();
        assert!(open_output(&path).is_err());
        let _reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        let file = open_output(&path).unwrap();
        let flags = fcntl(&file, FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn loggers_are_refused_by_name() {
        assert_eq!(path_of("stdout", "/run/fifo/1").unwrap(), "/run/fifo/1");
        assert_eq!(path_of("stdout", "file:///tmp/x").unwrap(), "/tmp/x");
        let failure = path_of("stdout", "binary:///bin/logger?id=a").unwrap_err();
        assert_eq!(failure.class, ErrorClass::Unimplemented);
        assert!(failure.message.contains("binary://"));
    }
}
