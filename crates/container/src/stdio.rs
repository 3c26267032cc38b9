//! Opens a container's stdio, so that the container owns its descriptors and nobody copies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use lighter_core::{Descriptor, ErrorClass, Executed, Failure, Stdio};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use oci_spec::runtime::{Process, Spec};

use crate::id_mappings::{IdMappings, to_host};
use crate::logger;
use crate::manage::ContainerLocation;

/// What to read from and write to; `None` is `/dev/null`, which the operation has already.
#[derive(Default)]
pub(crate) struct Descriptors {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    /// The pidfd of the logger that the output goes to.
    pub(crate) logger: Option<OwnedFd>,
}

/// Opens what `stdio` names and gives it to `owner`, so that a program that is not root can
/// open its `/dev/stdout`. What a terminal reads and writes stays root's, as the shim copies.
///
/// The shim holds a reading end of the output FIFOs, so opening them does not wait.
pub(crate) fn open(
    stdio: &Stdio,
    owner: (u32, u32),
    location: &ContainerLocation,
) -> Result<Descriptors, Failure> {
    let mut opened = Descriptors::default();
    if stdio.stdout.starts_with("binary://") {
        let logger = logger::start(&stdio.stdout, location)?;
        opened.logger = Some(logger.pidfd);
        opened.stdout = Some(logger.stdout);
        opened.stderr = Some(logger.stderr);
    } else {
        opened.stdout = open_one("stdout", &stdio.stdout, open_output)?;
        if !stdio.terminal {
            opened.stderr = open_one("stderr", &stdio.stderr, open_output)?;
        }
    }
    opened.stdin = open_one("stdin", &stdio.stdin, open_input)?;
    if !stdio.terminal {
        let all = [&opened.stdin, &opened.stdout, &opened.stderr];
        for descriptor in all.into_iter().flatten() {
            give_to(descriptor, owner).map_err(|error| {
                Failure::internal(format!(
                    "cannot give stdio to the container's user: {error}"
                ))
            })?;
        }
    }
    Ok(opened)
}

impl Descriptors {
    /// Passes the logger to the shim, if there is one.
    pub(crate) fn pass_logger(&mut self, executed: &mut Executed, passed_fds: &mut Vec<OwnedFd>) {
        if let Some(pidfd) = self.logger.take() {
            executed.descriptors.push(Descriptor::Logger);
            passed_fds.push(pidfd);
        }
    }

    /// Hands all of them to the shim, with the terminal's master between which it copies.
    pub(crate) fn hand_over(
        self,
        master: OwnedFd,
        executed: &mut Executed,
        handed: &mut Vec<OwnedFd>,
    ) {
        let all = [
            (Descriptor::Terminal, Some(master)),
            (Descriptor::TerminalInput, self.stdin),
            (Descriptor::TerminalOutput, self.stdout),
        ];
        for (what, descriptor) in all {
            if let Some(descriptor) = descriptor {
                executed.descriptors.push(what);
                handed.push(descriptor);
            }
        }
    }
}

/// The user of `process` as the host sees it.
pub(crate) fn host_owner(spec: &Spec, process: Option<&Process>) -> (u32, u32) {
    let (uid, gid) = process.map_or((0, 0), |process| {
        (process.user().uid(), process.user().gid())
    });
    let mappings = IdMappings::of_spec(spec);
    (
        to_host(&mappings.uids, uid).unwrap_or(uid),
        to_host(&mappings.gids, gid).unwrap_or(gid),
    )
}

fn open_one(
    name: &str,
    target: &str,
    open: impl FnOnce(&str) -> io::Result<File>,
) -> Result<Option<OwnedFd>, Failure> {
    if target.is_empty() {
        return Ok(None);
    }
    let path = path_of(name, target)?;
    open(path)
        .map(|file| Some(file.into()))
        .map_err(|error| Failure::internal(format!("cannot open {name} {path}: {error}")))
}

/// The path in a FIFO's name or URI (containerd `docs/runtime-v2.md`, "IO").
fn path_of<'a>(name: &str, target: &'a str) -> Result<&'a str, Failure> {
    match target.split_once("://") {
        None => Ok(target),
        Some(("fifo" | "file", path)) => Ok(path),
        Some((scheme, _)) => Err(Failure::new(
            ErrorClass::Unimplemented,
            format!(
                "{name}: the scheme {scheme}:// is not supported; use a FIFO, file:// or, for both outputs, binary://"
            ),
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

fn give_to(file: &OwnedFd, (uid, gid): (u32, u32)) -> io::Result<()> {
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
    fn other_schemes_are_refused_by_name() {
        assert_eq!(path_of("stdout", "/run/fifo/1").unwrap(), "/run/fifo/1");
        assert_eq!(path_of("stdout", "file:///tmp/x").unwrap(), "/tmp/x");
        let failure = path_of("stdin", "binary:///bin/logger?id=a").unwrap_err();
        assert_eq!(failure.class, ErrorClass::Unimplemented);
        assert!(failure.message.contains("binary://"));
    }
}
