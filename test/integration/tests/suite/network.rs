//! What guests reach: requests of their own, sockets, names.

use std::fs;
use std::time::Duration;

use lighter_testkit::{Call, Containerd, Image, Network, Output, guest};

use crate::containerd_with;
use lighter_testkit::shim::eventually;

const LIMIT: Duration = Duration::from_secs(30);

/// A guest of this name, with names that it can look up.
fn image(name: &str) -> Image {
    Image::wasm(name).file(
        "/etc/hosts",
        "127.0.0.1 localhost here.test\n169.254.169.254 metadata.test\n::1 six.test\n",
        0o644,
    )
}

struct Node {
    containerd: Containerd,
    network: Network,
}

impl Node {
    fn with(name: &str) -> Self {
        Self {
            containerd: containerd_with(&image(name)),
            network: Network::new(),
        }
    }

    fn run(&self, name: &str, flags: &[&str], arguments: &[&str]) -> Output {
        let program = format!("/{name}.wasm");
        self.containerd
            .run(&image(name))
            .flags(self.network.flags())
            .flags(flags)
            .arguments([program.as_str()].iter().chain(arguments))
            .output()
    }

    /// The service `http-hello` at a port of this network.
    fn serve(&self, port: u16) -> String {
        self.serve_with(port, &[])
    }

    fn serve_with(&self, port: u16, flags: &[&str]) -> String {
        let image = image("http-hello");
        self.containerd.import(&image);
        let id = self
            .containerd
            .run(&image)
            .flags(self.network.flags())
            .flags(["--env", &format!("PORT={port}")])
            .flags(flags)
            .detach();
        let address = format!("http://127.0.0.1:{port}/");
        eventually("the service answers", || {
            self.network.curl([&address]).output().status.success()
        });
        id
    }
}

#[test]
fn a_command_and_a_service_send_requests() {
    let node = Node::with("fetch");
    node.serve(9000);
    let fetched = node.run("fetch", &[], &["http://here.test:9000/"]);
    assert_eq!(fetched.ok(), "200\nHello from Wasm\n");
    let refused = node.run("fetch", &[], &["http://127.0.0.1:9999/"]);
    refused.fails_with(&["connection-refused"]);
    let unknown = node.run("fetch", &[], &["http://nowhere.test/"]);
    unknown.fails_with(&["DNS-error"]);
    // One service asks another, over one connection that it keeps.
    node.serve(9001);
    for _ in 0..3 {
        let url = "http://127.0.0.1:9001/fetch?http://here.test:9000/";
        let answer = node.network.curl([url]).ok();
        assert!(answer.contains("Hello from Wasm"), "{answer}");
    }
    let connections = node
        .network
        .call(
            "ss",
            ["-Htn", "state", "established", "dport", "=", ":9000"],
        )
        .ok();
    assert_eq!(connections.lines().count(), 1, "{connections}");
}

#[test]
fn requests_go_only_where_they_may() {
    let node = Node::with("fetch");
    node.serve(9000);
    let url = "http://here.test:9000/";
    let list = |hosts: &str| format!("lighter.dev/hosts={hosts}");
    let allowed = node.run("fetch", &["--annotation", &list("here.test:9000")], &[url]);
    allowed.exits(0);
    for hosts in ["other.test", "here.test:80", ""] {
        let denied = node.run("fetch", &["--annotation", &list(hosts)], &[url]);
        denied.fails_with(&["HTTP-request-denied"]);
    }
    for url in ["http://169.254.169.254/", "http://metadata.test/"] {
        let denied = node.run("fetch", &[], &[url]);
        denied.fails_with(&["destination-IP-prohibited"]);
    }
}

