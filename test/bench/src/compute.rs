//! A guest that computes and does nothing else: what the engine's variants cost.

use std::fs;
use std::time::Duration;

use lighter_testkit::{Call, Containerd, Image, WASMTIME, guest};

use crate::arguments::Arguments;
use crate::http::{computing, milliseconds, peer_binary};
use crate::table::{Findings, Table};

/// More than any guest executes: what is measured is counting, not the end of the fuel.
const FUEL: &str = "lighter.dev/fuel=18446744073709551615";

/// What the owner of a node has to allow for them.
const ALLOWED: &str = "variants = [\"metered\", \"debug\"]\n";

/// The variants of Lighter's engine, by the annotations that choose them. The guest is a command
/// in each: what differs is the code.
const VARIANTS: [(&str, &[&str]); 4] = [
    ("lighter, command", &[]),
    ("lighter, http", &["lighter.dev/engine=http"]),
    ("lighter, metered", &["lighter.dev/engine=metered", FUEL]),
    ("lighter, debug", &["lighter.dev/engine=debug"]),
];

/// One that is compared.
struct Subject {
    name: &'static str,
    /// How it runs the guest that computes, and one that does nothing but start and end.
    compute: How,
    hello: Option<How>,
}

enum How {
    Container {
        runtime: String,
        image: Box<Image>,
        flags: Vec<String>,
    },
    Program(Vec<String>),
}

/// Runs all in turn, to the end.
pub(crate) fn measure(containerd: &Containerd, given: &Arguments) -> Findings {
    let mut subjects = subjects(containerd, given);
    subjects.retain(|subject| given.wants(subject.name));
    let mut notes = Vec::new();
    let native = program([native()]).run(containerd);
    let (expected, _) = native.expect("the native program runs");
    // The first run compiles, and shows whether the node allows the variant.
    subjects.retain(|subject| match subject.compute.run(containerd) {
        Ok((printed, _)) => {
            assert_eq!(
                printed, expected,
                "{} computes something else",
                subject.name
            );
            true
        }
        Err(fault) => {
            eprintln!("compute: {} is left out: {fault}", subject.name);
            notes.push(format!("{} is left out: {}", subject.name, fault.trim()));
            false
        }
    });
    let names = subjects.iter().map(|subject| subject.name);
    let columns = ["ms", "of that its start (hello), ms"];
    let mut table = Table::new("a guest that computes", &columns, names);
    for round in 0..=given.rounds {
        for turn in 0..subjects.len() {
            let which = (round + turn) % subjects.len();
            let subject = &subjects[which];
            let runs = [Some(&subject.compute), subject.hello.as_ref()];
            for (cell, how) in table.rows[which].cells.iter_mut().zip(runs) {
                let Some(how) = how else { continue };
                let (_, elapsed) = how
                    .run(containerd)
                    .unwrap_or_else(|fault| panic!("{}: {fault}", subject.name));
                eprintln!("compute, round {round}: {}: {elapsed:?}", subject.name);
                // The first round compiles hello.
                if round > 0 {
                    cell.push(milliseconds(elapsed));
                }
            }
        }
    }
    Findings {
        name: "compute",
        about: format!(
            "A guest that computes to its end, {} rounds in turn; containers by `ctr run --rm`, \
             and a service that does so for a request.",
            given.rounds
        ),
        tables: vec![table, computing(containerd, given, &expected)],
        notes,
    }
}

fn subjects(containerd: &Containerd, given: &Arguments) -> Vec<Subject> {
    let wasmtime = peer_binary("wasmtime");
    let aot = ["run", "--allow-precompiled"];
    let mut all = vec![
        Subject {
            name: "native",
            compute: program([native()]),
            hello: None,
        },
        Subject {
            name: "wasmtime run",
            compute: program([wasmtime.clone(), "run".into(), file("compute.wasm")]),
            hello: Some(program([
                wasmtime.clone(),
                "run".into(),
                file("hello.wasm"),
            ])),
        },
    ];
    let ahead_of_time = |name| {
        let compiled = containerd.folder().join(name).with_extension("cwasm");
        let compiled = compiled
            .to_str()
            .expect("the folder's path is text")
            .to_owned();
        let compile = Call::new(&wasmtime, ["compile", "-o", &compiled, &file(name)]);
        compile.output().exits(0);
        let line = [&wasmtime, aot[0], aot[1], &compiled].map(str::to_owned);
        program(line)
    };
    let name = "wasmtime run, ahead of time";
    if given.wants(name) {
        all.push(Subject {
            name,
            compute: ahead_of_time("compute.wasm"),
            hello: Some(ahead_of_time("hello.wasm")),
        });
    }
    let [compute, hello] = ["compute", "hello"].map(|name| {
        let image = Image::wasm(name);
        containerd.import(&image);
        image
    });
    let mut container = |name, runtime: &str, flags: Vec<String>| {
        let how = |image: &Image| How::Container {
            runtime: runtime.to_owned(),
            image: Box::new(image.clone()),
            flags: flags.clone(),
        };
        all.push(Subject {
            name,
            compute: how(&compute),
            hello: Some(how(&hello)),
        });
    };
    let peer = peer_binary("containerd-shim-peerwasmtime-v1");
    container("peer", &peer, Vec::new());
    let options = containerd.folder().join("options.toml");
    fs::write(&options, ALLOWED).expect("write the node's options");
    let options = options.to_str().expect("the folder's path is text");
    for (name, annotations) in VARIANTS {
        let annotations = annotations
            .iter()
            .flat_map(|annotation| ["--annotation", annotation]);
        let flags = ["--runtime-config-path", options];
        let flags = flags.into_iter().chain(annotations).map(str::to_owned);
        container(name, WASMTIME, flags.collect());
    }
    all
}

fn program<const N: usize>(line: [String; N]) -> How {
    How::Program(line.into())
}

fn file(name: &str) -> String {
    let path = guest(name);
    path.to_str().expect("the cache's path is text").to_owned()
}

/// The guest's source as a Linux program: `compute` beside `compute.wasm`.
fn native() -> String {
    let path = guest("compute.wasm").with_extension("");
    assert!(
        path.is_file(),
        "no {}: run test/guests/build.sh",
        path.display()
    );
    path.to_str().expect("the cache's path is text").to_owned()
}

impl How {
    /// Runs it to its end: what it printed and how long that took, or what was wrong.
    fn run(&self, containerd: &Containerd) -> Result<(String, Duration), String> {
        let output = match self {
            Self::Program(line) => Call::new(&line[0], &line[1..]).output(),
            Self::Container {
                runtime,
                image,
                flags,
            } => containerd.run(image).runtime(runtime).flags(flags).output(),
        };
        match output.code() {
            0 => Ok((output.stdout, output.elapsed)),
            _ => Err(output.stderr),
        }
    }
}
