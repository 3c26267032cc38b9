//! An OpenTelemetry Collector that writes down what it receives.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::call::Call;
use crate::paths::{cache, node_tool};
use crate::running::Running;

/// How long spans may take to arrive.
const LIMIT: Duration = Duration::from_secs(30);

/// A collector on free ports of 127.0.0.1.
pub struct Collector {
    _process: Running,
    folder: TempDir,
    grpc: String,
    http: String,
}

/// A span that a collector has received.
#[derive(Clone, Debug)]
pub struct ReceivedSpan {
    span: Value,
    resource: Value,
}

impl Collector {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// When it has not been built.
    pub fn start() -> Self {
        let program = cache().join("collector/collector");
        assert!(
            program.is_file(),
            "no {}: run test/collector/build.sh",
            program.display()
        );
        let folder = tempfile::tempdir().expect("make a folder");
        let [grpc, http] = free_addresses();
        let file = folder.path().join("collector.yaml");
        fs::write(&file, configuration(folder.path(), &grpc, &http))
            .expect("write the collector's configuration");
        let process = Call::new(program, ["--config", &file.display().to_string()]).spawn();
        let end = Instant::now() + LIMIT;
        while !process.stderr().contains("Everything is ready") {
            assert!(Instant::now() < end, "the collector: {}", process.stderr());
            thread::sleep(Duration::from_millis(50));
        }
        Self {
            _process: process,
            folder,
            grpc: format!("http://{grpc}"),
            http: format!("http://{http}"),
        }
    }

    /// Its endpoint for gRPC.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// Its endpoint for HTTP.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// Where a test may keep the socket of `lighter traces`.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("traces.sock")
    }

    /// A file of node's options with this table `traces`, beside the socket.
    pub fn options(&self, table: &str) -> String {
        let path = self.folder.path().join("options.toml");
        let socket = self.socket();
        let text = format!("[traces]\nsocket = {socket:?}\n{table}\n");
        fs::write(&path, text).expect("write options");
        path.display().to_string()
    }

    /// `lighter traces` with a file of options, listening.
    pub fn traces(&self, options: &str) -> Running {
        let mut traces = Call::new(node_tool(), ["--options", options, "traces"]).spawn();
        traces.await_stdout("exports spans", LIMIT);
        traces
    }

    /// All that has arrived until now, as text.
    pub fn text(&self) -> String {
        fs::read_to_string(self.folder.path().join("spans.json")).unwrap_or_default()
    }

    /// The spans that have arrived until now.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut spans = Vec::new();
        let text = self.text();
        // The last line may be on its way.
        for line in text.lines() {
            let Ok(request) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            for resource in list(&request["resourceSpans"]) {
                for scope in list(&resource["scopeSpans"]) {
                    spans.extend(list(&scope["spans"]).into_iter().map(|span| ReceivedSpan {
                        span,
                        resource: resource["resource"].clone(),
                    }));
                }
            }
        }
        spans
    }

    /// Waits until `find` answers something of the spans that have arrived.
    ///
    /// # Panics
    /// When nothing comes in time.
    #[track_caller]
    pub fn await_spans<T>(&self, what: &str, find: impl Fn(&[ReceivedSpan]) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            let spans = self.spans();
            if let Some(found) = find(&spans) {
                return found;
            }
            assert!(Instant::now() < end, "{what} is not among {spans:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl ReceivedSpan {
    /// A text of the span: `name`, `traceId`, `spanId`, `parentSpanId`; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        self.span[name].as_str().unwrap_or_default()
    }

    /// OpenTelemetry's number of its kind: 1 internal, 2 server, 3 client.
    pub fn kind(&self) -> i64 {
        self.span["kind"].as_i64().unwrap_or_default()
    }

    /// Why it failed, if it did.
    pub fn error(&self) -> Option<&str> {
        let status = &self.span["status"];
        (status["code"] == 2).then(|| status["message"].as_str().unwrap_or_default())
    }

    /// An attribute as text; empty if there is none.
    pub fn attribute(&self, name: &str) -> String {
        attribute(&self.span, name)
    }

    /// An attribute of who has made it.
    pub fn resource(&self, name: &str) -> String {
        attribute(&self.resource, name)
    }

    /// How long it took, in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        let time = |name: &str| self.text(name).parse::<u64>().unwrap_or_default();
        time("endTimeUnixNano").saturating_sub(time("startTimeUnixNano"))
    }
}

fn attribute(of: &Value, name: &str) -> String {
    let attributes = of["attributes"].as_array();
    let found = attributes.and_then(|all| all.iter().find(|pair| pair["key"] == name));
    let value = found.and_then(|pair| pair["value"].as_object()?.values().next());
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// Free when this returns; the collector does not say which ones it has taken itself.
fn free_addresses() -> [String; 2] {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("find a free port");
    [(), ()].map(bind).map(|listener| {
        let address = listener.local_addr().expect("the address of a listener");
        address.to_string()
    })
}

fn configuration(folder: &Path, grpc: &str, http: &str) -> String {
    let file = folder.join("spans.json");
    format!(
        r#"
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "{grpc}"}}
      http: {{endpoint: "{http}"}}
exporters:
  file: {{path: {file:?}}}
service:
  telemetry:
    metrics: {{level: none}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [file]}}
"#
    )
}