/// A private authority, and the certificate that it has signed for `here.test`.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let authority = Self(tempfile::tempdir().unwrap());
        let path = |name: &str| authority.path(name);
        let openssl = |arguments: &[&str]| Call::new("openssl", arguments).output().exits(0).code();
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=private authority",
            "-keyout",
            &path("ca.key"),
            "-out",
            &path("ca.pem"),
        ]);
        openssl(&[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=here.test",
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("request.pem"),
        ]);
        fs::write(path("names"), "subjectAltName=DNS:here.test").unwrap();
        openssl(&[
            "x509",
            "-req",
            "-in",
            &path("request.pem"),
            "-CA",
            &path("ca.pem"),
            "-CAkey",
            &path("ca.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &path("names"),
            "-out",
            &path("cert.pem"),
        ]);
        authority
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// The value of a flag `--mount` that puts the authority's own certificate there.
    fn mount(&self, target: &str) -> String {
        let source = self.path("ca.pem");
        format!("type=bind,src={source},dst={target},options=rbind:ro")
    }
}

#[test]
fn private_authorities_are_trusted_when_they_are_named_or_brought() {
    let authority = Authority::new();
    let node = Node::with("fetch");
    let mut server = node
        .network
        .call(
            "openssl",
            [
                "s_server",
                "-www",
                "-accept",
                "9443",
                "-key",
                &authority.path("key.pem"),
                "-cert",
                &authority.path("cert.pem"),
            ],
        )
        .spawn();
    server.await_stdout("ACCEPT", LIMIT);
    let url = "https://here.test:9443/";
    let strange = node.run("fetch", &[], &[url]);
    strange.fails_with(&["TLS-certificate-error"]);
    let named = node.run(
        "fetch",
        &[
            "--mount",
            &authority.mount("/ca.pem"),
            "--env",
            "SSL_CERT_FILE=/ca.pem",
        ],
        &[url],
    );
    assert!(named.ok().starts_with("200\n"));
    let brought = node.run(
        "fetch",
        &[
            "--mount",
            &authority.mount("/etc/ssl/certs/ca-certificates.crt"),
        ],
        &[url],
    );
    assert!(brought.ok().starts_with("200\n"));
    let missing = node.run("fetch", &["--env", "SSL_CERT_FILE=/none.pem"], &[url]);
    missing.fails_with(&["SSL_CERT_FILE=/none.pem", "configuration-error"]);
}

/// The server ends connections of clients that do not offer HTTP/2.
#[test]
fn requests_go_over_http_2_where_the_server_speaks_it() {
    let authority = Authority::new();
    let node = Node::with("fetch");
    fs::write(authority.path("text"), "over HTTP/2").unwrap();
    let folder = authority.path("");
    let (key, certificate) = (authority.path("key.pem"), authority.path("cert.pem"));
    let mut server = node
        .network
        .call(
            "nghttpd",
            ["--verbose", "--htdocs", &folder, "9443", &key, &certificate],
        )
        .spawn();
    server.await_stdout("listen", LIMIT);
    let url = "https://here.test:9443/text";
    let trusted = authority.mount("/ca.pem");
    let flags = ["--mount", &trusted, "--env", "SSL_CERT_FILE=/ca.pem"];
    let fetched = node.run("fetch", &flags, &[url]);
    assert_eq!(fetched.ok(), "200\nover HTTP/2");
    node.serve_with(9000, &flags);
    let before = server.stdout();
    let service = format!("http://127.0.0.1:9000/fetch?{url}");
    let calls: Vec<_> = (0..3).map(|_| node.network.curl([&service]).ok()).collect();
    assert_eq!(calls, ["200\nover HTTP/2"; 3]);
    // The streams of a client have odd numbers, and are all of one connection.
    let said = server.stdout()[before.len()..].to_owned();
    let streams: Vec<&str> = said
        .lines()
        .filter_map(|line| {
            line.split_once("recv (stream_id=")?
                .1
                .strip_suffix(") :method: GET")
        })
        .collect();
    assert_eq!(streams, ["1", "3", "5"], "{said}");
}

