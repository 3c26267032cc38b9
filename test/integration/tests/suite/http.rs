//! Services: HTTP in, whatever the guest and the client do.

use std::time::{Duration, Instant};

use lighter_testkit::{Call, Containerd, Image, Network, Process};
use nix::errno::Errno;

use crate::limits::computed;
use crate::{containerd_with, init};
use lighter_testkit::shim::eventually;

const LIMIT: Duration = Duration::from_secs(30);

/// A service that runs in a network of its own.
pub(crate) struct Service {
    pub(crate) containerd: Containerd,
    pub(crate) network: Network,
    pub(crate) id: String,
    log: std::path::PathBuf,
}

impl Service {
    pub(crate) fn start(guest: &str, flags: &[&str]) -> Self {
        let containerd = containerd_with(&Image::wasm(guest));
        let network = Network::new();
        let (id, log) = start(&containerd, &network, guest, flags);
        let service = Self {
            containerd,
            network,
            id,
            log,
        };
        eventually("the service listens", || {
            service.log().contains("serves HTTP at")
        });
        service
    }

    /// A call of curl for a path at port 8080, with the status in a last line of its own.
    pub(crate) fn get(&self, path: &str) -> Call {
        self.network.curl([
            "--write-out",
            "\n%{http_code}",
            &format!("http://127.0.0.1:8080{path}"),
        ])
    }

