//! What clients send to services, byte by byte.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use crate::http::Service;

/// Sends `requests` in one piece, closes the client's side if that is wanted, and reads for as long
/// as the service keeps its own open.
fn exchange(service: &Service, requests: &str, closes: bool) -> String {
    let mut stream = service.network.connect(8080);
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    if closes {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut responses = Vec::new();
    stream.read_to_end(&mut responses).unwrap();
    String::from_utf8(responses).unwrap()
}

/// Load balancers check services by HTTP/1.0 without a host.
#[test]
fn only_a_request_of_http_1_1_has_to_say_its_host() {
    let service = Service::start("http-hello", &[]);
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.0\r\nhost:\r\n\r\n", "200 OK"),
        ("GET / HTTP/1.0\r\nhost: a\r\n\r\n", "200 OK"),
        (
            "GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
            "200 OK",
        ),
        (
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            "400 Bad Request",
        ),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
            "400 Bad Request",
        ),
        (
            "GET http://a/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            "200 OK",
        ),
    ] {
        let response = exchange(&service, request, false);
        let line = response.lines().next().unwrap_or_default();
        assert!(line.ends_with(status), "{request:?}: {response}");
    }
}

#[test]
fn a_client_that_closes_its_side_gets_all_its_answers() {
    let service = Service::start("http-hello", &[]);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let response = exchange(&service, &get("/sleep?500"), true);
    assert!(response.ends_with("slept\n"), "{response}");
    let body = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nwords";
    let response = exchange(&service, body, true);
    assert!(response.contains("words"), "{response}");
    let three = [get("/sleep?200"), get("/sleep?100"), get("/")].concat();
    let responses = exchange(&service, &three, true);
    assert_eq!(
        responses.matches("HTTP/1.1 200 OK").count(),
        3,
        "{responses}"
    );
    assert_eq!(responses.matches("slept").count(), 2, "{responses}");
    assert!(responses.ends_with("Hello from Wasm\n"), "{responses}");
}

#[test]
fn requests_that_come_at_once_are_answered_in_turn() {
    let service = Service::start("http-hello", &[]);
    let get = |path: &str, rest: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n{rest}\r\n");
    let three = [
        get("/sleep?200", ""),
        get("/", ""),
        get("/sleep?100", "connection: close\r\n"),
    ]
    .concat();
    let responses = exchange(&service, &three, false);
    assert_eq!(
        responses.matches("HTTP/1.1 200 OK").count(),
        3,
        "{responses}"
    );
    assert!(responses.ends_with("slept\n"), "{responses}");
}
