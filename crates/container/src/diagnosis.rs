//! What init and libcontainer say about a create that fails.
//!
//! Init is another process than the operation. libcontainer's init passes on only the
//! outermost text of an error ("failed to prepare rootfs") and logs the cause, and our own
//! checks in init have a class of their own. Both go into one memory file that the operation
//! and the processes it clones share.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use lighter_core::{ErrorClass, Failure};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Most of the text that is kept, in bytes.
const LIMIT: u64 = 16 * 1024;
/// How libcontainer's causes begin that are the fault of the spec or the image. Its types do not tell.
const SPEC_FAULTS: [&str; 3] = [
    "failed to chdir",
    "failed to verify cwd",
    "failed to canonicalize",
];
/// Starts a line that holds one of our own failures as JSON. Log lines have no such byte.
const FAILURE: char = '\u{1}';

/// The errors of this operation, in all of its processes.
#[derive(Clone)]
pub(crate) struct Diagnosis {
    file: Rc<RefCell<File>>,
    /// That of the log of errors.
    log: RawFd,
}

/// Whether this process has become its program, which may have anything else by the log's number.
static ENDED: AtomicBool = AtomicBool::new(false);

impl Diagnosis {
    /// Starts to keep errors. Once for each process.
    pub(crate) fn start() -> std::io::Result<Self> {
        let file = File::from(nix::sys::memfd::memfd_create(
            c"lighter-diagnosis",
            nix::sys::memfd::MFdFlags::MFD_CLOEXEC,
        )?);
        let log = ErrorLog {
            file: file.try_clone()?,
        };
        let descriptor = log.file.as_raw_fd();
        let _ = tracing::subscriber::set_global_default(log);
        Ok(Self {
            file: Rc::new(RefCell::new(file)),
            log: descriptor,
        })
    }

    /// The descriptors of the memory file.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.file.borrow().as_raw_fd(), self.log]
    }

    /// Keeps nothing any more: this process is about to become its program.
    pub(crate) fn end(&self) {
        ENDED.store(true, Ordering::Relaxed);
    }

    /// Keeps a failure that this process found, to be answered as it is.
    pub(crate) fn report(&self, failure: &Failure) {
        if let Ok(json) = serde_json::to_string(failure) {
            let _ = writeln!(self.file.borrow_mut(), "{FAILURE}{json}");
        }
    }

    /// What to answer for `failure`: our own failure if one was reported, else `failure` with
    /// the first error that was logged, which is the innermost and so the cause.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let text = self.text().unwrap_or_default();
        let reported = text
            .lines()
            .find_map(|line| serde_json::from_str(line.strip_prefix(FAILURE)?).ok());
        if let Some(reported) = reported {
            return reported;
        }
        match text.lines().next().map(str::trim) {
            Some(cause) if !failure.message.contains(cause) => {
                let is_of_spec = SPEC_FAULTS.iter().any(|fault| cause.starts_with(fault));
                let class = if is_of_spec {
                    ErrorClass::InvalidArgument
                } else {
                    failure.class
                };
                Failure::new(class, format!("{}: {cause}", failure.message))
            }
            _ => failure,
        }
    }

    fn text(&self) -> std::io::Result<String> {
        let mut file = self.file.borrow_mut();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        (&*file).take(LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A subscriber that writes events of level error to a file, one a line.
struct ErrorLog {
    file: File,
}

impl Subscriber for ErrorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.is_event()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if ENDED.load(Ordering::Relaxed) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.text.replace(|c: char| c.is_control(), " ");
        if self.file.metadata().is_ok_and(|file| file.len() < LIMIT) {
            // All processes of the operation share the offset, so lines follow each other.
            let _ = writeln!(&self.file, "{}", text.trim());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Line {
    text: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.text.insert_str(0, &format!("{value:?} "));
        } else {
            let _ = write!(self.text, "{}={value:?} ", field.name());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_added_and_an_own_failure_wins() {
        let diagnosis = Diagnosis::start().unwrap();
        let outer = Failure::internal("cannot create container a: failed to prepare rootfs");
        assert_eq!(diagnosis.explain(outer.clone()), outer);

        tracing::error!(path = "/missing", "failed to find\nthe source");
        tracing::error!("failed to mount");
        assert_eq!(
            diagnosis.explain(outer.clone()).message,
            "cannot create container a: failed to prepare rootfs: failed to find the source path=\"/missing\""
        );

        let diagnosis = Diagnosis::start().unwrap();
        diagnosis
            .file
            .borrow_mut()
            .write_all(b"failed to chdir e=ENOENT\n")
            .unwrap();
        assert_eq!(
            diagnosis.explain(outer.clone()).class,
            ErrorClass::InvalidArgument
        );

        let own = Failure::new(ErrorClass::InvalidArgument, "no such\nprogram");
        diagnosis.report(&own);
        assert_eq!(diagnosis.explain(outer), own);
    }
}
