//! The shim's socket and its main loop.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use containerd_shim_protos::shim_async::create_task;
use tokio::sync::Notify;
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::calls::uncancelled;
use crate::publisher::Publisher;
use crate::reaper::Reaper;
use crate::requests::{Service, lock};
use crate::runtime::Runtime;
use crate::spans::SpanSender;
use crate::tasks::Tasks;
use crate::traced::traced;

/// The names of one and the same service (containerd `api/runtime/task`).
const SERVICE_NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];
/// How long events may take to leave when the shim ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long connections may take to close when the shim ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Serves the task API on `listener` until containerd shuts the shim down.
///
/// `withdraw` removes the socket from sight: it is called before anything else ends, so that
/// no container is sent to a shim that goes. `spans` is where spans go, if calls are traced.
/// Once `unwanted` is ready, a shim without a task ends as if it had been shut down.
///
/// Must run in a tokio runtime of one thread, with SIGCHLD blocked.
pub async fn serve(
    listener: UnixListener,
    runtime: Box<dyn Runtime>,
    publisher: Publisher,
    spans: Option<SpanSender>,
    unwanted: impl Future<Output = ()>,
    withdraw: impl FnOnce(),
) -> io::Result<()> {
    let tasks = Arc::new(Mutex::new(Tasks::new(publisher.clone(), spans.clone())));
    let shutdown = Arc::new(Notify::new());
    let service = Arc::new(Service::new(
        runtime,
        Arc::clone(&tasks),
        Arc::clone(&shutdown),
    ));

    listener.set_nonblocking(true)?;
    let mut server = Server::new().add_listener(Listener::try_from(listener)?);
    for name in SERVICE_NAMES {
        let methods = create_task(service.clone()).into_values();
        let methods = methods.map(|methods| match &spans {
            Some(spans) => traced(methods, &spans.tracer()),
            None => methods,
        });
        let methods = methods.map(|methods| uncancelled(methods, &service.pending));
        server =
            server.register_service(methods.map(|methods| (name.to_owned(), methods)).collect());
    }
    server.start().await.map_err(io::Error::other)?;

    let reap = Reaper::new()?.run(|pid, exit| {
        let left_behind = lock(&tasks).ended(pid, exit);
        if let Some(id) = left_behind {
            service.kill_remaining(id);
        }
    });
    let unwanted = async {
        unwanted.await;
        if !lock(&tasks).is_empty() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = reap => result?,
        () = shutdown.notified() => {}
        () = unwanted => {}
    }
    withdraw();
    publisher.flush(FLUSH_LIMIT).await;
    if let Some(spans) = spans {
        spans.flush(CLOSE_LIMIT).await;
    }
    // Closes the connections, with the answer to Shutdown on its way.
    let _ = tokio::time::timeout(CLOSE_LIMIT, server.shutdown()).await;
    Ok(())
}
