//! OTLP, as the options or OpenTelemetry's environment variables say.

use std::fs;
use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use lighter_trace::{Protocol, Span, TraceOptions};
use opentelemetry::InstrumentationScope;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::span;

/// Where collectors listen by default (OTLP specification).
const GRPC: &str = "http://localhost:4317";
const HTTP: &str = "http://localhost:4318";
/// The path of spans behind an endpoint.
const PATH: &str = "/v1/traces";
/// Time for an export, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIME: Duration = Duration::from_secs(10);

/// Sends spans to a collector.
pub(super) struct Exporter {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    /// Where to, for people.
    pub(super) target: String,
    /// Whether the last export has failed: it is told once.
    failed: bool,
}

impl Exporter {
    /// # Errors
    /// What is wrong with which option or variable.
    pub(super) fn new(options: &TraceOptions) -> Result<Self, String> {
        let protocol = match options.protocol {
            Some(protocol) => protocol,
            None => protocol_of(variable("PROTOCOL").as_deref())?,
        };
        let endpoint = options.endpoint.as_deref();
        let authorities = authorities()?;
        let (exporter, default) = match protocol {
            Protocol::Grpc => (grpc(endpoint, authorities.as_deref()), GRPC),
            Protocol::HttpProtobuf => (http(endpoint, authorities.as_deref())?, HTTP),
        };
        let target = endpoint.map(str::to_owned).or_else(|| variable("ENDPOINT"));
        let target = target.unwrap_or_else(|| default.to_owned());
        Ok(Self {
            exporter: exporter.map_err(|error| format!("cannot export to {target}: {error}"))?,
            scope: InstrumentationScope::builder("lighter")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            target,
            failed: false,
        })
    }

    /// Exports the spans of one resource. A failure is told when it begins and when it ends.
    pub(super) async fn export(&mut self, resource: &Resource, spans: Vec<Span>) {
        self.exporter.set_resource(resource);
        let data = spans.into_iter().map(|span| span::data(span, &self.scope));
        match self.exporter.export(data.collect()).await {
            Ok(()) if self.failed => {
                eprintln!("lighter: spans are exported to {} again", self.target);
                self.failed = false;
            }
            Ok(()) => {}
            Err(error) if !self.failed => {
                eprintln!(
                    "lighter: cannot export spans to {}: {error}; they are lost until it can be reached",
                    self.target
                );
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

/// A variable of the exporter: that of traces counts before that of everything.
fn variable(name: &str) -> Option<String> {
    let value = |prefix: &str| {
        let value = std::env::var(format!("{prefix}{name}")).ok();
        value.filter(|value| !value.trim().is_empty())
    };
    value("OTEL_EXPORTER_OTLP_TRACES_").or_else(|| value("OTEL_EXPORTER_OTLP_"))
}

fn protocol_of(name: Option<&str>) -> Result<Protocol, String> {
    match name.map(str::trim) {
        Some("grpc") => Ok(Protocol::Grpc),
        Some("http/protobuf") | None => Ok(Protocol::HttpProtobuf),
        Some(other) => Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}: grpc and http/protobuf are supported"
        )),
    }
}

/// Certificates that are trusted instead of the public ones.
fn authorities() -> Result<Option<Vec<u8>>, String> {
    let Some(path) = variable("CERTIFICATE") else {
        return Ok(None);
    };
    fs::read(&path)
        .map(Some)
        .map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {path}: {error}"))
}

type Built = Result<SpanExporter, opentelemetry_otlp::ExporterBuildError>;

fn grpc(endpoint: Option<&str>, authorities: Option<&[u8]>) -> Built {
    let tls = ClientTlsConfig::new();
    let tls = match authorities {
        Some(authorities) => tls.ca_certificate(Certificate::from_pem(authorities)),
        None => tls.with_webpki_roots(),
    };
    let mut builder = SpanExporter::builder().with_tonic().with_tls_config(tls);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder.build()
}

fn http(endpoint: Option<&str>, authorities: Option<&[u8]>) -> Result<Built, String> {
    let client = HyperClient::new(connector(authorities)?, time(), None);
    let mut builder = SpanExporter::builder().with_http().with_http_client(client);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(format!("{}{PATH}", endpoint.trim_end_matches('/')));
    }
    Ok(builder.build())
}

fn time() -> Duration {
    let milliseconds = variable("TIMEOUT").and_then(|text| text.trim().parse().ok());
    milliseconds.map_or(TIME, Duration::from_millis)
}

fn connector(authorities: Option<&[u8]>) -> Result<HttpsConnector<HttpConnector>, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(text) => {
            for certificate in CertificateDer::pem_slice_iter(text) {
                let added = certificate.map_err(|error| error.to_string());
                added
                    .and_then(|der| roots.add(der).map_err(|error| error.to_string()))
                    .map_err(|error| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {error}"))?;
            }
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_that_is_not_supported_is_named() {
        assert_eq!(protocol_of(None), Ok(Protocol::HttpProtobuf));
        assert_eq!(protocol_of(Some(" grpc")), Ok(Protocol::Grpc));
        let error = protocol_of(Some("http/json")).unwrap_err();
        assert!(
            error.contains("http/json") && error.contains("grpc"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        assert!(connector(None).is_ok());
        let text = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(connector(Some(text)).unwrap_err().contains("CERTIFICATE"));
    }

    #[tokio::test]
    async fn an_endpoint_that_is_none_is_refused() {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            let options = TraceOptions {
                endpoint: Some("http://not a host".to_owned()),
                protocol: Some(protocol),
                ..TraceOptions::default()
            };
            let error = Exporter::new(&options).err().unwrap();
            assert!(error.contains("not a host"), "{error}");
        }
    }
}
