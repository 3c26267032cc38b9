//! Clients of a service, and addresses that a guest must not reach.

mod http2;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lighter_testkit::shim::eventually;
use lighter_testkit::{Call, Containerd, Image, Network, Version};
use nix::sched::{CloneFlags, setns};

use self::http2::Http2;

/// How long a client waits for anything.
const LIMIT: Duration = Duration::from_secs(20);

/// A service in a container of its own, attacked from inside of its network.
struct Service {
    containerd: Containerd,
    network: Network,
    id: String,
    log: std::path::PathBuf,
    pid: i32,
}

impl Service {
    fn start(mebibytes: u64, options: &[&str]) -> Self {
        let image = Image::wasm("http-hello");
        let containerd = Containerd::start(Version::V2);
        containerd.import(&image);
        let network = Network::new();
        let id = containerd.next_id();
        let log = containerd.folder().join(format!("{id}.log"));
        let annotations: Vec<String> = options
            .iter()
            .flat_map(|option| ["--annotation".to_owned(), format!("lighter.dev/{option}")])
            .collect();
        containerd
            .run(&image)
            .id(&id)
            .flags(network.flags())
            .flags(["--log-uri", &format!("file://{}", log.display())])
            .flags(["--memory-limit", &(mebibytes << 20).to_string()])
            .flags(&annotations)
            .detach();
        let mut service = Self {
            containerd,
            network,
            id,
            log,
            pid: 0,
        };
        eventually("the service listens", || {
            service.log().contains("serves HTTP at")
        });
        service.pid = service.init();
        service
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn init(&self) -> i32 {
        let list = self.containerd.ctr(["tasks", "list"]).ok();
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&self.id));
        line.and_then(|line| {
            let mut fields = line.split_whitespace();
            let pid = fields.nth(1)?.parse().ok()?;
            (fields.next()? == "RUNNING").then_some(pid)
        })
        .unwrap_or_else(|| panic!("the service has ended: {list}\n{}", self.log()))
    }

    /// Runs a client in the network of the service.
    fn attack<T: Send>(&self, client: impl FnOnce() -> T + Send) -> T {
        let network = File::open(self.network.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(network, CloneFlags::CLONE_NEWNET).unwrap();
                client()
            });
            thread.join().unwrap()
        })
    }

    /// A request of another client, from another address.
    fn get_as_another(&self) -> Call {
        self.network.curl([
            "--interface",
            "127.0.0.2",
            "--http1.1",
            "http://127.0.0.1:8080/",
        ])
    }

    /// The service has not been killed and started again, and others are served.
    #[track_caller]
    fn survives(&self, what: &str) {
        for _ in 0..5 {
            let response = self.get_as_another().output();
            assert_eq!(
                response.stdout,
                "Hello from Wasm\n",
                "{what}: {}\n{}",
                response.stderr,
                self.log()
            );
        }
        assert_eq!(self.init(), self.pid, "{what}");
    }
}

/// A connection from 127.0.0.1; `None` if it is refused.
fn connect() -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let stream = TcpStream::connect_timeout(&address, LIMIT).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The service may read nothing more.
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    Some(stream)
}

