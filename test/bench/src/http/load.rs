//! wrk inside a server's network namespace, and what it says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::ADDRESS;
use super::network::Network;

const SCRIPT: &str = include_str!("load.lua");

/// Connections, each with one request at a time.
pub(crate) const CONNECTIONS: usize = 32;
/// Threads of the load generator.
pub(crate) const THREADS: usize = 2;

/// What a server did under load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Answers in a second.
    pub(crate) rate: f64,
    /// What 99 of 100 answers took at most, ms.
    pub(crate) p99: f64,
    /// Answers other than success, and failed connections.
    pub(crate) errors: u64,
}

/// The load generator.
pub(crate) struct Generator {
    script: PathBuf,
}

impl Generator {
    /// Keeps its script in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let script = folder.join("load.lua");
        fs::write(&script, SCRIPT).expect("write wrk's script");
        Self { script }
    }

    /// Loads the server of a network namespace for some time.
    pub(crate) fn load(&self, network: &Network, time: Duration) -> Load {
        let (connections, threads) = (CONNECTIONS.to_string(), THREADS.to_string());
        let (time_text, address) = (format!("{}s", time.as_secs()), format!("http://{ADDRESS}/"));
        let script = self.script.to_str().expect("the folder's path is text");
        let text = network
            .inside([
                "wrk",
                "-c",
                &connections,
                "-t",
                &threads,
                "-d",
                &time_text,
                "-s",
                script,
                &address,
            ])
            .limit(time + Duration::from_secs(60))
            .ok();
        parse(&text).unwrap_or_else(|| panic!("wrk printed something else:\n{text}"))
    }
}

/// Reads the line of the script.
fn parse(text: &str) -> Option<Load> {
    let line = text.lines().find_map(|line| line.strip_prefix("result "))?;
    let field = |name: &str| -> Option<u64> {
        let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    Some(Load {
        rate: field("requests")? as f64 * 1e6 / field("microseconds")? as f64,
        p99: field("p99")? as f64 / 1000.0,
        errors: field("errors")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_prints_is_read() {
        let text = "Running 5s test\nresult requests=50000 microseconds=5000000 p50=1500 p99=9000 errors=3\n";
        let expected = Load {
            rate: 10_000.0,
            p99: 9.0,
            errors: 3,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("wrk: unable to connect"), None);
    }
}
