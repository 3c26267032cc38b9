//! Calls that run to their end, whatever becomes of their caller.
//!
//! ttrpc drops the future of a call when its deadline passes or its connection closes. A call that
//! changes something must not stop halfway, so each runs as a task of its own, and ttrpc's future
//! only waits for its result. Calls that change nothing may be dropped.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::{Code, Request, Response};

/// Calls that change nothing.
const READ_ONLY: [&str; 5] = ["State", "Pids", "Stats", "Wait", "Connect"];
/// Waits for the others, so it is none of those that are waited for.
const SHUTDOWN: &str = "Shutdown";

/// How many calls that change something are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingCalls(watch::Sender<usize>);

impl PendingCalls {
    /// Counts a call, until what is returned is dropped.
    pub(crate) fn begin(&self) -> PendingCall {
        self.0.send_modify(|count| *count += 1);
        PendingCall(self.0.clone())
    }

    /// Waits until there are none.
    pub(crate) async fn settled(&self) {
        // The sender is this one: it lives as long as the wait.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One call that is under way.
#[derive(Debug)]
pub(crate) struct PendingCall(watch::Sender<usize>);

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The same service, whose calls run to their end.
pub(crate) fn uncancelled(service: Service, pending: &PendingCalls) -> Service {
    let methods = service.methods.into_iter().map(|(name, handler)| {
        if READ_ONLY.contains(&name.as_str()) {
            return (name, handler);
        }
        let pending = (name != SHUTDOWN).then(|| pending.clone());
        let handler = Arc::from(handler);
        let method: Box<dyn MethodHandler + Send + Sync> =
            Box::new(UncancelledMethod { handler, pending });
        (name, method)
    });
    Service {
        methods: methods.collect(),
        streams: service.streams,
    }
}

struct UncancelledMethod {
    handler: Arc<dyn MethodHandler + Send + Sync>,
    pending: Option<PendingCalls>,
}

#[async_trait]
impl MethodHandler for UncancelledMethod {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let handler = Arc::clone(&self.handler);
        let pending = self.pending.as_ref().map(PendingCalls::begin);
        let call = tokio::spawn(async move {
            let _pending = pending;
            handler.handler(context, request).await
        });
        call.await.unwrap_or_else(|error| {
            let message = format!("the call panicked, which is a bug of Lighter: {error}");
            Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                Code::INTERNAL,
                message,
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    /// Counts how many calls have begun and how many have ended.
    struct Slow(Arc<[AtomicUsize; 2]>);

    #[async_trait]
    impl MethodHandler for Slow {
        async fn handler(&self, _: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
            self.0[0].fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_ne!(request.method, "Panic");
            self.0[1].fetch_add(1, Ordering::Relaxed);
            Ok(Response::new())
        }
    }

    fn service(counts: &Arc<[AtomicUsize; 2]>, pending: &PendingCalls) -> Service {
        let methods = ["Create", "Pids", "Shutdown", "Panic"].map(|name| {
            let handler: Box<dyn MethodHandler + Send + Sync> = Box::new(Slow(Arc::clone(counts)));
            (name.to_owned(), handler)
        });
        let service = Service {
            methods: HashMap::from(methods),
            streams: HashMap::new(),
        };
        uncancelled(service, pending)
    }

    async fn call(service: &Service, name: &str) -> ttrpc::Result<Response> {
        let context = TtrpcContext {
            mh: ttrpc::MessageHeader::default(),
            metadata: HashMap::new(),
            timeout_nano: 0,
            connection_data: Arc::default(),
        };
        let mut request = Request::new();
        request.method = name.to_owned();
        service.methods[name].handler(context, request).await
    }

    #[tokio::test]
    async fn a_call_whose_caller_goes_away_runs_to_its_end() {
        let pending = PendingCalls::default();
        for (name, ended, counted) in [("Create", 1, 1), ("Shutdown", 1, 0), ("Pids", 0, 0)] {
            let counts = Arc::default();
            let service = service(&counts, &pending);
            let limit = Duration::from_millis(10);
            let dropped = tokio::time::timeout(limit, call(&service, name)).await;
            assert!(dropped.is_err());
            assert_eq!(counts[0].load(Ordering::Relaxed), 1);
            assert_eq!(*pending.0.borrow(), counted, "{name}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(counts[1].load(Ordering::Relaxed), ended, "{name}");
            assert_eq!(*pending.0.borrow(), 0);
            pending.settled().await;
        }
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_error_and_not_pending_any_more() {
        let (counts, pending) = (Arc::default(), PendingCalls::default());
        let service = service(&counts, &pending);
        let error = call(&service, "Panic").await.unwrap_err();
        assert!(error.to_string().contains("bug"), "{error}");
        pending.settled().await;
    }
}
