//! The few calls of the Kubernetes API that an agent makes, as JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// For one call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most of what is read of an answer: a list of pods.
const MAX_ANSWER: usize = 64 << 20;

/// Keeps a role until the last agent has cleaned up.
const FINALIZER: &str = "lighter.dev/uninstall";

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The API as a pod of the cluster reaches it. Its calls block, and each has a connection of its own:
/// nobody would look after one between them.
pub struct Api {
    connector: HttpsConnector<HttpConnector>,
    address: String,
    token: PathBuf,
    runtime: Runtime,
}

/// What the API has answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The object of a call that has succeeded.
    pub fn object(self) -> Result<Value, String> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let message = self.body["message"].as_str().unwrap_or("no reason given");
        Err(format!("{message} ({})", self.status))
    }
}

impl Api {
    /// With the files of a service account, and the address in the environment.
    pub fn new(service_account: &Path) -> Result<Self, String> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| format!("{name} is not set: the agent is for pods"))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&service_account.join("ca.crt"))?)
            .https_only()
            .enable_all_versions()
            .build();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            connector,
            address: format!("https://{host}:{port}"),
            token: service_account.join("token"),
            runtime,
        })
    }

    fn client(&self) -> Https {
        Client::builder(TokioExecutor::new()).build(self.connector.clone())
    }

    fn once(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        let client = self.client();
        self.runtime
            .block_on(self.call(&client, method, path, body))
    }

    pub fn get(&self, path: &str) -> Result<Answer, String> {
        self.once(Method::GET, path, &Value::Null)
    }

    /// Merges into an object.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<(), String> {
        self.once(Method::PATCH, path, patch)?.object().map(|_| ())
    }

    pub fn post(&self, path: &str, object: &Value) -> Result<(), String> {
        self.once(Method::POST, path, object)?.object().map(|_| ())
    }

    /// Removes our finalizer from objects that are there: all at once, as each may be what allows to
    /// change the next.
    pub fn let_go(&self, paths: &[String]) -> Result<(), String> {
        let client = self.client();
        self.runtime.block_on(async {
            let mut calls = Vec::new();
            for path in paths {
                let answer = self.call(&client, Method::GET, path, &Value::Null).await?;
                if answer.status != 404
                    && let Some(patch) = without_finalizer(&answer.object()?)
                {
                    calls.push((path, patch));
                }
            }
            let client = &client;
            let calls = calls.iter().map(|(path, patch)| async move {
                let answer = self.call(client, Method::PATCH, path, patch).await?;
                match answer.object() {
                    Ok(_) => Ok(()),
                    Err(error) => Err(format!("cannot let {path} go: {error}")),
                }
            });
            let done: Vec<Result<(), String>> = at_once(calls).await;
            done.into_iter().collect()
        })
    }

    async fn call(
        &self,
        client: &Https,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, String> {
        // It is renewed.
        let token = std::fs::read_to_string(&self.token)
            .map_err(|error| format!("cannot read {}: {error}", self.token.display()))?;
        let (kind, bytes) = match method {
            Method::GET => ("application/json", Vec::new()),
            Method::PATCH => (
                "application/merge-patch+json",
                body.to_string().into_bytes(),
            ),
            _ => ("application/json", body.to_string().into_bytes()),
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.address))
            .header(AUTHORIZATION, format!("Bearer {}", token.trim()))
            .header(CONTENT_TYPE, kind)
            .body(Full::from(bytes))
            .map_err(|error| error.to_string())?;
        timeout(PATIENCE, self.send(client, request))
            .await
            .map_err(|_| format!("{} does not answer", self.address))?
    }

    async fn send(&self, client: &Https, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let response = client.request(request).await.map_err(|error| {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            format!("{}: {cause}", self.address)
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        // Not all refusals are JSON.
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| json!({ "message": String::from_utf8_lossy(&body) }));
        Ok(Answer { status, body })
    }
}

/// The patch that takes our finalizer away; nothing if it is not there. It fails if the object has
/// changed meanwhile.
fn without_finalizer(object: &Value) -> Option<Value> {
    let all = object["metadata"]["finalizers"].as_array()?;
    let rest: Vec<&Value> = all.iter().filter(|name| *name != FINALIZER).collect();
    (rest.len() < all.len()).then(|| {
        let version = &object["metadata"]["resourceVersion"];
        json!({ "metadata": { "finalizers": rest, "resourceVersion": version } })
    })
}

/// Waits for all of them, each of which starts at once.
async fn at_once<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut calls: Vec<_> = calls.map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(|context| {
        for (call, done) in &mut calls {
            if done.is_none()
                && let std::task::Poll::Ready(value) = call.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        match calls.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    calls.into_iter().filter_map(|(_, done)| done).collect()
}

fn tls(authority: &Path) -> Result<ClientConfig, String> {
    let error = |error: String| format!("{}: {error}", authority.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authority);
    for certificate in certificates.map_err(|each| error(each.to_string()))? {
        let certificate = certificate.map_err(|each| error(each.to_string()))?;
        roots
            .add(certificate)
            .map_err(|each| error(each.to_string()))?;
    }
    let provider = rustls::crypto::ring::default_provider().into();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|each| error(each.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_finalizer_is_taken_away() {
        let object =
            |names: Value| json!({ "metadata": { "finalizers": names, "resourceVersion": "7" } });
        assert_eq!(
            without_finalizer(&object(json!(["a", FINALIZER, "b"]))),
            Some(object(json!(["a", "b"])))
        );
        assert_eq!(without_finalizer(&object(json!(["a"]))), None);
        assert_eq!(without_finalizer(&json!({ "metadata": {} })), None);
    }
}
