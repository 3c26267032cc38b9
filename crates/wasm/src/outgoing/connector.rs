//! Looks names up, leaves out the addresses that a guest may not reach, and connects in time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::times::CONNECT;
use crate::network;
use crate::options::NetworkOptions;

/// Why a request did not get as far as a connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("all addresses of {0} are forbidden on this node (link-local)")]
    Forbidden(String),
    #[error("cannot look {0} up: {1}")]
    Unknown(String, #[source] io::Error),
}

/// The system's resolver behind the node's rules. The C library is told at the start of the
/// process to use `files dns` alone, so that it loads nothing of the image.
#[derive(Clone)]
pub(super) struct Resolver(pub(super) NetworkOptions);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = LookupError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a guest's process may have a thread for it, and the look-up is pinned"
    )]
    fn call(&mut self, name: Name) -> Self::Future {
        let options = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(|error| LookupError::Unknown(name.to_string(), error))?;
            let mut any = false;
            let allowed: Vec<SocketAddr> = found
                .inspect(|_| any = true)
                .filter(|address| network::may_reach(&options, address.ip()))
                .collect();
            if allowed.is_empty() && any {
                return Err(LookupError::Forbidden(name.to_string()));
            }
            Ok(allowed.into_iter())
        })
    }
}

tokio::task_local! {
    /// The time for a connection of the request that this task sends.
    static TIME: Duration;
}

/// Connects within the time of the request that asks for it. Each address of a name gets a part of
/// that, so that one that does not answer leaves time for the next.
#[derive(Clone)]
pub(super) struct InTime(pub(super) HttpConnector<Resolver>);

impl InTime {
    /// Has the connections that `request` asks for made within `time`.
    pub(super) fn scope<F: Future>(time: Duration, request: F) -> impl Future<Output = F::Output> {
        TIME.scope(time, request)
    }
}

impl Service<Uri> for InTime {
    type Response = <HttpConnector<Resolver> as Service<Uri>>::Response;
    type Error = <HttpConnector<Resolver> as Service<Uri>>::Error;
    type Future = <HttpConnector<Resolver> as Service<Uri>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let time = TIME.try_with(|time| *time).unwrap_or(CONNECT);
        self.0.set_connect_timeout(Some(time));
        self.0.call(uri)
    }
}