#[test]
fn sockets_work_in_the_containers_network() {
    let node = Node::with("sockets");
    for (server, client, host) in [
        ("tcp-server", "tcp-client", "here.test"),
        ("tcp-server", "tcp-client", "six.test"),
        ("udp-server", "udp-client", "here.test"),
    ] {
        let mut serving = node
            .containerd
            .run(&image("sockets"))
            .flags(node.network.flags())
            .arguments(["/sockets.wasm", server, "7000"])
            .spawn();
        serving.await_stdout("listening", LIMIT);
        let echoed = node.run("sockets", &[], &[client, host, "7000", "some text"]);
        assert_eq!(echoed.ok().trim(), "some text", "{client} {host}");
        serving.wait(LIMIT).exits(0);
    }
    let resolved = node.run("sockets", &[], &["resolve", "six.test"]).ok();
    assert_eq!(resolved, "::1\n");
}

#[test]
fn sockets_and_names_can_be_taken_away() {
    let node = Node::with("sockets");
    for (option, arguments) in [
        ("tcp", &["tcp-client", "127.0.0.1", "7000", "x"][..]),
        ("tcp", &["tcp-server", "7000"]),
        ("udp", &["udp-client", "127.0.0.1", "7000", "x"]),
        ("udp", &["udp-server", "7000"]),
        ("names", &["resolve", "here.test"]),
    ] {
        let annotation = format!("lighter.dev/{option}=false");
        let denied = node.run("sockets", &["--annotation", &annotation], arguments);
        assert_ne!(denied.code(), 0, "{option} {arguments:?}");
        assert!(
            denied.stderr.contains("denied")
                || denied.stderr.contains("permanent-resolver-failure"),
            "{option} {arguments:?}: {}",
            denied.stderr
        );
    }
    let metadata = node.run("sockets", &[], &["tcp-client", "metadata.test", "80", "x"]);
    metadata.fails_with(&["access-denied"]);
}

/// A static binary's getaddrinfo loads what nsswitch.conf names, unless it is told not to.
#[test]
fn names_are_looked_up_without_code_of_the_image() {
    let evil = fs::read(guest("libnss_evil.so.2")).unwrap();
    let image = image("sockets")
        .file(
            "/etc/nsswitch.conf",
            fs::read(guest("nsswitch.conf")).unwrap(),
            0o644,
        )
        .file(
            "/lib/x86_64-linux-gnu/libnss_evil.so.2",
            evil.clone(),
            0o755,
        )
        .file(
            "/lib/x86_64-linux-gnu/libnss_files.so.2",
            evil.clone(),
            0o755,
        )
        .file("/lib/x86_64-linux-gnu/libnss_dns.so.2", evil.clone(), 0o755)
        .file(
            "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules",
            "module ISO-8859-1// INTERNAL evil 1\n",
            0o644,
        )
        .file("/usr/lib/x86_64-linux-gnu/gconv/evil.so", evil, 0o755)
        .file(
            "/etc/resolv.conf",
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
            0o644,
        )
        .guest("/files.wasm", "files");
    let containerd = containerd_with(&image);
    let network = Network::new();
    let run = |arguments: &[&str]| {
        containerd
            .run(&image)
            .flags(network.flags())
            .arguments(arguments)
            .output()
    };
    assert_eq!(
        run(&["/sockets.wasm", "resolve", "here.test"]).ok(),
        "127.0.0.1\n"
    );
    run(&["/sockets.wasm", "resolve", "t\u{e4}st.test"]).fails_with(&["name-unresolvable"]);
    // The module's constructor would have made the file in the container that loaded it, so
    // one that stays is asked.
    let id = containerd
        .run(&image)
        .flags(network.flags())
        .arguments(["/sockets.wasm", "tcp-server", "7001"])
        .detach();
    let exec = |arguments: &[&str]| {
        let all = ["tasks", "exec", "--exec-id", "x", &id];
        containerd.ctr(all.iter().chain(arguments)).output()
    };
    assert_eq!(
        exec(&["/sockets.wasm", "resolve", "here.test"]).ok(),
        "127.0.0.1\n"
    );
    let listed = exec(&["/files.wasm", "stat", "/nss-was-loaded"]).ok();
    assert!(listed.contains("error NotFound"), "{listed}");
    containerd.remove(&id);
}
