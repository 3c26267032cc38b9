//! A span for each call of the task API, as a part of the trace that containerd sends with it.

use std::collections::HashMap;

use async_trait::async_trait;
use lighter_trace::{SpanKind, TraceContext, Tracer};
use protobuf::CodedInputStream;
use ttrpc::r#async::{MethodHandler, Service, TtrpcContext};
use ttrpc::{Code, Request, Response};

/// What protobuf writes before the first field of a message, if that is a string.
const FIRST_STRING: u32 = 1 << 3 | 2;

tokio::task_local! {
    static CALL: TraceContext;
}

/// The call that is being answered, if it is traced.
pub(crate) fn current() -> Option<TraceContext> {
    CALL.try_with(Clone::clone).ok()
}

/// The same service with a span for each of its calls.
pub(crate) fn traced(service: Service, tracer: &Tracer) -> Service {
    let methods = service.methods.into_iter().map(|(name, handler)| {
        let traced: Box<dyn MethodHandler + Send + Sync> = Box::new(TracedMethod {
            handler,
            tracer: tracer.clone(),
        });
        (name, traced)
    });
    Service {
        methods: methods.collect(),
        streams: service.streams,
    }
}

struct TracedMethod {
    handler: Box<dyn MethodHandler + Send + Sync>,
    tracer: Tracer,
}

#[async_trait]
impl MethodHandler for TracedMethod {
    async fn handler(&self, context: TtrpcContext, request: Request) -> ttrpc::Result<Response> {
        let parent = parent(&context.metadata);
        let name = format!("{}/{}", request.service, request.method);
        let mut span = self.tracer.begin(name, SpanKind::Server, parent.as_ref());
        if span.is_recorded() {
            span.set("rpc.system", "ttrpc");
            span.set("rpc.service", request.service.as_str());
            span.set("rpc.method", request.method.as_str());
            if let Some(container) = container(&request.payload) {
                span.set("container.id", container.as_str());
            }
        }
        let call = self.handler.handler(context, request);
        let result = CALL.scope(span.context().clone(), call).await;
        match &result {
            Ok(response) if response.status().code() != Code::OK => {
                span.fail(&response.status().message);
            }
            Ok(_) => {}
            Err(error) => span.fail(&error.to_string()),
        }
        result
    }
}

/// containerd's own span, from the metadata of its call (containerd `otelttrpc`).
fn parent(metadata: &HashMap<String, Vec<String>>) -> Option<TraceContext> {
    let first = |name: &str| metadata.get(name)?.first().map(String::as_str);
    TraceContext::parse(first("traceparent")?, first("tracestate"))
}

/// The container: all requests of the task API have its id as their first field.
pub fn container(payload: &[u8]) -> Option<String> {
    let mut input = CodedInputStream::from_bytes(payload);
    let tag = input.read_raw_tag_or_eof().ok()??;
    let id = (tag == FIRST_STRING).then(|| input.read_string())?;
    id.ok()
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::api;
    use proptest::prelude::*;
    use protobuf::Message;

    use super::*;

    #[test]
    fn the_container_is_the_first_field() {
        let mut create = api::CreateTaskRequest::new();
        create.bundle = "/run/bundle".to_owned();
        assert_eq!(container(&create.write_to_bytes().unwrap()), None);
        create.id = "shop".to_owned();
        let create = create.write_to_bytes().unwrap();
        assert_eq!(container(&create).as_deref(), Some("shop"));
        let mut kill = api::KillRequest::new();
        kill.id = "shop".to_owned();
        kill.signal = 9;
        let kill = kill.write_to_bytes().unwrap();
        assert_eq!(container(&kill).as_deref(), Some("shop"));
        assert_eq!(container(&[]), None);
    }

    #[test]
    fn the_callers_span_is_in_the_metadata() {
        let of = |name: &str, value: &str| {
            parent(&HashMap::from([(name.to_owned(), vec![value.to_owned()])]))
        };
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(of("traceparent", text).unwrap().to_string(), text);
        assert_eq!(of("traceparent", "x"), None);
        assert_eq!(of("x", text), None);
    }

    proptest! {
        #[test]
        fn any_payload_is_looked_at_without_harm(payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = container(&payload);
        }
    }
}
