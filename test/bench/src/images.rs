//! Images of the same hello as Wasm and as Linux programs: how large they are, and how long it
//! takes from the pull out of a registry on this machine to the first line.

mod linux;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lighter_testkit::{Call, Containerd, Image, RUNC, Registry, WASMTIME, guest, node_tool};

use crate::arguments::Arguments;
use crate::table::{Findings, Row, Table};

/// Compiling a large component takes minutes on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// An image in the registry.
struct Subject {
    name: &'static str,
    runtime: &'static str,
    line: &'static str,
    reference: String,
    bytes: u64,
    compressed: u64,
    /// SHA-256 of the module or component.
    source: Option<String>,
}

/// Measures all of them, in turn.
pub(crate) fn measure(containerd: &Containerd, given: &Arguments) -> Findings {
    let registry = Registry::start();
    let place = containerd.folder();
    let wasm = |name, guest_name, line| {
        let archive = place.join(format!("{guest_name}.tar"));
        let file = guest(guest_name);
        pack(&file, &archive, guest_name);
        Subject {
            source: Some(sha256(&file)),
            ..Subject::new(
                containerd, &registry, name, WASMTIME, line, &archive, guest_name,
            )
        }
    };
    let linux = |name, image: Image, line| {
        let archive = place.join("image.tar");
        fs::write(&archive, image.archive()).expect("write an image's archive");
        let label = image.reference();
        let label = label
            .rsplit(['/', ':'])
            .nth(1)
            .expect("it has a name and a tag")
            .to_owned();
        Subject::new(containerd, &registry, name, RUNC, line, &archive, &label)
    };
    let all: [(&str, &dyn Fn(&'static str) -> Subject); 8] = [
        ("Rust, Wasm", &|name| {
            wasm(name, "hello", "Hello from Wasm\n")
        }),
        ("Rust, Linux", &|name| {
            linux(name, linux::rust(place), "Hello from Wasm\n")
        }),
        ("Go, Wasm", &|name| {
            wasm(name, "hello-go", "Hello from Go\n")
        }),
        ("Go, Linux", &|name| {
            linux(name, linux::go(place), "Hello from Go\n")
        }),
        ("JavaScript, Wasm", &|name| {
            wasm(name, "js-cli", "Hello from JavaScript\n")
        }),
        ("JavaScript, Linux", &|name| {
            linux(name, linux::node(), "Hello from JavaScript\n")
        }),
        ("Python, Wasm", &|name| {
            wasm(name, "python-cli", "Hello from Python\n")
        }),
        ("Python, Linux", &|name| {
            linux(name, linux::python(), "Hello from Python\n")
        }),
    ];
    let wanted = all.iter().filter(|(name, _)| given.wants(name));
    let subjects: Vec<Subject> = wanted.map(|(name, make)| make(name)).collect();
    let mut rows: Vec<Row> = subjects.iter().map(Subject::row).collect();
    for round in 0..given.rounds {
        for (subject, row) in subjects.iter().zip(&mut rows) {
            eprintln!("{}, round {}", subject.name, round + 1);
            if let Some(source) = &subject.source {
                // Nothing to remove is an error, and no fault.
                Call::new(node_tool(), ["cache", "rm", source]).output();
                row.cells[3].push(subject.pull_and_run(containerd).1);
            }
            let (pull, first_line) = subject.pull_and_run(containerd);
            row.cells[2].push(pull);
            row.cells[4].push(first_line);
        }
    }
    Findings {
        name: "images",
        about: format!(
            "Images on a registry of this machine, each pulled and started by ctr, {} rounds.",
            given.rounds
        ),
        tables: vec![Table {
            title: "hello".to_owned(),
            columns: [
                "size, MB",
                "... with gzip, MB",
                "pull, ms",
                "pull to first line where it was never compiled, ms",
                "pull to first line, ms",
            ]
            .map(str::to_owned)
            .into(),
            rows,
        }],
        notes: vec![
            "Layers are not compressed in the registry, on either side. Linux images: static Rust and Go programs \
             FROM scratch; node and Python of this machine's packages with the libraries that ldd names, Python \
             with its whole standard library, and nothing else."
                .to_owned(),
        ],
    }
}

impl Subject {
    fn new(
        containerd: &Containerd,
        registry: &Registry,
        name: &'static str,
        runtime: &'static str,
        line: &'static str,
        archive: &Path,
        label: &str,
    ) -> Self {
        let reference = registry.reference(&format!("{label}:latest"));
        let imported = format!("docker.io/lighter/{label}:latest");
        let text = archive.display().to_string();
        let push = ["images", "push", "--plain-http", &reference];
        let ctr = |arguments: &[&str]| containerd.ctr(arguments).limit(LIMIT).ok();
        ctr(&["images", "import", &text]);
        ctr(&["images", "tag", &imported, &reference]);
        ctr(&push);
        ctr(&["images", "rm", "--sync", &imported]);
        let compressed = Call::new("gzip", ["-c", &text]).limit(LIMIT).output();
        Self {
            name,
            runtime,
            line,
            reference,
            bytes: fs::metadata(archive).expect("it was written").len(),
            compressed: compressed.exits(0).stdout_bytes.len() as u64,
            source: None,
        }
    }

    fn row(&self) -> Row {
        let megabytes = |bytes: u64| vec![bytes as f64 / 1e6];
        Row {
            name: self.name.to_owned(),
            cells: vec![
                megabytes(self.bytes),
                megabytes(self.compressed),
                Vec::new(),
                Vec::new(),
                Vec::new(),
            ],
        }
    }

    /// Milliseconds of the pull, and until the first line after it was begun.
    fn pull_and_run(&self, containerd: &Containerd) -> (f64, f64) {
        let remove = ["images", "rm", "--sync", &self.reference];
        containerd.ctr(remove).limit(LIMIT).ok();
        let begin = Instant::now();
        let milliseconds = || begin.elapsed().as_secs_f64() * 1000.0;
        let pull = ["images", "pull", "--plain-http", &self.reference];
        containerd.ctr(pull).limit(LIMIT).ok();
        let pulled = milliseconds();
        let run = containerd.run_reference(&self.reference);
        let mut run = run.runtime(self.runtime).spawn();
        run.await_stdout(self.line, LIMIT);
        let first_line = milliseconds();
        run.wait(LIMIT).exits(0);
        (pulled, first_line)
    }
}

fn pack(file: &Path, archive: &PathBuf, label: &str) {
    let name = format!("lighter/{label}");
    let mut arguments = vec!["pack".into(), file.as_os_str().to_owned()];
    arguments.extend(["--name".into(), name.into(), "-o".into(), archive.into()]);
    Call::new(node_tool(), arguments).ok();
}

fn sha256(file: &Path) -> String {
    let printed = Call::new("sha256sum", [file]).ok();
    printed.split(' ').next().unwrap_or_default().to_owned()
}
