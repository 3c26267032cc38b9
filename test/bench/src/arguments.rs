//! What the command line asks for.

use std::path::PathBuf;

const USAGE: &str = "usage: lighter-bench [PART...] [OPTION...]

  runc     time and memory of containers, against runc
  start    time to the first byte and memory of services, against the peer and others
  http     requests a second, against the peer and others
  compute  a guest that computes, against native code and wasmtime
  images   size of images and time from pull to the first line, against Linux images
Without a part: all of them.

  --runs N        runc: ctr run --rm of each, alternating (default 30)
  --containers N  runc: idle containers of each, together (default 30)
  --control       runc: runc against runc, which shows how much of a difference is noise
  --starts N      start: starts of each, in turn (default 10)
  --replicas N    start: replicas of each, together (default 20)
  --rounds N      http, compute, images: rounds of each, in turn (default 5)
  --seconds N     http: how long each is loaded in a round (default 5)
  --only TEXT     start, http, compute, images: subjects whose name contains the text; can be repeated
  --out FOLDER    where the tables, the data and the plots go (default target/bench)

Lighter's binaries are those in $LIGHTER_BIN, else in target/dist; the peer's and wasmtime are
built by test/bench/peer/build.sh.";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Runc,
    Start,
    Http,
    Compute,
    Images,
}

#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) parts: Vec<Part>,
    pub(crate) runs: usize,
    pub(crate) containers: usize,
    pub(crate) starts: usize,
    pub(crate) replicas: usize,
    pub(crate) rounds: usize,
    pub(crate) seconds: usize,
    pub(crate) only: Vec<String>,
    pub(crate) out: PathBuf,
    pub(crate) control: bool,
}

impl Arguments {
    /// Reads them; the error is what to print.
    pub(crate) fn read(all: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            parts: Vec::new(),
            runs: 30,
            containers: 30,
            starts: 10,
            replicas: 20,
            rounds: 5,
            seconds: 5,
            only: Vec::new(),
            out: PathBuf::from("target/bench"),
            control: false,
        };
        let mut all = all;
        while let Some(name) = all.next() {
            let mut value = || all.next().ok_or(format!("{name} needs a value\n{USAGE}"));
            let number = |text: String| match text.parse() {
                Ok(number @ 1..) => Ok(number),
                _ => Err(format!("{text} is not a positive number\n{USAGE}")),
            };
            match name.as_str() {
                "runc" => parsed.parts.push(Part::Runc),
                "start" => parsed.parts.push(Part::Start),
                "http" => parsed.parts.push(Part::Http),
                "compute" => parsed.parts.push(Part::Compute),
                "images" => parsed.parts.push(Part::Images),
                "--runs" => parsed.runs = number(value()?)?,
                "--containers" => parsed.containers = number(value()?)?,
                "--starts" => parsed.starts = number(value()?)?,
                "--replicas" => parsed.replicas = number(value()?)?,
                "--rounds" => parsed.rounds = number(value()?)?,
                "--seconds" => parsed.seconds = number(value()?)?,
                "--only" => parsed.only.push(value()?),
                "--out" => parsed.out = PathBuf::from(value()?),
                "--control" => parsed.control = true,
                _ => return Err(format!("no argument {name}\n{USAGE}")),
            }
        }
        if parsed.parts.is_empty() {
            parsed.parts = vec![
                Part::Runc,
                Part::Start,
                Part::Http,
                Part::Compute,
                Part::Images,
            ];
        }
        Ok(parsed)
    }

    /// Whether a subject of this name is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Arguments, String> {
        Arguments::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn parts_and_options_are_read() {
        let given = read("http --rounds 2 --only peer --only hyper").expect("they are valid");
        assert_eq!(given.parts, [Part::Http]);
        assert_eq!(given.rounds, 2);
        assert!(given.wants("the peer") && given.wants("hyper") && !given.wants("lighter"));
        assert_eq!(read("").expect("nothing is valid").parts.len(), 5);
        assert!(read("--rounds 0").is_err() && read("other").is_err());
    }
}
