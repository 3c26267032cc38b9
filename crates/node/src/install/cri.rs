//! The question to a running containerd: which runtime handlers it knows.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::HANDLER;
use super::effective::Handler;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// `runtime.v1.StatusRequest` of the CRI.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

/// The part of `runtime.v1.StatusResponse` that is of use here.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    /// With `verbose`: among others `config`, the configuration as JSON.
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

/// What a running containerd knows of our handler; nothing if it knows none of its name.
///
/// # Errors
/// When it does not answer.
pub fn handler(socket: &Path) -> Result<Option<Handler>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = async {
        timeout(PATIENCE, status(socket))
            .await
            .map_err(|_| format!("no answer after {} s", PATIENCE.as_secs()))?
    };
    let response = runtime
        .block_on(asked)
        .map_err(|error| format!("containerd's CRI at {}: {error}", socket.display()))?;
    let config = response.info.get("config").map_or("{}", String::as_str);
    let config: Value = serde_json::from_str(config).map_err(|error| error.to_string())?;
    Ok(known(&config))
}

async fn status(socket: &Path) -> Result<StatusResponse, String> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
    let channel = endpoint.map_err(text)?.connect().await.map_err(text)?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(text)?;
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    let request = Request::new(StatusRequest { verbose: true });
    let path = http::uri::PathAndQuery::from_static("/runtime.v1.RuntimeService/Status");
    let answer = client.unary(request, path, codec).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.message().to_owned())
}

/// The innermost cause says what is wrong.
fn text(error: tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The names of keys differ between versions in case and underscores.
fn known(config: &Value) -> Option<Handler> {
    let handler = config.get("containerd")?.get("runtimes")?.get(HANDLER)?;
    let get = |object: &Value, name: &str| {
        let plain = |key: &str| key.replace('_', "").to_lowercase();
        let object = object.as_object()?;
        let found = object.iter().find(|(key, _)| plain(key) == plain(name));
        found.map(|(_, value)| value.clone())
    };
    let string = |name: &str| {
        let value = get(handler, name);
        value
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    };
    let strings = |name: &str| -> Vec<String> {
        let value = get(handler, name);
        value
            .and_then(|value| serde_json::from_value(value).ok())
            .unwrap_or_default()
    };
    let option = |name: &str| get(&get(handler, "options")?, name);
    Some(Handler {
        runtime_type: string("runtimeType"),
        runtime_path: string("runtimePath"),
        pod_annotations: strings("PodAnnotations"),
        container_annotations: strings("ContainerAnnotations"),
        config_path: option("ConfigPath")
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default(),
        systemd_cgroup: option("SystemdCgroup").and_then(|value| value.as_bool()) == Some(true),
    })
}
