//! Annotations of a pod, on a node with any options: they narrow what the node allows.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;
use lighter_fuzz::options::check_narrowed;
use lighter_wasm::NodeOptions;
use lighter_wasm::options::{HostPattern, PREFIX};

const OPTIONS: [&str; 16] = [
    "clocks",
    "compose",
    "debug",
    "engine",
    "environment",
    "fuel",
    "hosts",
    "http-address",
    "http-body-bytes",
    "http-concurrency",
    "http-header-seconds",
    "http-request-seconds",
    "http-reuse",
    "names",
    "tcp",
    "udp",
];

const WORDS: [&str; 16] = [
    "true",
    "false",
    "exact",
    "coarse",
    "coredump",
    "profile",
    "profile,coredump",
    "command",
    "http",
    "metered",
    "debug",
    "*",
    "*.example.com",
    "a.example.com:80",
    "[::1]:8080",
    "",
];

#[derive(Arbitrary, Clone, Debug)]
enum Value<'a> {
    Word(u8),
    Number(u64),
    /// Of few characters, so that patterns of hosts meet each other.
    Hosts(Vec<Host>),
    Any(&'a str),
}

#[derive(Arbitrary, Clone, Debug)]
struct Host {
    starts_with_asterisk: bool,
    labels: u8,
    port: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Annotation<'a> {
    option: u8,
    /// Of one container of the pod.
    container: Option<bool>,
    value: Value<'a>,
}

#[derive(Arbitrary, Debug)]
struct Node {
    flags: u8,
    variants: [bool; 2],
    tools: [bool; 2],
    hosts: Option<Vec<Host>>,
    concurrency: u16,
    body_bytes: u32,
    header_seconds: u16,
    request_seconds: u16,
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    node: Node,
    annotations: Vec<Annotation<'a>>,
    probes: Vec<&'a str>,
}

fuzz_target!(|input: Input<'_>| {
    let Ok(node) = NodeOptions::parse(&input.node.text()) else {
        return;
    };
    let mut probes: Vec<(String, u16)> = input
        .probes
        .iter()
        .flat_map(|host| [80, 1].map(|port| ((*host).to_owned(), port)))
        .collect();
    let mut annotations = Vec::new();
    for annotation in &input.annotations {
        let option = OPTIONS[usize::from(annotation.option) % OPTIONS.len()];
        let container = match annotation.container {
            None => "",
            Some(true) => ".web",
            Some(false) => ".db",
        };
        let value = annotation.value.text();
        for item in value.split(',') {
            check_pattern(item.trim());
            // What the patterns are about.
            let host = item.trim().trim_start_matches('*');
            let host = host.split(':').next().unwrap_or_default();
            probes.extend([80, 1].map(|port| (host.to_owned(), port)));
            probes.push((format!("x{host}"), 1));
        }
        annotations.push((format!("{PREFIX}{option}{container}"), value));
    }
    let length: usize = annotations
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    let narrowed = bounded(length, 64, || node.for_container(&annotations, Some("web")));
    let Ok(options) = narrowed else {
        return;
    };
    check_narrowed(&node, &options, &probes);
    // Those of another container mean nothing to this one.
    annotations.retain(|(name, _)| !name.ends_with(".db"));
    assert_eq!(
        node.for_container(&annotations, Some("web")).as_ref(),
        Ok(&options)
    );
});

fn check_pattern(text: &str) {
    if let Ok(pattern) = HostPattern::parse(text) {
        assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
    }
}

impl Host {
    fn text(&self) -> String {
        let mut text = if self.starts_with_asterisk { "*." } else { "" }.to_owned();
        let labels: Vec<&str> = (0..=self.labels % 3)
            .map(|label| {
                if self.labels >> (2 + label) & 1 == 0 {
                    "a"
                } else {
                    "b"
                }
            })
            .collect();
        text.push_str(&labels.join("."));
        if let Some(port) = self.port {
            text.push_str(&format!(":{}", port % 3));
        }
        text
    }
}

fn list(hosts: &[Host]) -> String {
    let hosts: Vec<String> = hosts.iter().map(Host::text).collect();
    hosts.join(", ")
}

impl Value<'_> {
    fn text(&self) -> String {
        match self {
            Self::Word(index) => WORDS[usize::from(*index) % WORDS.len()].to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Hosts(hosts) => list(hosts),
            Self::Any(text) => (*text).to_owned(),
        }
    }
}

impl Node {
    /// As TOML.
    fn text(&self) -> String {
        let flag = |bit: u8| self.flags >> bit & 1 == 1;
        let chosen = |names: [&str; 2], chosen: [bool; 2]| -> String {
            let chosen = names.iter().zip(chosen).filter(|(_, chosen)| *chosen);
            let names: Vec<String> = chosen.map(|(name, _)| format!("{name:?}")).collect();
            names.join(", ")
        };
        let mut text = format!(
            "preview3 = {}\ntcp = {}\nudp = {}\nnames = {}\nlink-local = {}\nvariants = [{}]\ndebug = [{}]\n\
             http-concurrency = {}\nhttp-body-bytes = {}\nhttp-header-seconds = {}\nhttp-request-seconds = {}\n",
            flag(0),
            flag(1),
            flag(2),
            flag(3),
            flag(4),
            chosen(["metered", "debug"], self.variants),
            chosen(["coredump", "profile"], self.tools),
            self.concurrency,
            self.body_bytes,
            self.header_seconds,
            self.request_seconds,
        );
        if let Some(hosts) = &self.hosts {
            let hosts: Vec<String> = hosts
                .iter()
                .map(|host| format!("{:?}", host.text()))
                .collect();
            text.push_str(&format!("hosts = [{}]\n", hosts.join(", ")));
        }
        text
    }
}
