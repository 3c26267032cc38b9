//! Tracing: spans of calls, programs and requests, in a real collector.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lighter_testkit::{
    Call, Collector, Containerd, Cri, Image, Network, ReceivedSpan, Version, guest, node_tool,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::{containerd_with, init};
use lighter_testkit::shim::eventually;

const LIMIT: Duration = Duration::from_secs(30);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";
const SERVER_KIND: i64 = 2;
const CLIENT_KIND: i64 = 3;

/// A module that no other test has: it is compiled when it is first started.
fn new_module(name: &str) -> Image {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut wasm = std::fs::read(guest("hello")).unwrap();
    // A custom section without a name, with the time in it.
    let unique = time.as_nanos().to_le_bytes();
    wasm.extend([0, 1 + unique.len() as u8, 0]);
    wasm.extend(unique);
    Image::new(name)
        .file("/app.wasm", wasm, 0o755)
        .entrypoint(["/app.wasm"])
}

fn named<'a>(spans: &'a [ReceivedSpan], name: &str) -> Vec<&'a ReceivedSpan> {
    let found = spans.iter().filter(|span| span.text("name") == name);
    found.collect()
}

/// The only span of this name and kind that is a part of another.
fn part_of(
    spans: &[ReceivedSpan],
    whole: &ReceivedSpan,
    name: &str,
    kind: i64,
) -> Option<ReceivedSpan> {
    let mut parts = spans.iter().filter(|span| {
        span.text("name") == name
            && span.kind() == kind
            && span.text("traceId") == whole.text("traceId")
            && span.text("parentSpanId") == whole.text("spanId")
    });
    let part = parts.next().cloned();
    assert!(parts.next().is_none(), "several {name}");
    part
}

/// Services `http-hello` in one network, which are traced.
struct Services {
    collector: Collector,
    containerd: Containerd,
    network: Network,
    options: String,
}

impl Services {
    fn new(table: impl FnOnce(&Collector) -> String) -> Self {
        let collector = Collector::start();
        let options = collector.options(&table(&collector));
        Self {
            containerd: containerd_with(&image()),
            network: Network::new(),
            collector,
            options,
        }
    }

    fn serve(&self, port: u16) -> String {
        let id = self
            .containerd
            .run(&image())
            .flags(self.network.flags())
            .flags(["--runtime-config-path", &self.options])
            .flags([
                "--env",
                &format!("PORT={port}"),
                "--env",
                "PASSWORD=hunter2",
            ])
            .detach();
        let address = format!("http://127.0.0.1:{port}/");
        eventually("the service answers", || {
            self.network.curl([&address]).output().status.success()
        });
        id
    }

    /// The server's span of the request with this path that a client of this trace has sent.
    fn server_span(&self, trace: &str, path: &str) -> ReceivedSpan {
        self.collector.await_spans(path, |spans| {
            let mut found = spans.iter().filter(|span| {
                span.text("traceId") == trace
                    && span.kind() == SERVER_KIND
                    && span.attribute("url.path") == path
            });
            found.next().cloned()
        })
    }
}

fn image() -> Image {
    Image::wasm("http-hello").file("/etc/hosts", "127.0.0.1 localhost here.test\n", 0o644)
}

#[test]
fn a_request_is_followed_from_its_client_through_two_services() {
    for protocol in ["grpc", "http/protobuf"] {
        let services = Services::new(|collector| {
            let endpoint = match protocol {
                "grpc" => collector.grpc(),
                _ => collector.http(),
            };
            format!("endpoint = {endpoint:?}\nprotocol = {protocol:?}")
        });
        let _traces = services.collector.traces(&services.options);
        let (back, front) = (services.serve(9000), services.serve(9001));
        let url = "http://127.0.0.1:9001/fetch?http://here.test:9000/none?password=hunter3";
        let parent = format!("traceparent: 00-{TRACE}-{CLIENT}-01");
        let headers = ["--header", &parent, "--header", "tracestate: vendor=1", url];
        services.network.curl(headers).ok();
        let first = services.server_span(TRACE, "/fetch");
        let (made, sent, second) = services.collector.await_spans("all parts", |spans| {
            let sent = part_of(spans, &first, "GET", CLIENT_KIND)?;
            let second = part_of(spans, &sent, "GET", SERVER_KIND)?;
            Some((part_of(spans, &first, "instantiate", 1)?, sent, second))
        });
        assert_eq!(first.text("parentSpanId"), CLIENT);
        assert_eq!(first.text("traceState"), "vendor=1");
        assert_eq!(second.text("traceState"), "vendor=1");
        assert_eq!(first.resource("container.id"), front);
        assert_eq!(sent.resource("container.id"), front);
        assert_eq!(second.resource("container.id"), back);
        assert_eq!(second.attribute("http.response.status_code"), "404");
        assert_eq!(
            second.error(),
            None,
            "the client's fault is no failure of the server"
        );
        assert_eq!(sent.attribute("http.response.status_code"), "404");
        assert_eq!(sent.error(), Some("404"));
        assert_eq!(sent.attribute("url.full"), "http://here.test:9000/none");
        assert!(made.nanoseconds() > 0 && first.nanoseconds() >= second.nanoseconds());
        // Neither a query nor the environment is for a collector.
        let text = services.collector.text();
        assert!(!text.contains("hunter"), "{text}");
        // The guest sees the span that it works for.
        let seen = [
            "--header",
            &parent,
            "http://127.0.0.1:9000/header?traceparent",
        ];
        let seen = services.network.curl(seen).ok();
        let span = services.server_span(TRACE, "/header");
        assert_eq!(
            seen.trim(),
            format!("00-{TRACE}-{}-01", span.text("spanId"))
        );
    }
}

