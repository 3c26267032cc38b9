//! Events to containerd, in order, across its restarts.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use ttrpc::asynchronous::transport::Socket;
use ttrpc::context::{Context, with_duration};

use crate::events::Event;

/// How long containerd may take to accept one event.
const FORWARD_LIMIT: Duration = Duration::from_secs(10);
/// First and longest pause between attempts while containerd is down.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

enum Item {
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

/// Queues events; a task of its own sends them one after the other.
///
/// Each is sent again until containerd has answered, so a restart of containerd loses none;
/// one whose answer was lost with the connection may arrive twice.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Item>,
    namespace: String,
}

impl Publisher {
    /// Publishes to the ttrpc socket at `address`, for containers of `namespace`.
    ///
    /// Must be called in a tokio runtime.
    pub fn start(address: &str, namespace: &str) -> Self {
        let (queue, items) = mpsc::unbounded_channel();
        let path = address
            .strip_prefix("unix://")
            .unwrap_or(address)
            .to_owned();
        tokio::spawn(send_all(path, items));
        Self {
            queue,
            namespace: namespace.to_owned(),
        }
    }

    /// Queues `event`, with the time of now.
    pub(crate) fn publish(&self, event: Event) {
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(now()).into();
        envelope.namespace.clone_from(&self.namespace);
        envelope.topic = event.topic.to_owned();
        envelope.event = Some(event.message).into();
        // The receiver lives as long as the runtime.
        let _ = self.queue.send(Item::Event(Box::new(envelope)));
    }

    /// Waits until all events queued so far have been sent, `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Item::Flush(done)).is_ok() {
            let _ = tokio::time::timeout(limit, flushed).await;
        }
    }
}

async fn send_all(path: String, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut connection = None;
    while let Some(item) = items.recv().await {
        match item {
            Item::Event(envelope) => send(&path, &mut connection, *envelope).await,
            Item::Flush(done) => drop(done.send(())),
        }
    }
}

/// Sends one event until containerd has answered.
async fn send(path: &str, connection: &mut Option<EventsClient>, envelope: Envelope) {
    let mut request = ForwardRequest::new();
    let topic = envelope.topic.clone();
    request.envelope = Some(envelope).into();
    let mut pauses = pauses();
    loop {
        if connection.is_none() {
            *connection = match UnixStream::connect(path).await {
                Ok(stream) => Some(EventsClient::new(Client::new(Socket::from(stream)))),
                Err(error) => {
                    log::debug!("containerd is not reachable at {path}: {error}");
                    None
                }
            };
        }
        if let Some(client) = connection {
            match client.forward(context(), &request).await {
                Ok(_) => return,
                Err(ttrpc::Error::RpcStatus(status)) if is_final(status.code()) => {
                    log::error!("containerd refused the event {topic}: {}", status.message);
                    return;
                }
                Err(error) => {
                    log::debug!("event {topic} was not sent: {error}");
                    *connection = None;
                }
            }
        }
        let pause = pauses.pop_front().unwrap_or(PAUSES.1);
        tokio::time::sleep(pause).await;
    }
}

/// Whether containerd would give the same answer again.
fn is_final(code: ttrpc::Code) -> bool {
    !matches!(
        code,
        ttrpc::Code::UNAVAILABLE | ttrpc::Code::DEADLINE_EXCEEDED | ttrpc::Code::CANCELLED
    )
}

fn context() -> Context {
    with_duration(FORWARD_LIMIT)
}

fn pauses() -> VecDeque<Duration> {
    std::iter::successors(Some(PAUSES.0), |pause| Some(*pause * 2))
        .take_while(|pause| *pause < PAUSES.1)
        .collect()
}

fn now() -> Timestamp {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut timestamp = Timestamp::new();
    timestamp.seconds = now.as_secs().cast_signed();
    timestamp.nanos = now.subsec_nanos().cast_signed();
    timestamp
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use containerd_shim_protos::api::Empty;
    use containerd_shim_protos::shim_async::{Events, create_events};
    use ttrpc::asynchronous::{Server, TtrpcContext};

    /// What a containerd has got. A real one cannot be made to go at a given event.
    struct Received(Arc<Mutex<Vec<String>>>);

    #[async_trait::async_trait]
    impl Events for Received {
        async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
            self.0.lock().unwrap().push(request.envelope.topic.clone());
            Ok(Empty::new())
        }
    }

    async fn containerd(path: &std::path::Path, received: &Arc<Mutex<Vec<String>>>) -> Server {
        let _ = std::fs::remove_file(path);
        let mut server = Server::new()
            .bind(&format!("unix://{}", path.display()))
            .unwrap()
            .register_service(create_events(Arc::new(Received(Arc::clone(received)))));
        server.start().await.unwrap();
        server
    }

    fn event(topic: &'static str) -> Event {
        Event {
            topic,
            message: Default::default(),
        }
    }

    #[tokio::test]
    async fn events_wait_for_containerd_and_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("containerd.ttrpc");
        let received = Arc::default();
        let publisher = Publisher::start(path.to_str().unwrap(), "default");
        publisher.publish(event("/1"));
        publisher.publish(event("/2"));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut first = containerd(&path, &received).await;
        publisher.flush(FORWARD_LIMIT).await;
        first.shutdown().await.unwrap();
        publisher.publish(event("/3"));
        publisher.publish(event("/4"));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _second = containerd(&path, &received).await;
        publisher.publish(event("/5"));
        publisher.flush(FORWARD_LIMIT).await;
        assert_eq!(*received.lock().unwrap(), ["/1", "/2", "/3", "/4", "/5"]);
    }
}
