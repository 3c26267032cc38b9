//! The shim's hold on a container's stdio. The container reads and writes the FIFOs itself;
//! the shim only keeps their other ends open where an end of file or a SIGPIPE would come too
//! early.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use lighter_core::Stdio;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::task::JoinHandle;

use crate::raw::readable;

/// Opens a reading end of each output FIFO, never to read from it.
///
/// While containerd restarts nobody else reads, and a FIFO without any reader would end the
/// container by SIGPIPE.
pub(crate) fn hold_readers(stdio: &Stdio) -> Vec<File> {
    [&stdio.stdout, &stdio.stderr]
        .into_iter()
        .filter_map(|target| open_fifo(target, OpenOptions::new().read(true)).ok()?)
        .collect()
}

/// Opens a writing end of a terminal's input FIFO, never to write to it. The FIFO has to have a
/// reader.
pub(crate) fn hold_writer(stdio: &Stdio) -> Option<File> {
    open_fifo(&stdio.stdin, OpenOptions::new().write(true)).ok()?
}

/// A writing end of stdin, held until the client's own has come and gone or CloseIO is called.
///
/// containerd's client opens its end some time after a reader is there. Without this, a
/// container that reads at once would find no writer, which is an end of file.
pub(crate) struct HeldStdin {
    writer: JoinHandle<()>,
}

impl HeldStdin {
    /// Holds the FIFO that `stdio` names, if it names one. The file is a reading end that the
    /// caller keeps until the container has its own, so that the client's first bytes are not
    /// refused.
    ///
    /// Fails when the process or the user has no inotify instance left.
    pub(crate) fn hold(stdio: &Stdio) -> io::Result<Option<(Self, File)>> {
        let path = stdio.stdin.strip_prefix("fifo://").unwrap_or(&stdio.stdin);
        if path.is_empty() {
            return Ok(None);
        }
        // In this order: nobody can have opened the FIFO for writing before it has a reader,
        // so no client comes and goes unnoticed.
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        watch.add_watch(path, AddWatchFlags::IN_CLOSE_WRITE)?;
        let Some(reader) = open_fifo(path, OpenOptions::new().read(true))? else {
            return Ok(None);
        };
        let Some(writer) = open_fifo(path, OpenOptions::new().write(true))? else {
            return Ok(None);
        };
        let watch = readable(watch.as_fd().try_clone_to_owned()?)?;
        let writer = tokio::spawn(async move {
            let _ = watch.readable().await;
            drop(writer);
        });
        Ok(Some((Self { writer }, reader)))
    }
}

impl Drop for HeldStdin {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Opens the FIFO that containerd names, without waiting for its other end. Nothing for what
/// is no FIFO.
fn open_fifo(target: &str, options: &mut OpenOptions) -> io::Result<Option<File>> {
    let path = target.strip_prefix("fifo://").unwrap_or(target);
    let is_fifo = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
    if !is_fifo {
        return Ok(None);
    }
    options.custom_flags(libc::O_NONBLOCK).open(path).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn fifo() -> (tempfile::TempDir, Stdio) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdin");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let stdin = path.to_str().unwrap().to_owned();
        (
            folder,
            Stdio {
                stdin,
                ..Stdio::default()
            },
        )
    }

    fn would_block(reader: &mut File) -> bool {
        reader
            .read(&mut [0])
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    async fn settle() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    #[tokio::test]
    async fn end_of_file_comes_when_the_client_closes_and_not_before() {
        let (_folder, stdio) = fifo();
        let (_held, mut reader) = HeldStdin::hold(&stdio).unwrap().unwrap();
        settle().await;
        assert!(
            would_block(&mut reader),
            "no client yet, and no end of file"
        );
        let mut client = OpenOptions::new().write(true).open(&stdio.stdin).unwrap();
        settle().await;
        assert!(would_block(&mut reader));
        client.write_all(b"x").unwrap();
        drop(client);
        settle().await;
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[tokio::test]
    async fn close_io_brings_end_of_file_without_any_client() {
        let (_folder, stdio) = fifo();
        let (held, mut reader) = HeldStdin::hold(&stdio).unwrap().unwrap();
        drop(held);
        settle().await;
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_no_fifo_is_not_held() {
        assert!(HeldStdin::hold(&Stdio::default()).unwrap().is_none());
        let file = tempfile::NamedTempFile::new().unwrap();
        let stdout = file.path().to_str().unwrap().to_owned();
        assert!(
            hold_readers(&Stdio {
                stdout,
                ..Stdio::default()
            })
            .is_empty()
        );
    }
}
