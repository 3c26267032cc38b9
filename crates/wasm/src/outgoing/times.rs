//! How long the parts of a request may take.
//!
//! As `wasi:http` has it, each time is for one part alone: for a connection (with the look-up of
//! the name, and TLS), from then on for the head of the response, and for the wait for each part of
//! its body.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;
use wasmtime_wasi_http::{Error, RequestOptions};

/// Longest time for what a request waits for, whatever the guest says.
const LONGEST: Duration = Duration::from_secs(600);
/// Time for a connection, unless the guest says otherwise.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// Time for the first byte of a response, and between two of its parts.
const WAIT: Duration = Duration::from_secs(60);

/// The times of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    pub(super) between_bytes: Duration,
}

impl Times {
    pub(super) fn of(options: Option<RequestOptions>) -> Self {
        let options = options.unwrap_or_default();
        let bounded = |time: Option<Duration>, default| time.unwrap_or(default).min(LONGEST);
        Self {
            connect: bounded(options.connect_timeout, CONNECT),
            first_byte: bounded(options.first_byte_timeout, WAIT),
            between_bytes: bounded(options.between_bytes_timeout, WAIT),
        }
    }

    /// Waits for the head of a response, and before that for `connected`.
    pub(super) async fn head<T>(
        self,
        response: impl Future<Output = T>,
        connected: impl Future,
    ) -> Result<T, Error> {
        let mut response = pin!(response);
        let mut connected = pin!(connected);
        let first = std::future::poll_fn(|context| {
            // Only this one makes progress, so it comes first.
            if let Poll::Ready(response) = response.as_mut().poll(context) {
                return Poll::Ready(Some(response));
            }
            connected.as_mut().poll(context).map(|_| None)
        });
        match timeout(self.connect, first).await {
            Err(_) => Err(Error::ConnectionTimeout),
            Ok(Some(response)) => Ok(response),
            Ok(None) => timeout(self.first_byte, response)
                .await
                .map_err(|_| Error::ConnectionReadTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Instant;

    use http::Request;
    use http_body_util::{BodyExt, Empty};
    use socket2::{Domain, Socket, Type};
    use wasmtime_wasi_http::{WasiBody, WasiHttpHooks};

    use super::*;
    use crate::options::Options;
    use crate::outgoing::Outgoing;

    /// Shorter than every default, and longer than what a busy machine takes for a connection.
    const SHORT: Duration = Duration::from_millis(400);
    /// Before any default is over.
    const SOON: Duration = Duration::from_secs(5);

    fn options(connect: bool, first_byte: bool, between_bytes: bool) -> RequestOptions {
        let time = |short: bool| Some(if short { SHORT } else { WAIT });
        RequestOptions {
            connect_timeout: time(connect),
            first_byte_timeout: time(first_byte),
            between_bytes_timeout: time(between_bytes),
        }
    }

    /// The head of the answer, once there is one.
    async fn send(uri: String, options: RequestOptions) -> Result<WasiBody, Error> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().uri(uri).body(body).unwrap();
        let mut outgoing = Outgoing::new(Options::default().network, None, None);
        let sent =
            outgoing.send_request(request, Some(options), Box::new(std::future::ready(Ok(()))));
        let (response, _) = Box::into_pin(sent).await?;
        Ok(response.into_body())
    }

    /// A server that answers every connection by `answer`; its address.
    #[expect(clippy::disallowed_methods, reason = "a test may have threads")]
    fn server(answer: impl Fn(TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap());
            }
        });
        address
    }

    /// Reads a request and says nothing, until the client goes.
    fn say_nothing(mut stream: TcpStream) {
        let _ = stream.read_to_end(&mut Vec::new());
    }

    fn say_a_part(mut stream: TcpStream) {
        stream.read_exact(&mut [0; 4]).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart1")
            .unwrap();
        say_nothing(stream);
    }

    /// A socket that listens, and whose queue is full: the kernel answers nothing.
    fn full() -> (Socket, Vec<Socket>, String) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = (0..8)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&address);
                socket
            })
            .collect();
        let address = address.as_socket().unwrap().to_string();
        (listener, waiting, address)
    }

    #[tokio::test]
    async fn each_time_is_for_its_part_alone() {
        let (_listener, _waiting, unconnected) = full();
        let silent = server(say_nothing);
        let slow = server(say_a_part);
        // By the first of three bits that is set: to the time it takes for all, whatever the others are.
        for bits in 0..8u8 {
            let options = || options(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let begin = Instant::now();
            if bits & 1 != 0 {
                let error = send(format!("http://{unconnected}/"), options()).await;
                assert!(matches!(error, Err(Error::ConnectionTimeout)), "{bits}");
                // One who says nothing is connected to, but not by TLS.
                let error = send(format!("https://{silent}/"), options()).await;
                assert!(matches!(error, Err(Error::ConnectionTimeout)), "{bits}");
            }
            if bits & 2 != 0 {
                let error = send(format!("http://{silent}/"), options()).await;
                assert!(matches!(error, Err(Error::ConnectionReadTimeout)), "{bits}");
            }
            if bits & 4 != 0 {
                let body = send(format!("http://{slow}/"), options()).await.unwrap();
                let error = body.collect().await.map(drop);
                assert!(matches!(error, Err(Error::ConnectionReadTimeout)), "{bits}");
            }
            assert!(begin.elapsed() < SOON, "{bits}: {:?}", begin.elapsed());
        }
    }

    #[tokio::test]
    async fn a_guest_that_reads_late_is_not_a_server_that_sends_late() {
        let (sender, reads) = mpsc::channel();
        let address = server(move |mut stream| {
            stream.read_exact(&mut [0; 4]).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\npart1")
                .unwrap();
            reads.recv().unwrap();
            std::thread::sleep(SHORT / 8);
            stream.write_all(b"part2").unwrap();
            say_nothing(stream);
        });
        let options = options(false, false, true);
        let mut body = send(format!("http://{address}/"), options).await.unwrap();
        let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(part, "part1");
        tokio::time::sleep(2 * SHORT).await;
        sender.send(()).unwrap();
        let part = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(part, "part2");
    }

    #[test]
    fn times_are_bounded_whatever_the_guest_says() {
        let forever = Some(Duration::from_secs(1 << 40));
        let times = Times::of(Some(RequestOptions {
            connect_timeout: forever,
            first_byte_timeout: forever,
            between_bytes_timeout: forever,
        }));
        let longest = Times {
            connect: LONGEST,
            first_byte: LONGEST,
            between_bytes: LONGEST,
        };
        assert_eq!(times, longest);
        let defaults = Times {
            connect: CONNECT,
            first_byte: WAIT,
            between_bytes: WAIT,
        };
        assert_eq!(Times::of(None), defaults);
    }
}
