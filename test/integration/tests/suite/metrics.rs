//! `lighter metrics`: what a container has counted, as Prometheus reads it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lighter_testkit::{Call, Containerd, Cri, Image, Version, node_tool};
use nix::sys::signal::Signal;

use crate::http::{Service, annotation};
use crate::limits::computed;
use crate::{containerd_with, init};
use lighter_testkit::shim::eventually;

const LIMIT: Duration = Duration::from_secs(20);

/// What `lighter metrics` prints of one container.
struct Scrape(Vec<(String, f64)>);

impl Scrape {
    fn new(containerd: &Containerd, id: &str) -> Self {
        Self::of(&Call::new(node_tool(), ["metrics"]).ok(), containerd, id)
    }

    fn of(text: &str, containerd: &Containerd, id: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let namespace = format!(r#"containerd_namespace="{}""#, containerd.namespace());
        let id = format!(r#"id="{id}""#);
        let samples = text
            .lines()
            .filter(|line| line.contains(&namespace) && line.contains(&id))
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            });
        Self(samples.collect())
    }

    /// The value of `lighter_NAME`, with this text among its labels.
    fn labelled(&self, name: &str, label: &str) -> Option<f64> {
        let start = format!("lighter_{name}{{");
        let mut values = self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with(&start) && name.contains(label));
        let value = values.next().map(|(_, value)| *value);
        assert!(values.next().is_none(), "{name} has several values");
        value
    }

    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        self.labelled(name, "")
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }
}

#[test]
fn memory_and_processor_time_are_those_of_the_guest() {
    let image = Image::wasm("grow");
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let id = containerd
        .run(&image)
        .arguments(["/grow.wasm", "20", "100"])
        .detach();
    eventually("it has grown", || {
        Scrape::new(&containerd, &id).value("guest_memory_bytes") >= f64::from(20 << 20)
    });
    let scrape = Scrape::new(&containerd, &id);
    let memory = scrape.value("guest_memory_bytes");
    assert!(memory < f64::from(24 << 20), "{memory}");
    assert_eq!(scrape.value("guest_memory_peak_bytes"), memory);
    assert_eq!(scrape.value("instances_total"), 1.0);
    let processor = scrape.value("guest_cpu_seconds_total");
    let kernels = computed(init(&containerd, &id)) as f64 / 100.0;
    assert!(
        (processor - kernels).abs() <= 0.02,
        "{processor}, {kernels}"
    );
    assert!(scrape.labelled("http_requests_total", "2xx").is_none());
    // What a killed process had is gone, and what it had used nobody knows.
    containerd
        .ctr(["tasks", "kill", "--signal", "SIGKILL", &id])
        .ok();
    containerd.await_status(&id, "STOPPED", LIMIT);
    let scrape = Scrape::new(&containerd, &id);
    assert_eq!(scrape.value("guest_memory_bytes"), 0.0);
    assert_eq!(scrape.value("guest_memory_peak_bytes"), memory);
    assert!(scrape.labelled("guest_cpu_seconds_total", "").is_none());
    // Whoever scrapes now and then still finds it when containerd has removed the container.
    containerd.remove(&id);
    let scrape = Scrape::new(&containerd, &id);
    assert_eq!(scrape.value("guest_memory_bytes"), 0.0);
    assert_eq!(scrape.value("guest_memory_peak_bytes"), memory);
    leaks.assert_none_since();
}

