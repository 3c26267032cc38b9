//! Log lines to containerd's log, through the FIFO `log` of the bundle.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

/// Starts to log. Without a FIFO (a start by hand) nothing is logged.
///
/// Opened for reading too, so that a restart of containerd does not break it, and without
/// blocking: a line that nobody reads is lost before the shim waits for it.
pub(crate) fn start(debug: bool) {
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
        let _ = log::set_boxed_logger(Box::new(FifoLog { fifo }));
    }
}

struct FifoLog {
    fifo: File,
}

impl Log for FifoLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries below info are chatty: ttrpc logs each message.
        metadata.target().starts_with("lighter") || metadata.level() <= LevelFilter::Info
    }

    /// Writes containerd's own form, logfmt, in one write, so that lines do not mix.
    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let seconds = SystemTime::UNIX_EPOCH
                .elapsed()
                .unwrap_or_default()
                .as_secs_f64();
            let level = record.level().as_str().to_lowercase();
            let message = record.args().to_string();
            let line =
                format!("time={seconds:.6} level={level} runtime=wasmtime msg={message:?}\n");
            let _ = (&self.fifo).write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}
