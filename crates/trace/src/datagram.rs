//! What `lighter traces` receives: who the spans are of, in the words of the shim, and the spans.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::buffer::{self, Buffer, Packet, Pushed};
use crate::span::{Outlet, Span};

/// Most bytes of a datagram. The kernel's default for a socket's buffer takes three of them.
pub const MOST_BYTES: usize = 64 << 10;
/// Most bytes of the lines in one.
pub(crate) const MOST_LINES: usize = MOST_BYTES - 1024;

/// How long an operation waits for a place among the datagrams that are still to be read.
const OPERATION_WAIT: Duration = Duration::from_millis(10);

/// Who has made spans. It is written by the shim, also for spans that a guest's process has made,
/// which cannot say anything else of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// containerd's namespace.
    pub namespace: String,
    /// The container whose guest has made them; `None` for the shim and its operations.
    pub container: Option<String>,
}

/// A datagram that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who has made them.
    pub origin: Origin,
    /// The spans.
    pub spans: Vec<Span>,
    /// Spans that were made and have not come.
    pub lost: u64,
}

impl Datagram {
    /// The bytes of one with the lines of a [`Packet`], or of who says that they are.
    pub fn write(origin: &Origin, lines: &[u8]) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(origin).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend(lines);
        bytes
    }

    /// Reads one. `None` if not even its origin can be read.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let (origin, lines) = bytes.split_at(end);
        let origin = serde_json::from_slice(origin).ok()?;
        let (spans, lost) = buffer::read(lines);
        Some(Self {
            origin,
            spans,
            lost,
        })
    }
}

/// The spans of an operation, which are sent at its end.
pub struct OperationOutlet {
    socket: UnixDatagram,
    origin: Origin,
    buffer: Mutex<Buffer>,
}

impl OperationOutlet {
    /// Connects to `lighter traces` now: later the operation may be in another mount namespace.
    ///
    /// # Errors
    /// When nobody listens, above all.
    pub fn connect(path: &Path, namespace: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(OPERATION_WAIT))?;
        Ok(Self {
            socket,
            origin: Origin {
                namespace: namespace.to_owned(),
                container: None,
            },
            buffer: Mutex::default(),
        })
    }

    /// Sends what has gathered.
    pub fn flush(&self) {
        let packet = self
            .buffer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.send(packet);
    }

    fn send(&self, packet: Option<Packet>) {
        if let Some(packet) = packet {
            // Whoever does not read in time does without.
            let _ = self
                .socket
                .send(&Datagram::write(&self.origin, &packet.lines));
        }
    }
}

impl Outlet for OperationOutlet {
    fn put(&self, span: Span) {
        let pushed = self
            .buffer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(span);
        if let Pushed::Full(packet) = pushed {
            self.send(Some(packet));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::tests::span;

    fn origin(container: &str) -> Origin {
        Origin {
            namespace: "k8s.io".to_owned(),
            container: Some(container.to_owned()),
        }
    }

    #[test]
    fn a_guest_says_nothing_of_its_origin() {
        let forged = Datagram::write(&origin("other"), b"{\"span\":0}\n");
        let datagram = Datagram::read(&Datagram::write(&origin("mine"), &forged)).unwrap();
        assert_eq!(datagram.origin, origin("mine"));
        assert_eq!((datagram.spans.len(), datagram.lost), (0, 2));
        let newline = origin("a\nb");
        let datagram = Datagram::read(&Datagram::write(&newline, b"")).unwrap();
        assert_eq!(datagram.origin, newline);
    }

    #[test]
    fn an_operations_spans_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.sock");
        assert!(
            OperationOutlet::connect(&path, "default").is_err(),
            "nobody listens"
        );
        let listener = UnixDatagram::bind(&path).unwrap();
        let outlet = OperationOutlet::connect(&path, "default").unwrap();
        outlet.put(span("load"));
        outlet.flush();
        outlet.flush();
        let mut bytes = vec![0; MOST_BYTES];
        let length = listener.recv(&mut bytes).unwrap();
        let datagram = Datagram::read(&bytes[..length]).unwrap();
        assert_eq!(datagram.origin.container, None);
        assert_eq!((datagram.spans, datagram.lost), (vec![span("load")], 0));
        listener.set_nonblocking(true).unwrap();
        assert!(listener.recv(&mut bytes).is_err(), "nothing is sent twice");
    }

    #[test]
    fn who_does_not_read_makes_an_operation_wait_for_a_moment_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("traces.sock");
        let _listener = UnixDatagram::bind(&path).unwrap();
        let outlet = OperationOutlet::connect(&path, "default").unwrap();
        let begin = std::time::Instant::now();
        for _ in 0..20 {
            outlet.put(span("load"));
            outlet.flush();
        }
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}",
            begin.elapsed()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Datagram::read(&bytes);
        }
    }
}
