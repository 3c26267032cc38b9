//! The shim's hold on a container's stdio. The container reads and writes the FIFOs itself;
//! the shim only keeps their other ends open where an end of file or a SIGPIPE would come too
//! early.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lighter_core::Stdio;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;
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

/// Holds writing ends of stdin FIFOs, each until the client's own has come and gone or CloseIO is
/// called.
///
/// containerd's client opens its end some time after a reader is there. Without this, a
/// container that reads at once would find no writer, which is an end of file.
///
/// A user has few inotify instances (128 by default), and all shims of a node are root's. So all FIFOs
/// of a shim share one, and there is none while no FIFO is held.
#[derive(Clone, Default)]
pub(crate) struct StdinWatch(Arc<Mutex<HeldFifos>>);

/// One FIFO that is held.
pub(crate) struct HeldStdin {
    number: u64,
    fifos: Arc<Mutex<HeldFifos>>,
}

#[derive(Default)]
struct HeldFifos {
    /// There as long as any FIFO is held.
    events: Option<Events>,
    fifos: HashMap<u64, HeldFifo>,
    last_number: u64,
}

struct HeldFifo {
    watch: WatchDescriptor,
    _writer: File,
}

struct Events {
    inotify: Inotify,
    /// Waits for the clients.
    waiting: JoinHandle<()>,
}

impl StdinWatch {
    /// Holds the FIFO that `stdio` names, if it names one. The file is a reading end that the
    /// caller keeps until the container has its own, so that the client's first bytes are not
    /// refused.
    ///
    /// Must be called in a tokio runtime. Fails when the process or the user has no inotify instance
    /// left.
    pub(crate) fn hold(&self, stdio: &Stdio) -> io::Result<Option<(HeldStdin, File)>> {
        let path = stdio.stdin.strip_prefix("fifo://").unwrap_or(&stdio.stdin);
        if !is_fifo(path) {
            return Ok(None);
        }
        let mut held = lock(&self.0);
        let events = match held.events.take() {
            Some(events) => events,
            None => Events::start(&self.0)?,
        };
        let inotify = &held.events.insert(events).inotify;
        // In this order: nobody can have opened the FIFO for writing before it has a reader,
        // so no client comes and goes unnoticed.
        let opened = inotify
            .add_watch(
                path,
                AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ONESHOT,
            )
            .map_err(io::Error::from)
            .and_then(|watch| {
                let reader = open_fifo(path, OpenOptions::new().read(true))?;
                let writer = open_fifo(path, OpenOptions::new().write(true))?;
                Ok(reader
                    .zip(writer)
                    .map(|(reader, writer)| (watch, reader, writer)))
            });
        let Ok(Some((watch, reader, _writer))) = opened else {
            held.release_unused();
            return opened.map(|_| None);
        };
        held.last_number += 1;
        let number = held.last_number;
        held.fifos.insert(number, HeldFifo { watch, _writer });
        let fifos = Arc::clone(&self.0);
        Ok(Some((HeldStdin { number, fifos }, reader)))
    }
}

impl Events {
    fn start(held: &Arc<Mutex<HeldFifos>>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let ready = readable(inotify.as_fd().try_clone_to_owned()?)?;
        let held = Arc::clone(held);
        let waiting = tokio::spawn(wait_for_clients(ready, held));
        Ok(Self { inotify, waiting })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

async fn wait_for_clients(ready: AsyncFd<OwnedFd>, held: Arc<Mutex<HeldFifos>>) {
    while let Ok(mut guard) = ready.readable().await {
        guard.clear_ready();
        lock(&held).release_closed();
    }
}

impl HeldFifos {
    /// Releases the FIFOs that a client has closed.
    fn release_closed(&mut self) {
        let inotify = self.events.as_ref().map(|events| &events.inotify);
        while let Some(Ok(events)) = inotify.map(Inotify::read_events) {
            for event in events {
                self.fifos.retain(|_, fifo| fifo.watch != event.wd);
            }
        }
        self.release_unused();
    }

    fn release(&mut self, number: u64) {
        let Some(fifo) = self.fifos.remove(&number) else {
            return;
        };
        let is_shared = self.fifos.values().any(|other| other.watch == fifo.watch);
        if let Some(events) = self.events.as_ref().filter(|_| !is_shared) {
            let _ = events.inotify.rm_watch(fifo.watch);
        }
        self.release_unused();
    }

    fn release_unused(&mut self) {
        if self.fifos.is_empty() {
            self.events = None;
        }
    }
}

impl Drop for HeldStdin {
    fn drop(&mut self) {
        lock(&self.fifos).release(self.number);
    }
}

fn lock(held: &Mutex<HeldFifos>) -> MutexGuard<'_, HeldFifos> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens the FIFO that containerd names, without waiting for its other end. Nothing for what
/// is no FIFO.
fn open_fifo(target: &str, options: &mut OpenOptions) -> io::Result<Option<File>> {
    let path = target.strip_prefix("fifo://").unwrap_or(target);
    if !is_fifo(path) {
        return Ok(None);
    }
    options.custom_flags(libc::O_NONBLOCK).open(path).map(Some)
}

fn is_fifo(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
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
        let watch = StdinWatch::default();
        let (_held, mut reader) = watch.hold(&stdio).unwrap().unwrap();
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
        let watch = StdinWatch::default();
        let (held, mut reader) = watch.hold(&stdio).unwrap().unwrap();
        drop(held);
        settle().await;
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    /// How many inotify instances this process has, of this test and of those beside it.
    fn instances() -> usize {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets
            .filter(|target| target.ends_with("anon_inode:inotify"))
            .count()
    }

    #[tokio::test]
    async fn many_fifos_have_one_inotify_instance_and_none_is_kept() {
        const MANY: usize = 200;
        let watch = StdinWatch::default();
        let fifos: Vec<_> = (0..MANY).map(|_| fifo()).collect();
        let hold = |(_, stdio): &(_, Stdio)| watch.hold(stdio).unwrap().unwrap();
        let mut held: Vec<_> = fifos.iter().map(hold).collect();
        // Two descriptors are one instance; of the tests beside this each may have one.
        assert!(instances() <= 2 + 2 * 3, "{} instances", instances());
        let clients: Vec<_> = fifos[..MANY / 2]
            .iter()
            .map(|(_, stdio)| OpenOptions::new().write(true).open(&stdio.stdin).unwrap())
            .collect();
        drop(clients);
        settle().await;
        for (number, (_, reader)) in held.iter_mut().enumerate() {
            assert_eq!(would_block(reader), number >= MANY / 2, "{number}");
        }
        assert!(lock(&watch.0).events.is_some());
        // Numbers of watches begin again with a new instance: what was held before is nobody's.
        let old = held.split_off(1);
        drop(old);
        assert!(lock(&watch.0).events.is_none());
        let (_new, mut reader) = hold(&fifos[1]);
        drop(held);
        settle().await;
        assert!(would_block(&mut reader));
    }

    #[tokio::test]
    async fn what_is_no_fifo_is_not_held() {
        assert!(
            StdinWatch::default()
                .hold(&Stdio::default())
                .unwrap()
                .is_none()
        );
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
