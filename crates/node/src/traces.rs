//! `lighter traces`: exports the spans of this node's containers over OTLP.
//!
//! ```text
//!  shims, operations --datagrams--> receive --(bounded queue)--> export, a batch at a time
//! ```
//!
//! What waits is bounded: a collector that is slow, or away, costs spans and nothing else.

mod batch;
mod exporter;
mod resource;
mod span;

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lighter_trace::{Datagram, MOST_BYTES, TraceOptions};
use nix::sys::signal::{SigSet, Signal};
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::batch::{Batch, Losses};
use self::exporter::Exporter;
use self::resource::Resources;

/// Datagrams that wait while spans are exported: some 10,000 spans, for which deploy/tracing has the memory.
const QUEUE: usize = 128;
/// How often spans are exported.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the last export may take.
const LAST: Duration = Duration::from_secs(5);

/// Receives and exports until this process is ended.
pub fn run(options: Option<TraceOptions>) -> Result<(), String> {
    let options = options.unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let exporter = Exporter::new(&options)?;
        let path = options.socket();
        let listener =
            bind(&path).map_err(|error| format!("cannot listen at {}: {error}", path.display()))?;
        let ended = end().map_err(|error| format!("cannot wait for signals: {error}"))?;
        println!("exports spans of {} to {}", path.display(), exporter.target);
        let (queue, received) = mpsc::channel(QUEUE);
        let receiving = async move {
            tokio::select! {
                error = receive(&listener, &queue) => Err(format!("{}: {error}", path.display())),
                _ = ended => Ok(()),
            }
        };
        // The queue's end is the end of the other.
        let (ended, ()) = tokio::join!(receiving, export(exporter, received));
        ended
    })
}

/// Answers when this process shall end. Not tokio's own signals: what they need once a process would be
/// in the shim too, as Cargo unifies features, and each guest's runtime would find it closed.
fn end() -> io::Result<oneshot::Receiver<()>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let (sender, end) = oneshot::channel();
    std::thread::Builder::new().spawn(move || {
        let _ = signals.wait();
        let _ = sender.send(());
    })?;
    Ok(end)
}

/// A socket at `path` for root alone, also where a process that has ended left one.
fn bind(path: &Path) -> io::Result<UnixDatagram> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket {
        if std::os::unix::net::UnixDatagram::unbound()?
            .connect(path)
            .is_ok()
        {
            return Err(io::Error::other("another process exports spans from there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes datagrams out of the socket as they come: their senders do not wait for long.
async fn receive(listener: &UnixDatagram, queue: &mpsc::Sender<Received>) -> io::Error {
    let mut bytes = vec![0; MOST_BYTES + 1];
    let mut lost = 0;
    loop {
        let length = match listener.recv(&mut bytes).await {
            Ok(length) => length,
            Err(error) => return error,
        };
        let received = match Datagram::read(&bytes[..length]) {
            Some(datagram) => Received {
                datagram: Some(datagram),
                lost,
            },
            None => Received {
                datagram: None,
                lost: lost.saturating_add(1),
            },
        };
        match queue.try_send(received) {
            Ok(()) => lost = 0,
            Err(error) => lost = error.into_inner().spans(),
        }
    }
}

/// A datagram, and the spans that were lost before it.
struct Received {
    datagram: Option<Datagram>,
    lost: u64,
}

impl Received {
    fn spans(&self) -> u64 {
        let datagram = self.datagram.as_ref();
        let spans = datagram.map_or(0, |datagram| {
            (datagram.spans.len() as u64).saturating_add(datagram.lost)
        });
        spans.saturating_add(self.lost)
    }
}

async fn export(mut exporter: Exporter, mut received: mpsc::Receiver<Received>) {
    let mut resources = Resources::new(PathBuf::from(lighter_core::STATE_ROOT));
    let mut batch = Batch::default();
    let mut losses = Losses::default();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = received.recv() => {
                let Some(Received { datagram, lost }) = next else {
                    break;
                };
                batch.add(datagram, lost);
                if !batch.is_full() {
                    continue;
                }
            }
            _ = ticks.tick() => {}
        }
        send(&mut exporter, &mut resources, &mut batch, &mut losses).await;
    }
    if timeout(
        LAST,
        send(&mut exporter, &mut resources, &mut batch, &mut losses),
    )
    .await
    .is_err()
    {
        eprintln!(
            "lighter: the last spans could not be exported within {} s",
            LAST.as_secs()
        );
    }
}

async fn send(
    exporter: &mut Exporter,
    resources: &mut Resources,
    batch: &mut Batch,
    losses: &mut Losses,
) {
    let (origins, lost) = batch.take();
    if let Some(lost) = losses.add(lost, Instant::now()) {
        eprintln!(
            "lighter: {lost} spans were lost on their way: more were made than could be taken"
        );
    }
    for (origin, spans) in origins {
        let resource = resources.of(&origin);
        exporter.export(&resource, spans).await;
    }
}
