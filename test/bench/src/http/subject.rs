//! What serves: a container of some runtime, or a program as it is.

use std::path::Path;
use std::time::{Duration, Instant};

use lighter_testkit::{Containerd, Image, Running, WASMTIME, cache};

use super::client::first_byte;
use super::network::Network;

/// How long a start may take: some compile for it, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(300);

/// One that is compared.
pub(crate) struct Subject {
    pub(crate) name: String,
    how: How,
}

enum How {
    Container {
        runtime: String,
        image: Box<Image>,
        flags: Vec<String>,
    },
    Program(Vec<String>),
}

/// Where `test/bench/peer/build.sh` puts a binary.
pub(crate) fn peer_binary(name: &str) -> String {
    let path = cache().join("peer/bin").join(name);
    path.to_str().expect("the cache's path is text").to_owned()
}

/// Demands that the binary is there. Not earlier than it is used: `--only` may leave it out.
pub(crate) fn assert_built(binary: &str) {
    assert!(
        Path::new(binary).is_file(),
        "no {binary}: run test/bench/peer/build.sh"
    );
}

impl Subject {
    /// A guest through Lighter, with annotations.
    pub(crate) fn lighter(name: &str, image: &Image, annotations: &[&str]) -> Self {
        let flags = annotations
            .iter()
            .flat_map(|annotation| ["--annotation".to_owned(), (*annotation).to_owned()]);
        Self {
            name: name.to_owned(),
            how: How::Container {
                runtime: WASMTIME.to_owned(),
                image: Box::new(image.clone()),
                flags: flags.collect(),
            },
        }
    }

    /// A guest through the peer.
    pub(crate) fn peer(image: &Image) -> Self {
        Self {
            name: "peer".to_owned(),
            how: How::Container {
                runtime: peer_binary("containerd-shim-peerwasmtime-v1"),
                image: Box::new(image.clone()),
                flags: Vec::new(),
            },
        }
    }

    /// `wasmtime serve` with options, without a container. `-Scli` is what a container's guest
    /// has too, and what Python's asks for.
    pub(crate) fn serve(name: &str, options: &[&str], wasm: &Path) -> Self {
        let fixed = ["serve", "-Scli", "--addr=127.0.0.1:8080"];
        let mut line = vec![peer_binary("wasmtime")];
        line.extend(fixed.iter().chain(options).map(|&text| text.to_owned()));
        line.push(wasm.display().to_string());
        Self {
            name: name.to_owned(),
            how: How::Program(line),
        }
    }

    /// A server without a guest.
    pub(crate) fn hyper() -> Self {
        let line = [peer_binary("peer-hello"), "127.0.0.1:8080".to_owned()];
        Self {
            name: "hyper, no guest".to_owned(),
            how: How::Program(line.into()),
        }
    }

    /// Starts it and waits for its first answer. Also how long that took, from the call of
    /// `ctr` or of the program to the first byte.
    pub(crate) fn start<'a>(&self, containerd: &'a Containerd) -> (Serving<'a>, Duration) {
        self.start_in(containerd, Network::new())
    }

    /// The same in a network namespace that is there already.
    pub(crate) fn start_in<'a>(
        &self,
        containerd: &'a Containerd,
        network: Network,
    ) -> (Serving<'a>, Duration) {
        match &self.how {
            How::Program(line) => assert_built(&line[0]),
            How::Container { runtime, .. } if runtime.starts_with('/') => assert_built(runtime),
            How::Container { .. } => {}
        }
        let begin = Instant::now();
        let answered = network.enter(move || first_byte(begin, LIMIT));
        let end = match &self.how {
            How::Program(line) => {
                End::Program(network.inside(line.iter().map(String::as_str)).spawn())
            }
            How::Container {
                runtime,
                image,
                flags,
            } => {
                let namespace = format!("network:{}", network.path());
                let run = containerd
                    .run(image)
                    .runtime(runtime)
                    .flags(["--with-ns", &namespace])
                    .flags(flags);
                // First compilations are part of Create.
                End::Container(containerd, run.limit(LIMIT).detach())
            }
        };
        let answered = answered.join().expect("the client does not panic");
        let elapsed = answered.unwrap_or_else(|fault| panic!("{}: {fault}", self.name));
        (Serving { network, end }, elapsed)
    }
}

/// A server that runs.
pub(crate) struct Serving<'a> {
    pub(crate) network: Network,
    end: End<'a>,
}

enum End<'a> {
    Container(&'a Containerd, String),
    Program(Running),
}

impl Serving<'_> {
    /// Ends it, its network namespace too.
    pub(crate) fn stop(self) {
        match self.end {
            End::Container(containerd, id) => containerd.remove(&id),
            End::Program(running) => drop(running),
        }
    }
}
