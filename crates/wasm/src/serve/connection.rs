//! One connection: which version of HTTP it speaks, and its time limits.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::net::TcpStream;

use super::connections::OpenConnection;
use super::first;
use super::request::Requests;
use super::stream::CountedStream;

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4), as far as no method has them.
const HTTP2: &[u8] = b"PRI ";

/// Bytes of a request's head.
const HEAD: usize = 64 << 10;
/// Bytes of a request's body that are read ahead on one HTTP/2 stream, and on all of a connection.
const WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of a response that wait on one HTTP/2 stream for the client to read.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that a client has reset and that have not begun yet: beyond this it is sent away (rapid reset,
/// CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// How often it is asked for the rest of the first four bytes.
const PEEK_AGAIN: Duration = Duration::from_millis(5);

/// Serves a connection to its end, or until it has to make room for others. Its errors are the client's: nobody
/// here can act on them.
pub(super) async fn serve(
    stream: TcpStream,
    requests: Arc<Requests>,
    watcher: Watcher,
    open: OpenConnection,
) {
    let connection = Arc::clone(open.connection());
    let mut must_close = std::pin::pin!(connection.must_close());
    first(&mut must_close, speak(stream, requests, watcher, open)).await;
}

async fn speak(stream: TcpStream, requests: Arc<Requests>, watcher: Watcher, open: OpenConnection) {
    let head_time = requests.head_time();
    let speaks_http2 = match tokio::time::timeout(head_time, is_http2(&stream)).await {
        Ok(Some(speaks)) => speaks,
        // It has said nothing in time, or has gone.
        _ => return,
    };
    let _ = stream.set_nodelay(true);
    let most_streams = requests.concurrency();
    let connection = Arc::clone(open.connection());
    let local = stream.local_addr().ok();
    let service = service_fn(move |request| {
        let requests = Arc::clone(&requests);
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(requests.respond(request, &connection, local).await) }
    });
    let stream = TokioIo::new(CountedStream::new(stream, open));
    let _ = if speaks_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(most_streams)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD as u32)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .keep_alive_interval(head_time)
            .keep_alive_timeout(head_time)
            .serve_connection(stream, service);
        watcher.watch(connection).await
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(head_time)
            // A client may close its side once it has sent all its requests. That it has closed both, it
            // cannot say; the permit of its request is held by the guest anyway.
            .half_close(true)
            .max_buf_size(HEAD)
            .serve_connection(stream, service);
        watcher.watch(connection).await
    };
}

/// Whether the client speaks HTTP/2 with prior knowledge; `None` when it has gone.
async fn is_http2(stream: &TcpStream) -> Option<bool> {
    let mut start = [0; HTTP2.len()];
    loop {
        let count = stream.peek(&mut start).await.ok()?;
        let start = &start[..count];
        if start.is_empty() {
            return None;
        }
        if !HTTP2.starts_with(start) {
            return Some(false);
        }
        if start == HTTP2 {
            return Some(true);
        }
        tokio::time::sleep(PEEK_AGAIN).await;
    }
}