#[test]
fn traps_are_counted_by_their_kind() {
    for (guest, kind) in [
        ("trap", "unreachable"),
        ("oob", "memory_out_of_bounds"),
        ("overflow", "stack_overflow"),
    ] {
        let image = Image::wasm(guest);
        let containerd = containerd_with(&image);
        let id = containerd.run(&image).detach();
        containerd.await_status(&id, "STOPPED", LIMIT);
        if guest == "trap" {
            // As a kubelet does at once.
            containerd.remove(&id);
        }
        let scrape = Scrape::new(&containerd, &id);
        let label = format!(r#"kind="{kind}""#);
        assert_eq!(scrape.labelled("traps_total", &label), Some(1.0), "{guest}");
        let all = scrape
            .0
            .iter()
            .filter(|(name, _)| name.contains("traps_total"));
        assert_eq!(all.map(|(_, count)| count).sum::<f64>(), 1.0, "{guest}");
        assert!(scrape.value("guest_cpu_seconds_total") > 0.0, "{guest}");
    }
}

#[test]
fn fuel_is_counted_where_it_is_limited() {
    let image = Image::wasm("busy");
    let containerd = containerd_with(&image);
    let options = containerd.folder().join("options.toml");
    std::fs::write(&options, r#"variants = ["metered"]"#).unwrap();
    let id = containerd
        .run(&image)
        .flags(["--runtime-config-path", options.to_str().unwrap()])
        .flags(annotation("engine=metered"))
        .flags(annotation("fuel=1000000"))
        .detach();
    containerd.await_status(&id, "STOPPED", LIMIT);
    let scrape = Scrape::new(&containerd, &id);
    let fuel = scrape.value("fuel_total");
    assert!((999_000.0..=1_000_000.0).contains(&fuel), "{fuel}");
    let trap = scrape.labelled("traps_total", r#"kind="out_of_fuel""#);
    assert_eq!(trap, Some(1.0));
}

#[test]
fn a_start_says_whether_it_compiled() {
    let unseen =
        crate::composition::unseen(std::fs::read(lighter_testkit::guest("hello")).unwrap());
    let image = Image::new("unseen")
        .file("/unseen.wasm", unseen, 0o755)
        .entrypoint(["/unseen.wasm"]);
    let containerd = containerd_with(&image);
    for (hits, misses) in [(0.0, 1.0), (1.0, 0.0)] {
        let id = containerd.run(&image).detach();
        containerd.await_status(&id, "STOPPED", LIMIT);
        let scrape = Scrape::new(&containerd, &id);
        assert_eq!(scrape.value("artifact_cache_hits_total"), hits);
        assert_eq!(scrape.value("artifact_cache_misses_total"), misses);
        let time = scrape.value("compile_seconds_total");
        assert_eq!(time > 0.0, misses > 0.0, "{time} s");
        assert!(time < 60.0, "{time} s");
    }
}

#[test]
fn requests_are_counted_by_status_and_time() {
    let service = Service::start("http-hello", &[]);
    assert_eq!(service.answer("/").1, 200);
    assert_eq!(service.answer("/none").1, 404);
    assert_eq!(service.answer("/trap").1, 500);
    let url = "http://127.0.0.1:8080/echo";
    let echo = ["--data-binary", "@-", url];
    service.network.curl(echo).stdin("x".repeat(300_000)).ok();
    // A client that does not wait for its answer. In HTTP/1.1 one that closes may still read.
    let impatient = [
        "--http2-prior-knowledge",
        "--max-time",
        "0.5",
        "http://127.0.0.1:8080/spin",
    ];
    service.network.curl(impatient).output();
    let scrape = || Scrape::new(&service.containerd, &service.id);
    let requests = |status: &str| {
        let label = format!(r#"status="{status}""#);
        scrape().labelled("http_requests_total", &label).unwrap()
    };
    eventually("the client that went is counted", || {
        requests("aborted") == 1.0
    });
    for (status, count) in [("2xx", 2.0), ("3xx", 0.0), ("4xx", 1.0), ("5xx", 1.0)] {
        assert_eq!(requests(status), count, "{status}");
    }
    let scrape = scrape();
    assert_eq!(scrape.value("http_request_duration_seconds_count"), 5.0);
    let below = |bound: &str| {
        let label = format!(r#"le="{bound}""#);
        scrape.labelled("http_request_duration_seconds_bucket", &label)
    };
    assert_eq!(below("+Inf"), Some(5.0));
    assert_eq!(below("10.0"), Some(5.0));
    assert_eq!(
        below("0.25"),
        Some(4.0),
        "all but the one that was given half a second"
    );
    let time = scrape.value("http_request_duration_seconds_sum");
    assert!((0.4..3.0).contains(&time), "{time} s");
    assert_eq!(scrape.value("http_request_body_bytes_total"), 300_000.0);
    let sent = scrape.value("http_response_body_bytes_total");
    assert!((300_000.0..301_000.0).contains(&sent), "{sent}");
    assert_eq!(scrape.value("http_requests_in_flight"), 0.0);
    assert_eq!(
        scrape.labelled("traps_total", r#"kind="unreachable""#),
        Some(1.0)
    );
    assert!(scrape.value("instances_total") >= 5.0);
}

#[test]
fn a_pod_has_the_names_of_kubernetes() {
    let cri = Cri::start(Version::V2);
    let image = Image::new("watched")
        .guest("/sleep.wasm", "sleep")
        .entrypoint(["/sleep.wasm"]);
    cri.import(&image);
    let reference = image.reference();
    let image = format!(r#"image="{reference}""#);
    let found = || {
        let text = Call::new(node_tool(), ["metrics"]).ok();
        let line =
            |line: &&str| line.starts_with("lighter_instances_total{") && line.contains(&image);
        text.lines().find(line).map(str::to_owned)
    };
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| cri.run(&reference, &["/sleep.wasm", "3"]));
        eventually("its counters are there", || found().is_some());
        let line = found().unwrap();
        for label in [
            r#"namespace="default""#,
            r#"runtime="wasmtime""#,
            r#"pod=""#,
            r#"container=""#,
        ] {
            assert!(line.contains(label), "{label} in {line}");
        }
        assert!(!line.contains("=\"\""), "an empty label in {line}");
        assert_eq!(ended.join().unwrap().code, 0);
    });
    // It ended and was removed with its pod.
    assert!(found().is_some());
}

#[test]
fn linux_containers_have_none() {
    let image = Image::busybox();
    let containerd = containerd_with(&image);
    let id = containerd
        .run(&image)
        .arguments(["/bin/sleep", "100"])
        .detach();
    assert!(Scrape::new(&containerd, &id).0.is_empty());
    containerd.remove(&id);
}

/// A socket for root alone, where an earlier process left one; or a port.
#[test]
fn they_are_served_where_that_is_asked_for() {
    let image = Image::wasm("sleep");
    let containerd = containerd_with(&image);
    let id = containerd
        .run(&image)
        .arguments(["/sleep.wasm", "100"])
        .detach();
    eventually("the guest runs", || {
        Scrape::new(&containerd, &id).value("instances_total") == 1.0
    });
    let socket = containerd.folder().join("metrics.sock");
    let unix = format!("unix:{}", socket.display());
    let socket = socket.to_str().unwrap();
    for _ in 0..2 {
        let mut server = Call::new(node_tool(), ["metrics", "--listen", &unix]).spawn();
        server.await_stdout("serves metrics at unix:", LIMIT);
        let curl = |options: &[&str]| {
            let flags = ["--silent", "--include", "--unix-socket", socket];
            Call::new("curl", flags.iter().chain(options)).ok()
        };
        let answer = curl(&["http://node/metrics"]);
        assert!(answer.contains("application/openmetrics-text"), "{answer}");
        let scrape = Scrape::of(&answer, &containerd, &id);
        assert_eq!(scrape.value("instances_total"), 1.0);
        assert!(curl(&["http://node/"]).contains("404 Not Found"));
        assert!(curl(&["-d", "x", "http://node/metrics"]).contains("405 Method"));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(socket).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        Call::new(node_tool(), ["metrics", "--listen", &unix])
            .output()
            .fails_with(&["cannot listen at unix:", "in use"]);
        server.signal(Signal::SIGTERM);
        server.wait(LIMIT);
    }
    let mut server = Call::new(node_tool(), ["metrics", "--listen", "127.0.0.1:0"]).spawn();
    server.await_stdout("/metrics", LIMIT);
    let said = server.stdout();
    let address = said.split([' ', ',']).nth(3).unwrap().to_owned();
    let text = Call::new("curl", ["--silent", &format!("http://{address}/metrics")]).ok();
    assert_eq!(
        Scrape::of(&text, &containerd, &id).value("instances_total"),
        1.0
    );
    server.signal(Signal::SIGTERM);
    server.wait(LIMIT);
}

/// A server at a port of its own, for who has the token of a file.
struct Protected {
    address: String,
    token: tempfile::NamedTempFile,
    server: lighter_testkit::Running,
}

const TOKEN: &str = "a-token-that-is-long-enough";

impl Protected {
    fn start() -> Self {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), format!("{TOKEN}\n")).unwrap();
        let file = token.path().to_str().unwrap();
        let words = ["metrics", "--listen", "127.0.0.1:0", "--token-file", file];
        let mut server = Call::new(node_tool(), words).spawn();
        server.await_stdout("/metrics", LIMIT);
        let said = server.stdout();
        Self {
            address: said.split([' ', ',']).nth(3).unwrap().to_owned(),
            token,
            server,
        }
    }

    /// Head and body of a response.
    fn get(&self, path: &str, header: &str) -> String {
        let url = format!("http://{}{path}", self.address);
        let arguments = ["--silent", "--include", "--header", header, &url];
        Call::new("curl", arguments).ok()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }
}

#[test]
fn nobody_reads_them_without_the_token() {
    let protected = Protected::start();
    let right = format!("Authorization: Bearer {TOKEN}");
    for header in [
        "X: y",
        "Authorization:",
        "Authorization: Bearer wrong-but-long-enough",
        &format!("Authorization: Basic {TOKEN}"),
        &format!("Authorization: Bearer {TOKEN}x"),
        &right[..right.len() - 1],
    ] {
        for path in ["/metrics", "/", "/healthz"] {
            let response = protected.get(path, header);
            assert!(
                response.starts_with("HTTP/1.1 401 "),
                "{header}: {response}"
            );
            assert!(response.contains("www-authenticate: Bearer"), "{response}");
            assert!(!response.contains("lighter_"), "{response}");
        }
    }
    let response = protected.get("/metrics", &right);
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("# EOF"), "{response}");
    assert!(protected.get("/", &right).contains("404 Not Found"));

    // A new token counts at once, as a mounted Secret brings it.
    std::fs::write(protected.token.path(), "another-token-for-the-next-year").unwrap();
    assert!(protected.get("/metrics", &right).contains(" 401 "));
    let new = "Authorization: Bearer another-token-for-the-next-year";
    assert!(protected.get("/metrics", new).contains(" 200 "));
    std::fs::write(protected.token.path(), "").unwrap();
    for header in [&*right, new, "Authorization: Bearer "] {
        assert!(protected.get("/metrics", header).contains(" 500 "));
    }
    assert!(
        !protected.server.stderr().contains(TOKEN),
        "a token is logged"
    );
}

#[test]
fn other_machines_are_served_with_a_token_only() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.7:9464"] {
        Call::new(node_tool(), ["metrics", "--listen", address])
            .output()
            .fails_with(&["cannot listen at", "--token-file"]);
    }
    let empty = tempfile::NamedTempFile::new().unwrap();
    let file = empty.path().to_str().unwrap();
    for (file, fault) in [
        (file, "there is no token"),
        ("/no/such/file", "cannot read"),
    ] {
        let words = ["metrics", "--listen", "0.0.0.0:0", "--token-file", file];
        let refused = Call::new(node_tool(), words).output();
        refused.fails_with(&[file, fault]);
    }
}