#[test]
fn who_began_a_trace_decides_and_the_owner_decides_on_others() {
    let services = Services::new(|collector| {
        format!(
            "endpoint = {:?}\nprotocol = \"grpc\"\nratio = 0.0",
            collector.grpc()
        )
    });
    let _traces = services.collector.traces(&services.options);
    services.serve(9000);
    let get = |path: &str, flags: &str| {
        let parent = format!("traceparent: 00-{TRACE}-{CLIENT}-{flags}");
        let url = format!("http://127.0.0.1:9000{path}");
        services.network.curl(["--header", &parent, &url]).ok();
    };
    get("/header?traceparent", "00");
    get("/env?PASSWORD", "01");
    services.server_span(TRACE, "/env");
    let spans = services.collector.spans();
    let paths = spans.iter().map(|span| span.attribute("url.path"));
    let others: Vec<String> = paths
        .filter(|path| path != "/env" && !path.is_empty())
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(named(&spans, "containerd.task.v2.Task/Create").is_empty());
}

#[test]
fn a_service_outlives_the_exporter_and_is_traced_again() {
    let services = Services::new(|collector| {
        format!("endpoint = {:?}\nprotocol = \"grpc\"", collector.grpc())
    });
    let first = services.collector.traces(&services.options);
    let id = services.serve(9000);
    let process = init(&services.containerd, &id);
    let get = |trace: &str| {
        let parent = format!("traceparent: 00-{trace}-{CLIENT}-01");
        let url = "http://127.0.0.1:9000/env?PASSWORD";
        services.network.curl(["--header", &parent, url]).ok();
    };
    get(TRACE);
    services.server_span(TRACE, "/env");
    first.signal(Signal::SIGTERM);
    first.wait(LIMIT).exits(0);
    get(&TRACE.replace('0', "1"));
    // Longer than spans gather.
    std::thread::sleep(Duration::from_secs(1));
    let second = services.collector.traces(&services.options);
    let third = TRACE.replace('0', "2");
    get(&third);
    services.server_span(&third, "/env");
    eventually("the lost spans are told", || {
        second.stderr().contains("spans were lost on their way")
    });
    assert_eq!(init(&services.containerd, &id), process);
}

