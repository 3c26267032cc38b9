//! Log lines to containerd's log, through the FIFO `log` of the bundle.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

/// Starts to log. Without a FIFO (a start by hand) nothing is logged.
///
/// Opened for reading too, so that a restart of containerd does not break it, and without
/// blocking: a line that nobody reads is lost before the shim waits for it.
///
/// `pod` is the pod that is served, if it is one of Kubernetes: each line names it.
pub(crate) fn start(debug: bool, pod: Option<String>) {
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("log");
    if let Ok(fifo) = fifo {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
        let _ = log::set_boxed_logger(Box::new(FifoLog { fifo, pod }));
    }
}

struct FifoLog {
    fifo: File,
    pod: Option<String>,
}

impl Log for FifoLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries below info are chatty: ttrpc logs each message.
        metadata.target().starts_with("lighter") || metadata.level() <= LevelFilter::Info
    }

    /// One write, so that lines do not mix.
    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(record, self.pod.as_deref(), SystemTime::now());
            let _ = (&self.fifo).write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// A line in containerd's own form, logfmt.
fn line(record: &Record<'_>, pod: Option<&str>, time: SystemTime) -> String {
    let time = humantime::format_rfc3339_nanos(time);
    let level = record.level().as_str().to_lowercase();
    let message = record.args().to_string();
    let mut line = format!("time={time} level={level} runtime=wasmtime msg={message:?}");
    if let Some(pod) = pod {
        let _ = write!(line, " pod={pod:?}");
    }
    let _ = record.key_values().visit(&mut Fields(&mut line));
    line.push('\n');
    line
}

struct Fields<'a>(&'a mut String);

impl VisitSource<'_> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'_>, value: Value<'_>) -> Result<(), log::kv::Error> {
        let value = value.to_string();
        write!(self.0, " {key}={value:?}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_pod_and_container_and_stays_one() {
        let fields = [("container", "a")];
        let record = Record::builder()
            .level(log::Level::Error)
            .args(format_args!("it says \"no\"\nand more"))
            .key_values(&fields)
            .build();
        let line = line(&record, Some("default/shop"), SystemTime::UNIX_EPOCH);
        assert_eq!(
            line,
            "time=1970-01-01T00:00:00.000000000Z level=error runtime=wasmtime \
             msg=\"it says \\\"no\\\"\\nand more\" pod=\"default/shop\" container=\"a\"\n"
        );
    }
}
