//! Spans on their way to `lighter traces`: those of the shim, and those that guests' processes hand
//! to it.
//!
//! Nobody waits for a span. The work for guests is bounded, whatever they write: it is done at the
//! cost of the node, not of their containers.

use std::future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighter_trace::{
    Buffer, Datagram, MOST_BYTES, Origin, Outlet, Packet, Pushed, Settings, Span, Tracer,
};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::raw::readable;

/// Spans and packets that wait to be sent: 4 MB, if `lighter traces` hangs and packets are as long as can be.
const QUEUE: usize = 64;
/// How long a span waits for others to leave with.
const GATHER: Duration = Duration::from_millis(200);
/// While `lighter traces` does not keep up: how often, and after which pauses, a packet is tried.
const TRIES: (usize, Duration) = (20, Duration::from_millis(10));
/// Packets of one process that are taken in so long a time.
const MOST_PACKETS: (u32, Duration) = (32, Duration::from_millis(100));

enum Item {
    Span(Box<Span>),
    Relayed(Origin, Packet),
    Flush(oneshot::Sender<()>),
}

/// Queues spans; a task of its own sends them.
#[derive(Clone)]
pub struct SpanSender {
    queue: mpsc::Sender<Item>,
    /// Spans for which there was no place.
    lost: Arc<AtomicU64>,
    namespace: Arc<str>,
    settings: Arc<Settings>,
}

impl SpanSender {
    /// Sends spans where `settings` say, for containers of `namespace`.
    ///
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    /// As socket(2).
    pub fn start(settings: &Settings, namespace: &str) -> io::Result<Self> {
        let (queue, items) = mpsc::channel(QUEUE);
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let lost = Arc::default();
        let sending = Sending {
            socket,
            path: settings.socket.clone(),
            origin: Origin {
                namespace: namespace.to_owned(),
                container: None,
            },
            buffer: Buffer::default(),
            lost: Arc::clone(&lost),
        };
        tokio::spawn(sending.run(items));
        Ok(Self {
            queue,
            lost,
            namespace: namespace.into(),
            settings: Arc::new(settings.clone()),
        })
    }

    /// What makes spans that are sent here.
    pub(crate) fn tracer(&self) -> Tracer {
        Tracer::new(self.settings.sampler, Arc::new(self.clone()))
    }

    /// Takes the packets of a process of `container` until it ends.
    pub(crate) fn relay(
        &self,
        container: &str,
        socket: OwnedFd,
    ) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let relay = Relay {
            socket: readable(socket)?,
            origin: Origin {
                namespace: self.namespace.to_string(),
                container: Some(container.to_owned()),
            },
            sender: self.clone(),
        };
        Ok(relay.run())
    }

    fn send(&self, item: Item) {
        if let Err(error) = self.queue.try_send(item) {
            let lost = match error.into_inner() {
                Item::Relayed(_, packet) => packet.spans,
                _ => 1,
            };
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Waits until all spans queued so far have been sent, `limit` at most.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        let queued = async {
            if self.queue.send(Item::Flush(done)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        let _ = tokio::time::timeout(limit, queued).await;
    }
}

impl Outlet for SpanSender {
    fn put(&self, span: Span) {
        self.send(Item::Span(Box::new(span)));
    }
}

/// The sending task.
struct Sending {
    socket: UnixDatagram,
    path: PathBuf,
    origin: Origin,
    buffer: Buffer,
    lost: Arc<AtomicU64>,
}

impl Sending {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let mut due = None;
        loop {
            let item = tokio::select! {
                item = items.recv() => item,
                () = at(due) => {
                    due = None;
                    self.send_gathered().await;
                    continue;
                }
            };
            match item {
                None => return,
                Some(Item::Span(span)) => match self.buffer.push(*span) {
                    Pushed::First => due = Some(Instant::now() + GATHER),
                    Pushed::More => {}
                    Pushed::Full(packet) => self.send(&self.origin.clone(), packet).await,
                },
                Some(Item::Relayed(origin, packet)) => {
                    self.send(&origin, packet).await;
                    // Above all what was lost: a service that runs makes the shim no spans of its own.
                    self.send_gathered().await;
                }
                Some(Item::Flush(done)) => {
                    self.send_gathered().await;
                    let _ = done.send(());
                }
            }
        }
    }

    async fn send_gathered(&mut self) {
        self.buffer.lose_more(self.lost.swap(0, Ordering::Relaxed));
        if let Some(packet) = self.buffer.take() {
            self.send(&self.origin.clone(), packet).await;
        }
    }

    async fn send(&mut self, origin: &Origin, packet: Packet) {
        let datagram = Datagram::write(origin, &packet.lines);
        let (tries, pause) = TRIES;
        for _ in 0..tries {
            match self.socket.send_to(&datagram, &self.path) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(pause).await;
                }
                // Nobody listens.
                Err(_) => break,
            }
        }
        self.buffer.lose_more(packet.spans);
    }
}

/// Waits for a time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}

/// The shim's end of a process's socket.
struct Relay {
    socket: AsyncFd<OwnedFd>,
    origin: Origin,
    sender: SpanSender,
}