/// Clients that send nothing, a part of a head, or one without end.
#[test]
fn slow_clients_do_not_keep_out_others() {
    let protected = Protected::start();
    let pid = protected.server.pid();
    let connections: Vec<TcpStream> = (0..300)
        .map(|number| {
            let mut stream = protected.connect();
            let head: &[u8] = match number % 3 {
                0 => b"",
                1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-",
                _ => b"GET",
            };
            let _ = stream.write_all(head);
            stream
        })
        .collect();
    let right = format!("Authorization: Bearer {TOKEN}");
    for _ in 0..5 {
        let begin = Instant::now();
        assert!(protected.get("/metrics", &right).contains(" 200 "));
        let time = begin.elapsed();
        assert!(time < Duration::from_secs(4), "{time:?}");
    }
    let open = || {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    assert!(open() < 80, "{} descriptors", open());
    // All of them are ended, whether they say something or not.
    let begin = Instant::now();
    for mut stream in connections {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("lighter_"));
    }
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());

    // A head that never ends takes no memory.
    let mut stream = protected.connect();
    let line = [b"X: ".as_slice(), &[b'x'; 8000], b"\r\n"].concat();
    let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
    let sent = (0..10_000).take_while(|_| stream.write_all(&line).is_ok());
    let sent = sent.count() * line.len();
    assert!(sent < 20 << 20, "{sent} bytes of a head were taken");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    assert!(peak < 64 << 10, "{peak} kB");
    assert!(protected.get("/metrics", &right).contains(" 200 "));
}

#[test]
fn who_has_read_enough_is_no_failure() {
    let script = format!(
        "set -o pipefail; {} metrics | head -n 1",
        node_tool().display()
    );
    let text = Call::new("bash", ["-c", &script]).ok();
    assert!(text.starts_with("# HELP lighter_"), "{text}");
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let dashboard = std::fs::read_to_string(format!("{root}/deploy/grafana/lighter.json"));
    let dashboard = dashboard.unwrap();
    let metrics = Call::new(node_tool(), ["metrics"]).ok();
    let mut names: Vec<&str> = dashboard
        .split(|letter: char| !letter.is_ascii_lowercase() && letter != '_')
        .filter(|word| word.starts_with("lighter_"))
        .collect();
    names.dedup();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
        let kind = format!("# TYPE {family} ");
        assert!(metrics.contains(&kind), "no {name} in {metrics}");
    }
}