/// What a service sends until it closes the connection, or says nothing for some time.
fn read_all(stream: &mut TcpStream, limit: Duration) -> String {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut part) {
        bytes.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The service ended by a kill for want of memory after some hundred of these.
#[test]
fn heads_that_never_end_take_no_memory_from_others() {
    let service = Service::start(48, &[]);
    let mut head = b"GET / HTTP/1.1\r\nhost: a\r\nx-long: ".to_vec();
    head.resize(60_000, b'a');
    let (opened, _open) = service.attack(|| {
        let mut open = Vec::new();
        for _ in 0..1200 {
            let Some(mut stream) = connect() else {
                continue;
            };
            let _ = stream.write_all(&head);
            open.push(stream);
        }
        (open.len(), open)
    });
    assert!(opened > 600, "the attack itself does not work: {opened}");
    service.survives("unfinished heads");
}

/// Each connection is allowed a window, so that many of them were allowed more than there is.
#[test]
fn bodies_that_nobody_reads_take_no_memory_from_others() {
    let service = Service::start(128, &[]);
    let _open = service.attack(|| {
        let mut open = Vec::new();
        for _ in 0..200 {
            let Some(mut client) = connect().and_then(Http2::new) else {
                continue;
            };
            // All of its windows, and not a byte more.
            for number in 0..16 {
                // They sleep and read nothing; most of them wait for a turn.
                client.request(number, "POST", "/sleep?3000", false);
                for _ in 0..4 {
                    client.data(number, &[0; 16_000]);
                }
            }
            open.push(client);
        }
        open
    });
    service.survives("unread bodies");
}

/// A small frame that is kept keeps the buffer that it arrived in, with all that came after it and
/// meant nothing.
#[test]
fn frames_that_mean_nothing_take_no_memory_from_others() {
    let service = Service::start(48, &[]);
    let _open = service.attack(|| {
        let mut open = Vec::new();
        for _ in 0..40 {
            let Some(mut client) = connect().and_then(Http2::new) else {
                continue;
            };
            for number in 0..20 {
                client.request(number, "POST", "/sleep?3000", false);
            }
            for frame in 0..300 {
                client.data(frame % 20, &[0; 170]);
                client.frame(0xfa, 0, 0, &[0; 8000]);
            }
            open.push(client);
        }
        open
    });
    service.survives("frames of an unknown type");
}

/// One byte on the wire stands for a header of four kilobytes (HPACK bomb).
#[test]
fn compressed_heads_take_no_memory_from_others() {
    let service = Service::start(48, &[]);
    let _open = service.attack(|| {
        let mut open = Vec::new();
        for _ in 0..100 {
            let Some(mut client) = connect().and_then(Http2::new) else {
                continue;
            };
            for number in 0..100 {
                client.bomb(number, "/sleep?3000");
            }
            open.push(client);
        }
        open
    });
    service.survives("compressed heads");
}

/// CVE-2023-44487.
#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    let service = Service::start(64, &[]);
    let received = service.attack(|| {
        let mut client = connect().and_then(Http2::new).unwrap();
        for number in 0..20_000 {
            client.request(number, "GET", "/sleep?1000", true);
            client.reset(number);
            if client.has_failed() {
                break;
            }
        }
        client.frames_until_closed()
    });
    // GOAWAY with ENHANCE_YOUR_CALM.
    assert!(
        received
            .iter()
            .any(|(kind, payload)| *kind == 7 && payload[7] == 0xb),
        "{received:?}"
    );
    service.survives("rapid reset");
}

/// CVE-2024-27316.
#[test]
fn a_head_of_endless_continuations_ends_the_connection() {
    let service = Service::start(48, &[]);
    let sent = service.attack(|| {
        let mut client = connect().and_then(Http2::new).unwrap();
        client.unfinished_request(1);
        let mut sent = 0;
        while !client.has_failed() && sent < 256 << 20 {
            client.frame(9, 0, 1, &[0; 16_000]);
            sent += 16_000;
        }
        sent
    });
    // What the kernel has taken meanwhile counts, too.
    assert!(sent < 32 << 20, "{sent} bytes were taken");
    service.survives("continuations");
}

