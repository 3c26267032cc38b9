//! A Prometheus of our own.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lighter_testkit::{Call, Running};
use serde_json::Value;

use crate::dashboard::Panel;

const ADDRESS: &str = "127.0.0.1:19090";
/// What Grafana puts in for `$__rate_interval`: four times the time between two scrapes, at least.
const RATE_INTERVAL: &str = "8s";
const LIMIT: Duration = Duration::from_secs(30);

pub struct Prometheus {
    _process: Running,
}

/// One line of a panel: its name, and points of seconds since the epoch and a value.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Prometheus {
    /// Scrapes `target` once a second with the token of a file. It keeps its files in `folder`.
    pub fn start(program: &str, folder: &Path, target: &str, token_file: &str) -> Self {
        let configuration = folder.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: lighter\n    \
             authorization: {{ credentials_file: \"{token_file}\" }}\n    \
             static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        fs::write(&configuration, text).expect("write Prometheus' configuration");
        let process = Call::new(
            program,
            [
                format!("--config.file={}", configuration.display()),
                format!(
                    "--storage.tsdb.path={}",
                    folder.join("prometheus").display()
                ),
                format!("--web.listen-address={ADDRESS}"),
            ],
        )
        .spawn();
        let end = Instant::now() + LIMIT;
        let ready = format!("http://{ADDRESS}/-/ready");
        let is_ready = || {
            let output = Call::new("curl", ["--silent", "--fail", &ready]).output();
            output.status.success()
        };
        while !is_ready() {
            assert!(Instant::now() < end, "Prometheus: {}", process.stderr());
            thread::sleep(Duration::from_millis(100));
        }
        Self { _process: process }
    }

    /// What a panel shows since `begin`.
    ///
    /// # Errors
    /// Prometheus refuses a query, or has nothing for it.
    pub fn lines(&self, panel: &Panel, begin: SystemTime) -> Result<Vec<Line>, Box<dyn Error>> {
        let seconds = |time: SystemTime| -> Result<u64, Box<dyn Error>> {
            Ok(time.duration_since(UNIX_EPOCH)?.as_secs())
        };
        let mut lines = Vec::new();
        for target in &panel.targets {
            let query = target
                .expr
                .replace("$__rate_interval", RATE_INTERVAL)
                // The pods' own: the node may keep counters of others.
                .replace("$namespace", "default")
                .replace("$pod", ".*");
            let parameters = [
                format!("query={query}"),
                format!("start={}", seconds(begin)?),
                format!("end={}", seconds(SystemTime::now())?),
                "step=1".to_owned(),
            ];
            let mut arguments = vec!["--silent".to_owned(), "--get".to_owned()];
            for parameter in parameters {
                arguments.extend(["--data-urlencode".to_owned(), parameter]);
            }
            arguments.push(format!("http://{ADDRESS}/api/v1/query_range"));
            let answer: Value = serde_json::from_str(&Call::new("curl", arguments).ok())?;
            let found = answer["data"]["result"].as_array().cloned();
            let found = found.ok_or_else(|| format!("{query}: {answer}"))?;
            if found.is_empty() {
                return Err(format!("the panel {:?} is empty: {query}", panel.title).into());
            }
            lines.extend(found.iter().map(|series| line(series, &target.legend)));
        }
        Ok(lines)
    }
}

fn line(series: &Value, legend: &str) -> Line {
    let mut name = legend.to_owned();
    for (label, value) in series["metric"].as_object().into_iter().flatten() {
        name = name.replace(
            &format!("{{{{{label}}}}}"),
            value.as_str().unwrap_or_default(),
        );
    }
    let number = |value: &Value| -> Option<f64> {
        let number = value.as_str()?.parse::<f64>().ok()?;
        number.is_finite().then_some(number)
    };
    let points = series["values"].as_array().into_iter().flatten();
    Line {
        name,
        points: points
            .filter_map(|point| Some((point[0].as_f64()?, number(&point[1])?)))
            .collect(),
    }
}