    /// Body and status of an answer.
    #[track_caller]
    pub(crate) fn answer(&self, path: &str) -> (String, u16) {
        split(&self.get(path).ok())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

pub(crate) fn start(
    containerd: &Containerd,
    network: &Network,
    guest: &str,
    flags: &[&str],
) -> (String, std::path::PathBuf) {
    let id = containerd.next_id();
    let log = containerd.folder().join(format!("{id}.log"));
    let uri = format!("file://{}", log.display());
    let id = containerd
        .run(&Image::wasm(guest))
        .id(&id)
        .flags(network.flags())
        .flags(["--log-uri", &uri])
        .flags(flags)
        .detach();
    (id, log)
}

pub(crate) fn split(answer: &str) -> (String, u16) {
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (body.to_owned(), status.parse().unwrap())
}

pub(crate) fn annotation(option: &str) -> [String; 2] {
    ["--annotation".to_owned(), format!("lighter.dev/{option}")]
}

#[test]
fn a_component_is_served_over_both_versions_of_http_and_ip() {
    let service = Service::start("http-hello", &["--env", "GREETING=hi there"]);
    assert_eq!(service.answer("/"), ("Hello from Wasm\n".to_owned(), 200));
    for address in ["http://[::1]:8080/", "http://127.0.0.1:8080/"] {
        for version in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
            let answer = service.network.curl([version, address]).ok();
            assert_eq!(answer, "Hello from Wasm\n", "{address} {version}");
        }
    }
    assert_eq!(service.answer("/env?GREETING").0, "hi there");
    let header = ["-H", "x-test: seen", "http://127.0.0.1:8080/header?x-test"];
    assert!(service.network.curl(header).ok().contains("seen"));
    let body = "x".repeat(300_000);
    let echoed = service
        .network
        .curl(["--data-binary", "@-", "http://127.0.0.1:8080/echo"])
        .stdin(body.clone())
        .ok();
    assert_eq!(echoed.len(), body.len());
    let big = service
        .network
        .curl(["http://127.0.0.1:8080/big?3"])
        .output();
    assert_eq!(big.stdout_bytes.len(), 3 << 20);
}

/// What a guest prints is the container's output, and what it does to itself is its own affair.
#[test]
fn a_request_that_traps_takes_nobody_down() {
    let service = Service::start("http-hello", &[]);
    assert_eq!(service.answer("/print?words").1, 200);
    for _ in 0..3 {
        assert_eq!(service.answer("/trap").1, 500);
    }
    assert_eq!(service.answer("/").1, 200);
    let log = service.log();
    for text in [
        "out: words\n",
        "err: words\n",
        "trapped: ",
        "wasm backtrace:",
    ] {
        assert!(log.contains(text), "no {text:?} in {log}");
    }
}

#[test]
fn a_request_that_fills_its_stack_takes_nobody_down() {
    let service = Service::start("http-hello", &[]);
    assert_eq!(service.answer("/overflow").1, 500);
    assert_eq!(service.answer("/").1, 200);
    let log = service.log();
    for text in [
        "trapped: ",
        "call stack exhausted",
        "wasm backtrace:",
        "endless_recursion",
    ] {
        assert!(log.contains(text), "no {text:?} in {log}");
    }
}

/// The time limit of a request holds for a loop, for a call that waits, and for a body that
/// does not come; others are served meanwhile.
#[test]
fn time_limits_hold_whatever_a_request_does() {
    let seconds = annotation("http-request-seconds=2");
    let service = Service::start("http-hello", &[&seconds[0], &seconds[1]]);
    let began = Instant::now();
    let late: Vec<_> = ["/spin", "/sleep?60000", "/spin", "/echo"]
        .into_iter()
        .map(|path| {
            let mut call = service.get(path);
            if path == "/echo" {
                // It promises a body and sends none.
                call = service.network.call(
                    "bash",
                    ["-c", "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'POST /echo HTTP/1.1\\r\\nhost: a\\r\\ncontent-length: 9\\r\\n\\r\\n' >&3; head -n1 <&3"],
                );
            }
            call.spawn()
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(service.answer("/").1, 200);
    assert!(
        began.elapsed() < Duration::from_millis(1900),
        "{:?}",
        began.elapsed()
    );
    let answers: Vec<String> = late
        .into_iter()
        .map(|call| call.wait(LIMIT).stdout)
        .collect();
    for answer in &answers[..3] {
        assert_eq!(split(answer).1, 504, "{answers:?}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(service.answer("/").1, 200);
    // Nothing of them is left that computes.
    let pid = init(&service.containerd, &service.id);
    eventually("it stands still", || {
        let before = computed(pid);
        std::thread::sleep(Duration::from_millis(300));
        computed(pid) == before
    });
}

#[test]
fn bodies_heads_and_requests_at_a_time_are_bounded() {
    let body = annotation("http-body-bytes=1000");
    let many = annotation("http-concurrency=2");
    let head = annotation("http-header-seconds=1");
    let seconds = annotation("http-request-seconds=3");
    let flags: Vec<&str> = [&body, &many, &head, &seconds]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let service = Service::start("http-hello", &flags);
    let post = |bytes: usize, chunked: bool| {
        let header = if chunked {
            "transfer-encoding: chunked"
        } else {
            "x-none: 1"
        };
        let answer = service
            .network
            .curl([
                "--data-binary",
                "@-",
                "-H",
                header,
                "-o",
                "/dev/null",
                "--write-out",
                "\n%{http_code}",
                "http://127.0.0.1:8080/echo",
            ])
            .stdin("y".repeat(bytes));
        let answer = answer.output();
        (answer.status.success(), split(&answer.stdout).1)
    };
    assert_eq!(post(1000, false), (true, 200));
    assert_eq!(post(1001, false), (true, 413));
    assert_eq!(post(1000, true), (true, 200));
    // Its length is not known at first: when the guest has begun to answer, the answer breaks off.
    let (whole, status) = post(1001, true);
    assert!(status == 413 || !whole, "{status}");
    // Two that sleep leave no place for a third.
    let first = service.get("/sleep?2500").spawn();
    let second = service.get("/sleep?2500").spawn();
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    assert_eq!(service.answer("/").1, 200);
    assert!(
        began.elapsed() > Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
    for call in [first, second] {
        assert_eq!(split(&call.wait(LIMIT).stdout).1, 200);
    }
    // A client that says nothing, or never ends its head, is sent away.
    for start in ["", "PR", "GET / HTTP/1.1\\r\\nhost:"] {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/8080; printf '{start}' >&3; timeout 5 cat <&3; echo $?"
        );
        let ended = service.network.call("bash", ["-c", &script]).ok();
        // 124 says that it was still connected after five seconds.
        assert!(!ended.ends_with("124\n"), "{start:?}: {ended:?}");
    }
}

#[test]
fn reuse_is_asked_for_and_keeps_the_instance() {
    let service = Service::start("http-hello", &[]);
    let counts = |service: &Service| -> Vec<String> {
        (0..4)
            .map(|_| service.answer("/count").0.trim().to_owned())
            .collect()
    };
    assert_eq!(counts(&service), ["1", "1", "1", "1"]);
    let reuse = annotation("http-reuse=3");
    let service = Service::start("http-hello", &[&reuse[0], &reuse[1]]);
    // A request that comes while the instance is between two is given another one.
    eventually("an instance is used three times", || {
        let counts = counts(&service);
        assert!(
            counts
                .iter()
                .all(|count| ["1", "2", "3"].contains(&count.as_str()))
        );
        counts.iter().any(|count| count == "3")
    });
}

/// What an instance wrote is gone before the next, whoever the container's user is: pages are
/// cleaned by the map of the process that serves, which it opens after it has become that user.
#[test]
fn an_instance_finds_nothing_of_the_last_one() {
    for user in ["0:0", "1000:1000"] {
        let service = Service::start("http-hello", &["--user", user]);
        for _ in 0..20 {
            assert_eq!(service.answer("/count").0.trim(), "1", "{user}");
        }
        let pid = init(&service.containerd, &service.id);
        let maps: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.ends_with("pagemap"))
            .collect();
        let own = std::path::PathBuf::from(format!("/proc/{pid}/pagemap"));
        assert!(maps.iter().all(|map| *map == own), "{user}: {maps:?}");
    }
}

#[test]
fn the_port_comes_from_the_environment_and_a_taken_one_is_explained() {
    let service = Service::start("http-hello", &["--env", "PORT=8080"]);
    let (id, log) = start(&service.containerd, &service.network, "http-hello", &[]);
    service.containerd.await_status(&id, "STOPPED", LIMIT);
    let text = std::fs::read_to_string(log).unwrap();
    for part in ["[::]:8080", "PORT", "lighter.dev/http-address.CONTAINER"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let option = annotation("http-address=127.0.0.1:9000");
    for flags in [
        vec!["--env", "PORT=9001"],
        vec!["--env", "WASMTIME_HTTP_PROXY_SOCKET_ADDR=127.0.0.1:9002"],
        vec![option[0].as_str(), option[1].as_str(), "--env", "PORT=9003"],
    ] {
        start(&service.containerd, &service.network, "http-hello", &flags);
    }
    for port in [9000, 9001, 9002] {
        let address = format!("http://127.0.0.1:{port}/");
        eventually("it answers", || {
            service.network.curl([&address]).output().stdout == "Hello from Wasm\n"
        });
    }
}

/// A kernel without IPv6 knows no such sockets. Another kernel cannot be had here, so a profile
/// refuses them with the same error.
#[test]
fn a_service_listens_for_ipv4_where_there_is_no_ipv6() {
    const AF_INET6: u32 = 10;
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("seccomp.json");
    let no_ipv6 = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["socket"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": Errno::EAFNOSUPPORT as i32,
            "args": [{ "index": 0, "value": AF_INET6, "op": "SCMP_CMP_EQ" }],
        }],
    });
    std::fs::write(&profile, no_ipv6.to_string()).unwrap();
    let flags = ["--seccomp", "--seccomp-profile", profile.to_str().unwrap()];
    let service = Service::start("http-hello", &flags);
    let log = service.log();
    assert!(log.contains("serves HTTP at 0.0.0.0:8080"), "{log}");
    assert_eq!(service.answer("/"), ("Hello from Wasm\n".to_owned(), 200));
    let over_ipv6 = service.network.curl(["http://[::1]:8080/"]).output();
    assert_eq!(over_ipv6.code(), 7, "curl: could not connect");
}

/// Growth fails where the cgroup would kill, also for many requests at once.
/// An interpreter writes to pages everywhere in its memory: they are kept, and cleaned.
#[test]
fn an_interpreters_instance_finds_its_pages_and_nothing_in_them() {
    let service = Service::start("http-python", &[]);
    let pid = init(&service.containerd, &service.id);
    let count = |requests: u32| {
        let url = format!("http://127.0.0.1:8080/count?[1-{requests}]");
        let answers = service.network.curl([url.as_str()]).ok();
        assert_eq!(answers, "1\n".repeat(requests as usize));
    };
    // Pages that the process has taken from the system (minflt, proc_pid_stat(5)).
    let taken = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.split_whitespace().nth(7).unwrap().parse().unwrap()
    };
    count(200);
    let before = taken();
    count(200);
    let for_each = (taken() - before) / 200;
    // 140 without that. Linux before 6.7 does not tell what was written to.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(7)) {
        assert!(for_each < 50, "{for_each} pages for each request");
    }
}