#[test]
fn slow_heads_are_given_up_and_keep_nobody_waiting() {
    let service = Service::start(64, &["http-header-seconds=2"]);
    let began = Instant::now();
    service.attack(|| {
        let mut open: Vec<TcpStream> = (0..400).filter_map(|_| connect()).collect();
        while began.elapsed() < Duration::from_secs(4) {
            for stream in &mut open {
                let _ = stream.write_all(b"G");
            }
            let asked = Instant::now();
            service.get_as_another().ok();
            assert!(asked.elapsed() < Duration::from_secs(5), "it had to wait");
            std::thread::sleep(Duration::from_millis(200));
        }
        for stream in &mut open {
            let text = read_all(stream, Duration::from_secs(4));
            assert!(!text.contains(" 200 "), "{text}");
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    service.survives("slow heads");
}

/// What they asked for goes on without them. Others were told that there can be no instance more.
#[test]
fn clients_that_go_at_once_leave_instances_to_others() {
    let service = Service::start(256, &[]);
    service.attack(|| {
        for _ in 0..400 {
            let Some(mut stream) = connect() else {
                continue;
            };
            let _ = stream.write_all(b"GET /sleep?3000 HTTP/1.1\r\nhost: a\r\n\r\n");
            // The request has begun.
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    service.survives("clients that have gone");
}

/// One address has at most a part of the connections, and of those the one that is idle longest makes room.
#[test]
fn idle_connections_of_one_client_leave_room_for_others() {
    let service = Service::start(64, &["http-concurrency=1"]);
    let _open = service.attack(|| {
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut open = Vec::new();
        for _ in 0..100 {
            let Some(mut stream) = connect() else {
                continue;
            };
            let _ = stream.write_all(request);
            open.push(stream);
        }
        open
    });
    let asked = Instant::now();
    service.survives("idle connections");
    // Before those would have been closed for their idleness.
    assert!(asked.elapsed() < Duration::from_secs(8), "it had to wait");
    // Its own newest connections are served, too.
    std::thread::sleep(Duration::from_millis(1500));
    service.network.curl(["http://127.0.0.1:8080/"]).ok();
}

/// What one peer takes for a body and another for a request.
#[test]
fn requests_with_two_readings_are_refused_or_end_the_connection() {
    let service = Service::start(64, &[]);
    const SMUGGLED: &str = "GET /print?smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for (what, headers, body) in [
        (
            "both lengths",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "both lengths, the other way round",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
            "0\r\n\r\n",
        ),
        (
            "two lengths",
            "content-length: 0\r\ncontent-length: 40\r\n",
            "",
        ),
        ("a list of lengths", "content-length: 0, 40\r\n", ""),
        ("a length with a sign", "content-length: +0\r\n", ""),
        ("a length that is no number", "content-length: 0x0\r\n", ""),
        (
            "a length that is too large",
            "content-length: 18446744073709551616\r\n",
            "",
        ),
        (
            "a folded header",
            "x-folded: a\r\n content-length: 40\r\n",
            "",
        ),
        ("a space before the colon", "content-length : 0\r\n", ""),
        ("a bare CR", "x-bare: a\rcontent-length: 40\r\n", ""),
        ("a NUL", "x-nul: a\0b\r\n", ""),
        (
            "chunked is not last",
            "transfer-encoding: chunked, identity\r\n",
            "0\r\n\r\n",
        ),
        (
            "another encoding",
            "transfer-encoding: xchunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "a chunk with a prefix",
            "transfer-encoding: chunked\r\n",
            "0x0\r\n\r\n",
        ),
        (
            "a chunk with a sign",
            "transfer-encoding: chunked\r\n",
            "+0\r\n\r\n",
        ),
        (
            "a chunk that ends otherwise",
            "transfer-encoding: chunked\r\n",
            "1\r\naX\r\n0\r\n\r\n",
        ),
        (
            "a chunk that is too large",
            "transfer-encoding: chunked\r\n",
            "10000000000000000\r\n",
        ),
    ] {
        let received = service.attack(|| {
            let mut stream = connect().unwrap();
            let request =
                format!("POST /echo HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}{SMUGGLED}");
            stream.write_all(request.as_bytes()).unwrap();
            read_all(&mut stream, Duration::from_secs(5))
        });
        let responses = received.matches("HTTP/1.1 ").count();
        assert!(responses <= 1, "{what}: {received}");
        assert!(!service.log().contains("smuggled"), "{what}: {received}");
    }
    // The version before has no chunks.
    let received = service.attack(|| {
        let mut stream = connect().unwrap();
        let request = format!(
            "POST /echo HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        read_all(&mut stream, Duration::from_secs(5))
    });
    assert!(!service.log().contains("smuggled"), "{received}");
    service.survives("smuggling");
    // The requests themselves would have been seen.
    service.attack(|| {
        let mut stream = connect().unwrap();
        stream.write_all(SMUGGLED.as_bytes()).unwrap();
        let received = read_all(&mut stream, Duration::from_secs(2));
        assert!(received.contains(" 200 "), "{received}");
    });
    assert!(
        service.log().contains("smuggled"),
        "the attack itself does not work"
    );
}

#[test]
fn heads_have_a_number_of_headers_and_a_length() {
    let service = Service::start(64, &[]);
    for (number, length, expected) in [
        (20, 100, " 200 "),
        (5000, 1, " 431 "),
        (1, 300_000, " 431 "),
    ] {
        let received = service.attack(|| {
            let mut stream = connect().unwrap();
            let value = "v".repeat(length);
            let headers: String = (0..number)
                .map(|number| format!("x-{number}: {value}\r\n"))
                .collect();
            let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
            let _ = stream.write_all(request.as_bytes());
            read_all(&mut stream, Duration::from_secs(2))
        });
        assert!(
            received.contains(expected),
            "{number} of {length}: {received}"
        );
    }
    service.survives("large heads");
}