#[test]
fn calls_compiling_and_instances_are_parts_of_containerds_trace() {
    let image = new_module("traced");
    let trap = Image::wasm("trap");
    let collector = Collector::start();
    let options = collector.options("");
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_SERVICE_NAME", "containerd"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
    ];
    let containerd = Containerd::start_with_environment(Version::V2, &environment);
    containerd.import(&image);
    containerd.import(&trap);
    let leaks = containerd.leaks();
    let traces = {
        let options = collector.options(&format!("endpoint = {:?}", collector.http()));
        collector.traces(&options)
    };
    let run = |image: &Image, id: &str| {
        let run = containerd.run(image).id(id);
        run.flags(["--runtime-config-path", &options]).output()
    };
    run(&image, "new").exits(0);
    let create = |id: &str| {
        collector.await_spans(&format!("the creation of {id}"), |spans| {
            let creates = named(spans, "containerd.task.v2.Task/Create")
                .into_iter()
                .chain(named(spans, "containerd.task.v3.Task/Create"));
            let mut creates = creates.filter(|span| {
                span.attribute("container.id") == id
                    && span.resource("service.name") == "containerd-shim-wasmtime-v1"
            });
            creates.next().cloned()
        })
    };
    let new = create("new");
    collector.await_spans("containerd's own span", |spans| {
        let parent = new.text("parentSpanId");
        let whole = spans.iter().find(|span| span.text("spanId") == parent)?;
        assert_eq!(whole.resource("service.name"), "containerd");
        Some(())
    });
    let (load, compile) = collector.await_spans("compiling", |spans| {
        let load = part_of(spans, &new, "load program", 1)?;
        let compile = part_of(spans, &load, "compile", 1)?;
        Some((load, compile))
    });
    assert_eq!(load.attribute("lighter.cache.hit"), "false");
    assert!(compile.nanoseconds() > 1_000_000 && compile.nanoseconds() <= load.nanoseconds());
    let (ran, made) = collector.await_spans("the run", |spans| {
        let ran = part_of(spans, &new, "run", 1)?;
        let made = part_of(spans, &ran, "instantiate", 1)?;
        Some((ran, made))
    });
    assert_eq!(ran.attribute("process.exit.code"), "0");
    assert_eq!(ran.resource("container.id"), "new");
    assert!(made.nanoseconds() <= ran.nanoseconds());

    run(&image, "known").exits(0);
    let known = create("known");
    let load = collector.await_spans("loading", |spans| part_of(spans, &known, "load program", 1));
    assert_eq!(load.attribute("lighter.cache.hit"), "true");
    run(&trap, "trap").exits(134);
    let trapped = create("trap");
    let ran = collector.await_spans("the trap", |spans| part_of(spans, &trapped, "run", 1));
    assert!(ran.error().unwrap().contains("unreachable"), "{ran:?}");
    let missing = Image::new("missing").entrypoint(["/missing.wasm"]);
    containerd.import(&missing);
    run(&missing, "missing").fails_with(&["missing.wasm"]);
    let error = create("missing").error().unwrap().to_owned();
    assert!(error.contains("cannot create container missing"), "{error}");
    // Where there was nothing to compile, nothing says so.
    let spans = collector.spans();
    assert!(part_of(&spans, &load, "compile", 1).is_none());
    drop(traces);
    leaks.assert_none_since();
}

#[test]
fn a_pods_spans_carry_its_names_and_an_exec_is_traced() {
    let collector = Collector::start();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let cri = Cri::start_with_environment(Version::V2, &environment);
    // The environment's only, with the default socket.
    let mut traces = Call::new(node_tool(), ["traces"])
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.grpc())
        .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
        .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=here")
        .spawn();
    traces.await_stdout("/run/lighter/traces.sock", LIMIT);
    let image = Image::wasm("sleep")
        .guest("/hello.wasm", "hello")
        .entrypoint(["/sleep.wasm", "100"]);
    cri.import(&image);
    let pod = cri.pod_named("shop-0", &json!({}));
    let container = json!({
        "metadata": { "name": "shop" },
        "image": { "image": image.reference() },
        "linux": {},
    });
    let id = pod.start(&container).unwrap();
    let hello = cri.crictl(&["exec", &id, "/hello.wasm"]).ok();
    assert_eq!(hello, "Hello from Wasm\n");
    let ran = collector.await_spans("the exec", |spans| {
        let ran = named(spans, "run");
        ran.into_iter()
            .find(|span| span.resource("container.id") == id)
            .cloned()
    });
    assert_eq!(ran.attribute("lighter.program"), "/hello.wasm");
    for (name, value) in [
        ("service.name", "shop"),
        ("k8s.container.name", "shop"),
        ("k8s.pod.name", "shop-0"),
        ("k8s.namespace.name", "default"),
        ("k8s.node.name", "here"),
        ("container.runtime", "wasmtime"),
    ] {
        assert_eq!(ran.resource(name), value, "{name}");
    }
}

#[test]
fn without_options_nothing_of_tracing_is_there() {
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "100"]);
    let containerd = containerd_with(&image);
    let id = containerd.run(&image).detach();
    let sockets = |pid: i32| {
        let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = folder
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links
            .filter(|link| link.to_string_lossy().starts_with("socket:"))
            .count()
    };
    assert_eq!(sockets(init(&containerd, &id)), 0);
    let collector = Collector::start();
    let options = collector.options("");
    let traced = containerd
        .run(&image)
        .flags(["--runtime-config-path", &options])
        .detach();
    // Its one end of the way to the shim.
    assert_eq!(sockets(init(&containerd, &traced)), 1);
    containerd.remove(&id);
    containerd.remove(&traced);
}
