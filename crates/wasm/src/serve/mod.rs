//! Serves a component over HTTP.
//!
//! ```text
//!  accept --([`connections`])--> connection: HTTP/1.1 or h2c, head within its time
//!     |                             | a request: a permit, its body bounded, a deadline
//!     | SIGTERM: accept no more     v
//!     |                          wasmtime-wasi-http's handler: instances, one request or more each
//!     v                             | a response, its body bounded by the same deadline
//!  wait for the rest, exit 0        v
//! ```
//!
//! All of it runs on one or two threads. A guest that computes gives way at every tick of the
//! engine's epoch ([`Ticker`]), so that time limits hold whatever it does.

mod address;
mod body;
mod connection;
mod connections;
mod counted;
mod host;
mod instances;
mod request;
mod stream;
mod ticker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use hyper_util::server::graceful::GracefulShutdown;
use lighter_core::ExitReason;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use wasmtime::Engine;
use wasmtime_wasi_http::handler::{ProxyHandler, ProxyPre};

use self::connections::Connections;
use self::instances::Instances;
use self::request::Requests;
pub(crate) use self::ticker::FIRST_TICKS;
use self::ticker::Ticker;
use crate::ending::complain;
use crate::options::Resources;
use crate::run::{NotEnded, WAITING_THREADS};
use crate::slots::Slots;
use crate::state::{Shared, State};
use crate::{errno, signals, stdio};

/// Most threads that serve. One instance runs on one of them at a time, so that a second uses
/// a second processor; more would cost each replica more memory.
const MOST_THREADS: u64 = 2;

/// Serves until SIGTERM or SIGINT, and until the requests that are there then have been answered.
///
/// # Errors
/// It cannot listen where it should; the text says what can be done.
#[expect(
    clippy::disallowed_methods,
    reason = "no other process is made from this one"
)]
pub(crate) fn serve(
    name: &str,
    engine: &Engine,
    pre: ProxyPre<State>,
    shared: Shared,
    slots: Option<Slots>,
) -> Result<ExitReason, NotEnded> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads(&shared.options.resources))
        .max_blocking_threads(WAITING_THREADS)
        .thread_name("guest")
        // As long as the thread is there.
        .on_thread_start(|| std::mem::forget(errno::listen()))
        .enable_all()
        .build()?;
    let ticker = Arc::new(Ticker::default());
    let ended = ticker.ends_with_this();
    let (sender, outcome) = mpsc::channel();
    let service = Service {
        name: name.to_owned(),
        engine: engine.clone(),
        pre,
        shared,
        ticker: Arc::clone(&ticker),
        slots,
    };
    runtime.spawn(async move {
        let _ = sender.send(tokio::spawn(service.serve()).await);
        drop(ended);
    });
    ticker.tick(engine);
    let outcome = outcome.recv();
    // A look-up that hangs must not keep the container.
    runtime.shutdown_background();
    match outcome {
        Ok(Ok(served)) => Ok(served?),
        Ok(Err(failed)) => Err(NotEnded::Panic(failed.into_panic())),
        Err(_) => Err(wasmtime::Error::msg("the service's threads ended").into()),
    }
}

/// As many threads as the container has processors for, and may have beside the main thread and
/// the one that waits.
fn threads(resources: &Resources) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let by_time = resources
        .cpu_millis
        .map_or(u64::MAX, |millis| millis.div_ceil(1000));
    let by_number = resources.pids.map_or(u64::MAX, |pids| {
        pids.saturating_sub(1 + WAITING_THREADS as u64)
    });
    let threads = MOST_THREADS.min(processors).min(by_time).min(by_number);
    threads.max(1) as usize
}

struct Service {
    name: String,
    engine: Engine,
    pre: ProxyPre<State>,
    shared: Shared,
    ticker: Arc<Ticker>,
    slots: Option<Slots>,
}

impl Service {
    async fn serve(self) -> wasmtime::Result<ExitReason> {
        let options = self.shared.options.http.clone();
        let counters = self.shared.guest.counters;
        let spans = self.shared.spans.clone();
        let connections = Connections::new(options.concurrency, Arc::clone(&self.shared.budget));
        let address = address::choose(options.address, &self.shared.guest.env)
            .map_err(wasmtime::Error::msg)?;
        let listener = address::listen(address).map_err(wasmtime::Error::msg)?;
        let terminated = stdio::wait_for(signals::on_termination()?, Interest::READABLE)?;
        let instances = Instances::new(
            &self.name,
            self.engine,
            self.pre,
            self.shared,
            self.ticker,
            self.slots,
        );
        let requests = Arc::new(Requests::new(
            ProxyHandler::new(instances),
            options,
            counters,
            spans,
        ));
        if let Ok(address) = listener.local_addr() {
            complain(&format!("serves HTTP at {address}"));
        }
        accept(listener, &requests, &connections, terminated).await;
        Ok(ExitReason::Exited(0))
    }
}

async fn accept(
    listener: TcpListener,
    requests: &Arc<Requests>,
    connections: &Arc<Connections>,
    terminated: AsyncFd<OwnedFd>,
) {
    let graceful = GracefulShutdown::new();
    let mut terminated = std::pin::pin!(terminated.readable());
    loop {
        let next = async {
            connections.room().await;
            listener.accept().await
        };
        let Some(accepted) = first(&mut terminated, next).await else {
            break;
        };
        match accepted {
            Ok((stream, client)) => {
                // Otherwise it is closed at once: the client has more than its share.
                if let Some(open) = connections.open(client.ip()) {
                    let requests = Arc::clone(requests);
                    let watcher = graceful.watcher();
                    tokio::spawn(connection::serve(stream, requests, watcher, open));
                }
            }
            Err(error) => wait_after(&error).await,
        }
    }
    // From here on the kernel refuses connections.
    drop(listener);
    graceful.shutdown().await;
}

/// The outcome of `work`, or `None` when `end` comes first.
async fn first<T>(
    end: &mut std::pin::Pin<&mut impl Future>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(None);
        }
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// What accept(2) reports is a connection's own failure, or that descriptors or memory have run
/// out, which takes some time to change.
async fn wait_after(error: &io::Error) {
    let transient = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    );
    if !transient {
        complain(&format!("cannot accept a connection: {error}"));
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_container_has_no_more_threads_than_it_can_use() {
        let threads = |cpu_millis, pids| {
            threads(&Resources {
                cpu_millis,
                pids,
                ..Resources::default()
            })
        };
        assert_eq!(threads(Some(0), None), 1);
        assert_eq!(threads(Some(1000), None), 1);
        assert_eq!(threads(None, Some(1)), 1);
        assert_eq!(threads(None, Some(3)), 1);
        assert!(threads(None, None) <= 2);
        assert_eq!(threads(Some(1001), Some(4)), threads(None, None));
    }
}
