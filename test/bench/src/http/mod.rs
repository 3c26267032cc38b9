//! Services: Lighter against the peer, `wasmtime serve` and a server without a guest.

mod at_once;
mod client;
mod computing;
mod first_byte;
mod load;
mod network;
mod replicas;
mod subject;
mod throughput;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use lighter_testkit::{Call, Containerd, Image, guest};

pub(crate) use self::first_byte::milliseconds;
use self::subject::Subject;
pub(crate) use self::subject::peer_binary;
use crate::arguments::Arguments;
use crate::table::{Findings, Table};

/// The small service, and the one that brings a language's runtime.
const HELLO: &str = "http-hello";
const PYTHON: &str = "http-python";

/// How many requests an instance answers where instances are reused.
const REUSE: &str = "lighter.dev/http-reuse=1000";
const SERVE_REUSE: &str = "--max-instance-reuse-count=1000";

/// Requests a second, and how long they take.
pub(crate) fn throughput(containerd: &Containerd, given: &Arguments) -> Findings {
    let plan = throughput::Plan {
        rounds: given.rounds,
        time: Duration::from_secs(given.seconds as u64),
    };
    let guests = [HELLO, PYTHON].map(|name| {
        let image = imported(containerd, name);
        let wasm = guest(name);
        let mut subjects = vec![
            Subject::lighter("lighter", &image, &[]),
            Subject::lighter("lighter, reuse", &image, &[REUSE]),
            Subject::peer(&image),
            Subject::serve("wasmtime serve", &[], &wasm),
            Subject::serve("wasmtime serve, reuse", &[SERVE_REUSE], &wasm),
        ];
        if name == HELLO {
            subjects.push(Subject::hyper());
        }
        (name, chosen(subjects, given))
    });
    throughput::measure(containerd, &guests, &plan)
}

/// How long a request that computes `expected` takes.
pub(crate) fn computing(containerd: &Containerd, given: &Arguments, expected: &str) -> Table {
    let name = "http-compute";
    let image = imported(containerd, name);
    let subjects = vec![
        Subject::lighter("lighter, http", &image, &[]),
        Subject::peer(&image),
        Subject::serve("wasmtime serve", &[], &guest(name)),
    ];
    computing::measure(containerd, &chosen(subjects, given), given.rounds, expected)
}

/// Time to the first byte, memory of a replica, many starts at once.
pub(crate) fn start(containerd: &Containerd, given: &Arguments) -> Findings {
    let [hello, python] = [HELLO, PYTHON].map(|name| imported(containerd, name));
    let named = |name: &str, mut subject: Subject| {
        subject.name = format!("{name}: {}", subject.name);
        subject
    };
    let mut starts = vec![
        named(PYTHON, Subject::lighter("lighter", &python, &[])),
        named(PYTHON, Subject::peer(&python)),
        named(
            PYTHON,
            Subject::serve("wasmtime serve", &[], &guest(PYTHON)),
        ),
        named(HELLO, Subject::lighter("lighter", &hello, &[])),
        named(HELLO, Subject::peer(&hello)),
        named(HELLO, Subject::serve("wasmtime serve", &[], &guest(HELLO))),
        named("no guest", Subject::hyper()),
    ];
    let name = "wasmtime serve, ahead of time";
    if given.wants(name) {
        let compiled = ahead_of_time(containerd);
        let subject = Subject::serve(name, &["--allow-precompiled"], &compiled);
        starts.push(named(PYTHON, subject));
    }
    let replicas = vec![
        named(PYTHON, Subject::lighter("lighter", &python, &[])),
        named(PYTHON, Subject::peer(&python)),
        named(HELLO, Subject::lighter("lighter", &hello, &[])),
        named(HELLO, Subject::peer(&hello)),
    ];
    let mut tables = vec![
        first_byte::measure(containerd, &chosen(starts, given), given.starts),
        replicas::measure(containerd, &chosen(replicas, given), given.replicas),
    ];
    if given.wants("lighter") {
        let python = fs::read(guest(PYTHON)).expect("the guest can be read");
        tables.push(at_once::measure(containerd, &python, given.replicas));
    }
    Findings {
        name: "start",
        about: format!(
            "Containers by `ctr run`, servers without a container by their command; {} starts in \
             turn, half as many with the page cache dropped before each; {} replicas.",
            given.starts, given.replicas
        ),
        tables,
        notes: vec![
            "At once: the peer is left out. It compiles in each container, which 20 times at \
             once takes more memory than a small node has."
                .to_owned(),
        ],
    }
}

fn imported(containerd: &Containerd, name: &str) -> Image {
    let image = Image::wasm(name);
    containerd.import(&image);
    image
}

/// Python's component as `wasmtime serve` takes it when it must not compile.
fn ahead_of_time(containerd: &Containerd) -> PathBuf {
    let (wasm, compiled) = (guest(PYTHON), containerd.folder().join("python.cwasm"));
    eprintln!("start: compiling {PYTHON} by wasmtime");
    let arguments = [
        "compile".as_ref(),
        "-o".as_ref(),
        compiled.as_os_str(),
        wasm.as_os_str(),
    ];
    let compile = Call::new(peer_binary("wasmtime"), arguments);
    compile.limit(Duration::from_secs(600)).output().exits(0);
    compiled
}

fn chosen(subjects: Vec<Subject>, given: &Arguments) -> Vec<Subject> {
    let wanted = |subject: &Subject| given.wants(&subject.name);
    subjects.into_iter().filter(wanted).collect()
}