#[test]
fn memory_ends_in_an_error_and_not_in_a_kill() {
    let limit = (96 << 20).to_string();
    let service = Service::start("http-hello", &["--memory-limit", &limit]);
    let pid = init(&service.containerd, &service.id);
    let calls: Vec<_> = (0..32).map(|_| service.get("/grow?16").spawn()).collect();
    let statuses: Vec<u16> = calls
        .into_iter()
        .map(|call| split(&call.wait(Duration::from_secs(60)).stdout).1)
        .collect();
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        statuses
            .iter()
            .all(|status| [200, 500, 503].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(service.answer("/").1, 200);
    assert_eq!(init(&service.containerd, &service.id), pid);
    assert_eq!(service.answer("/grow?200").1, 500);
}

/// A process of a guest has few threads, and one that waits does not wake.
#[test]
fn a_waiting_service_costs_nothing() {
    let service = Service::start("http-hello", &[]);
    assert_eq!(service.answer("/").1, 200);
    let pid = init(&service.containerd, &service.id);
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .count();
    assert!(threads <= 3, "{threads} threads");
    let switches = || -> u64 {
        std::fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .flatten()
            .map(|task| {
                let status = std::fs::read_to_string(task.path().join("status")).unwrap();
                status
                    .lines()
                    .filter_map(|line| line.split_once("ctxt_switches:"))
                    .map(|(_, count)| count.trim().parse::<u64>().unwrap())
                    .sum::<u64>()
            })
            .sum()
    };
    eventually("it stands still", || {
        let before = switches();
        std::thread::sleep(Duration::from_millis(1000));
        switches() == before
    });
    assert!(Process::read(pid).is_some());
}