impl Relay {
    async fn run(self) {
        let (most, time) = MOST_PACKETS;
        let mut taken = 0;
        let mut begin = Instant::now();
        while let Ok(mut ready) = self.socket.readable().await {
            match self.receive() {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    ready.clear_ready();
                    continue;
                }
            }
            taken += 1;
            if taken == most {
                sleep_until(begin + time).await;
                (taken, begin) = (0, Instant::now());
            }
        }
    }

    /// Takes one packet on; false at the end.
    fn receive(&self) -> nix::Result<bool> {
        let fd = self.socket.get_ref().as_raw_fd();
        let length = recv(fd, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
        let mut lines = vec![0; length.min(MOST_BYTES)];
        let received = recv(fd, &mut lines, MsgFlags::empty())?;
        lines.truncate(received);
        if length < MOST_BYTES && received > 0 {
            // A line is a span, as far as the shim wants to know.
            let spans = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            let packet = Packet { lines, spans };
            self.sender.send(Item::Relayed(self.origin.clone(), packet));
        }
        Ok(received > 0)
    }
}

/// What a process wrote right before its end is read although its task is gone.
impl Drop for Relay {
    fn drop(&mut self) {
        for _ in 0..MOST_PACKETS.0 {
            if self.receive() != Ok(true) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use lighter_trace::{SpanKind, TraceOptions};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, send, socketpair};

    use super::*;

    fn settings(socket: PathBuf) -> Settings {
        let options = TraceOptions {
            socket: Some(socket),
            ..TraceOptions::default()
        };
        Settings::choose(Some(&options), |_| None).unwrap()
    }

    struct Node {
        listener: tokio::net::UnixDatagram,
    }

    impl Node {
        async fn receive(&self) -> Datagram {
            let mut bytes = vec![0; MOST_BYTES];
            let length = self.listener.recv(&mut bytes).await.unwrap();
            Datagram::read(&bytes[..length]).unwrap()
        }
    }

    fn guest() -> (OwnedFd, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    #[tokio::test]
    async fn spans_leave_together_and_lost_ones_are_told_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.sock");
        let sender = SpanSender::start(&settings(path.clone()), "default").unwrap();
        let tracer = sender.tracer();
        drop(tracer.begin("unseen", SpanKind::Server, None));
        sender.flush(Duration::from_secs(5)).await;
        let listener = tokio::net::UnixDatagram::bind(&path).unwrap();
        let node = Node { listener };
        drop(tracer.begin("one", SpanKind::Server, None));
        drop(tracer.begin("two", SpanKind::Server, None));
        let datagram = node.receive().await;
        let names: Vec<&Cow<str>> = datagram.spans.iter().map(|span| &span.name).collect();
        assert_eq!(names, ["one", "two"]);
        assert_eq!((datagram.lost, datagram.origin.container), (1, None));
    }

    #[tokio::test]
    async fn what_a_guest_wrote_before_its_end_arrives_under_its_containers_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.sock");
        let listener = tokio::net::UnixDatagram::bind(&path).unwrap();
        let node = Node { listener };
        let sender = SpanSender::start(&settings(path.clone()), "k8s.io").unwrap();
        let (ours, guests) = guest();
        let relay = tokio::spawn(sender.relay("shop", ours).unwrap());
        send(guests.as_raw_fd(), b"{\"lost\":3}\n", MsgFlags::empty()).unwrap();
        assert_eq!(node.receive().await.lost, 3);
        std::fs::remove_file(&path).unwrap();
        send(guests.as_raw_fd(), b"unseen\nunseen\n", MsgFlags::empty()).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let listener = tokio::net::UnixDatagram::bind(&path).unwrap();
        let node = Node { listener };
        send(guests.as_raw_fd(), b"{\"lost\":0}\n", MsgFlags::empty()).unwrap();
        assert_eq!(node.receive().await.lost, 0);
        let told = node.receive().await;
        assert_eq!((told.origin.container, told.lost), (None, 2));
        send(guests.as_raw_fd(), b"{\"lost\":4}\n", MsgFlags::empty()).unwrap();
        relay.abort();
        let datagram = node.receive().await;
        assert_eq!(
            (datagram.lost, datagram.origin.namespace.as_str()),
            (4, "k8s.io")
        );
        assert_eq!(datagram.origin.container.as_deref(), Some("shop"));
        let (ours, guests) = guest();
        let relay = tokio::spawn(sender.relay("shop", ours).unwrap());
        drop(guests);
        relay.await.unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_writes_without_end_costs_the_shim_a_bounded_time() {
        let folder = tempfile::tempdir().unwrap();
        let sender = SpanSender::start(&settings(folder.path().join("none")), "default").unwrap();
        let (ours, guests) = guest();
        let relay = tokio::spawn(sender.relay("bad", ours).unwrap());
        let begin = Instant::now();
        let mut sent = 0;
        while begin.elapsed() < Duration::from_millis(500) {
            match send(guests.as_raw_fd(), b"x\n", MsgFlags::empty()) {
                Ok(_) => sent += 1,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        relay.abort();
        let (most, time) = MOST_PACKETS;
        let windows = begin.elapsed().as_millis() / time.as_millis() + 1;
        // What is not taken yet is in the socket, which is bounded, too.
        let in_socket = 1000;
        assert!(
            sent <= u128::from(most) * windows + in_socket,
            "{sent} in {windows} windows"
        );
    }
}
