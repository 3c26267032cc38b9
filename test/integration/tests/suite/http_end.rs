//! How a service ends.

use std::time::Duration;

use lighter_testkit::shim::eventually;
use lighter_testkit::{Image, Network, Output};
use nix::sys::signal::Signal;

use crate::containerd_with;
use crate::http::split;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs the service in the foreground, lets a request begin, and sends these signals.
fn terminate(request: &str, signals: &[Signal]) -> (Output, Output) {
    let image = Image::wasm("http-hello");
    let containerd = containerd_with(&image);
    let network = Network::new();
    let id = containerd.next_id();
    let run = containerd
        .run(&image)
        .id(&id)
        .flags(network.flags())
        .spawn();
    let get = |path: &str| {
        let url = format!("http://127.0.0.1:8080{path}");
        network.curl(["--write-out", "\n%{http_code}", &url])
    };
    eventually("the service responses", || {
        get("/").output().status.success()
    });
    let pending = get(request).spawn();
    std::thread::sleep(Duration::from_millis(300));
    for signal in signals {
        containerd
            .ctr(["tasks", "kill", "--signal", signal.as_str(), &id])
            .output()
            .exits(0);
        std::thread::sleep(Duration::from_millis(200));
    }
    if signals.len() == 1 {
        let refused = get("/").output();
        assert_eq!(
            refused.code(),
            7,
            "curl: could not connect; {}",
            refused.stderr
        );
    }
    (pending.wait(LIMIT), run.wait(LIMIT))
}

#[test]
fn sigterm_and_sigint_let_requests_finish_and_refuse_new_ones() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (response, service) = terminate("/sleep?1500", &[signal]);
        assert_eq!(
            split(&response.stdout),
            ("slept\n".to_owned(), 200),
            "{signal}"
        );
        service.exits(0);
    }
}

#[test]
fn a_second_signal_does_not_wait() {
    for signals in [
        [Signal::SIGTERM, Signal::SIGTERM],
        [Signal::SIGTERM, Signal::SIGINT],
        [Signal::SIGINT, Signal::SIGTERM],
    ] {
        let (response, service) = terminate("/sleep?50000", &signals);
        assert_ne!(response.code(), 0);
        service.exits(128 + signals[1] as i32);
    }
}
