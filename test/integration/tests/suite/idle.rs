//! Containers that wait cost no time of a processor.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lighter_testkit::{Containerd, Image, Network, Process, Version};

/// Containers, the pods that they are in, and how many of them serve; the rest sleeps.
const CONTAINERS: usize = 200;
const PODS: usize = 20;
const SERVICES: usize = PODS;

/// How long none of their threads may run.
const STILL: Duration = Duration::from_secs(5);
/// Until when that has to be so: what has just been started settles at first.
const LIMIT: Duration = Duration::from_secs(40);

/// How often threads of the process were given a processor: the last number of schedstat.
fn runs(pid: i32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads
        .map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap();
            let count = text.split_whitespace().next_back().unwrap();
            count.parse::<u64>().unwrap()
        })
        .sum()
}

/// Sleeping commands and services that nobody asks, in pods of ten, and their shims.
#[test]
fn two_hundred_idle_containers_wake_no_processor() {
    let containerd = Containerd::start_for_measurements(Version::V2);
    let sleep = Image::wasm("sleep").entrypoint(["/sleep.wasm", "1000"]);
    let service = Image::wasm("http-hello");
    containerd.import(&sleep);
    containerd.import(&service);
    let network = Network::new();
    let next = AtomicUsize::new(0);
    let start = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= CONTAINERS {
                return;
            }
            let serves = number < SERVICES;
            let pod = format!("io.kubernetes.cri.sandbox-id=pod-{}", number % PODS);
            let port = format!("PORT={}", 8000 + number);
            // Some have FIFOs, also for stdin, which the shim holds by an inotify instance each:
            // a user of the machine has 128 of those, for all tests.
            let log = format!("file://{}/{number}.log", containerd.folder().display());
            let log = if serves {
                vec![]
            } else {
                vec!["--log-uri", &log]
            };
            containerd
                .run(if serves { &service } else { &sleep })
                .flags(network.flags())
                .flags(["--annotation", &pod, "--env", &port])
                .flags(log)
                .detach();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(start);
        }
    });
    let mut processes = containerd.scope().processes();
    processes.retain(|process| process.pid != containerd.pid());
    let count = |name: &str| processes.iter().filter(|each| each.comm == name).count();
    let counts = ["http-hello.wasm", "sleep.wasm", "containerd-shim"].map(count);
    assert_eq!(counts, [SERVICES, CONTAINERS - SERVICES, PODS]);
    let all = || processes.iter().map(|each| (each, runs(each.pid)));
    let end = Instant::now() + LIMIT;
    loop {
        let before: Vec<(&Process, u64)> = all().collect();
        std::thread::sleep(STILL);
        let woken: Vec<(&str, u64)> = all()
            .zip(&before)
            .map(|((process, now), (_, then))| (process.comm.as_str(), now - then))
            .filter(|(_, more)| *more > 0)
            .collect();
        if woken.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "in {STILL:?}: {woken:?}");
    }
}
