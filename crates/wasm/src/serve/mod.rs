//! Serves a component over HTTP.
//!
//! ```text
//!  accept --(few connections)--> connection: HTTP/1.1 or h2c, head within its time
//!     |                             | a request: a permit, its body bounded, a deadline
//!     | SIGTERM: accept no more     v
//!     |                          wasmtime-wasi-http's handler: instances, one request or more each
//!     v                             | a response, its body bounded by the same deadline
//!  wait for the rest, exit 0        v
//! ```
//!
//! All of it runs on one thread. A guest that computes gives way at every tick of the engine's
//! epoch ([`Ticker`]), so that time limits hold whatever it does.

mod address;
mod body;
mod connection;
mod instances;
mod request;
mod ticker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hyper_util::server::graceful::GracefulShutdown;
use lighter_core::ExitReason;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime_wasi_http::handler::{ProxyHandler, ProxyPre};

use self::instances::Instances;
use self::request::Requests;
pub(crate) use self::ticker::Ticker;
use crate::ending::complain;
use crate::state::{Shared, State};
use crate::{signals, stdio};

/// Serves until SIGTERM, and until the requests that are there then have been answered.
///
/// # Errors
/// It cannot listen where it should; the text says what can be done.
pub(crate) async fn serve(
    name: &str,
    engine: &Engine,
    pre: ProxyPre<State>,
    shared: Shared,
    ticker: &Arc<Ticker>,
) -> wasmtime::Result<ExitReason> {
    let options = shared.options.http.clone();
    let address =
        address::choose(options.address, &shared.guest.env).map_err(wasmtime::Error::msg)?;
    let listener = address::listen(address).map_err(wasmtime::Error::msg)?;
    let terminated = stdio::wait_for(signals::on_termination()?, Interest::READABLE)?;
    let instances = Instances::new(name, engine.clone(), pre, shared, Arc::clone(ticker));
    let requests = Arc::new(Requests::new(ProxyHandler::new(instances), options));
    if let Ok(address) = listener.local_addr() {
        complain(&format!("serves HTTP at {address}"));
    }
    accept(listener, &requests, terminated).await;
    Ok(ExitReason::Exited(0))
}

async fn accept(listener: TcpListener, requests: &Arc<Requests>, terminated: AsyncFd<OwnedFd>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(requests.most_connections()));
    let mut terminated = std::pin::pin!(terminated.readable());
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let Some((Ok(place), accepted)) = first(&mut terminated, next).await else {
            break;
        };
        match accepted {
            Ok((stream, _)) => {
                let requests = Arc::clone(requests);
                let watcher = graceful.watcher();
                tokio::spawn(async move {
                    connection::serve(stream, requests, watcher).await;
                    drop(place);
                });
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
