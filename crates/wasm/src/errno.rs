//! Which error of the kernel a guest sees.
//!
//! Symptom: wasmtime-wasi knows about half of the kernel's errors and makes EIO of the others, so
//! that a program does not fall back: to a copy where a rename leads to another volume (EXDEV), to
//! another folder where this one is read-only (EROFS).
//!
//! Fix: it says every error that it does not know to `tracing`, by its text and as what it makes
//! of it, and returns at once. [`listen`] hears that in the guest's threads, and what is between it
//! and the guest ([`preview1`], [`preview2`]) answers with what was heard. No such error is made
//! between two of those without one of them asking, as both do in the same poll.
//!
//! Upstream: `from_raw_os_error` in wasmtime-wasi's `filesystem.rs` and `p2/host/filesystem.rs`; a patch would make this
//! file superfluous. 0.3, which is experimental, is left as it is.

mod preview1;
mod preview2;

use std::cell::Cell;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

pub(crate) use self::preview1::add_to_module_linker;
pub(crate) use self::preview2::add_to_component_linker;

/// EIO in preview 1.
const IO: i32 = 29;

/// Errors that wasmtime-wasi does not know: the kernel's number, that of preview 1, and the code of
/// 0.2. What 0.2 has no code for is the nearest that it has.
const UNKNOWN: [(i32, i32, ErrorCode); 15] = [
    (libc::EAGAIN, 6, ErrorCode::WouldBlock),
    (libc::EDEADLK, 16, ErrorCode::Deadlock),
    (libc::EDQUOT, 19, ErrorCode::Quota),
    (libc::EMFILE, 33, ErrorCode::InsufficientMemory),
    (libc::EMSGSIZE, 35, ErrorCode::MessageSize),
    (libc::ENFILE, 41, ErrorCode::InsufficientMemory),
    (libc::ENODEV, 43, ErrorCode::NoDevice),
    (libc::ENOLCK, 46, ErrorCode::NoLock),
    (libc::ENOSYS, 52, ErrorCode::Unsupported),
    (libc::ENOTRECOVERABLE, 56, ErrorCode::NotRecoverable),
    (libc::ENOTTY, 59, ErrorCode::NoTty),
    (libc::ENXIO, 60, ErrorCode::NoSuchDevice),
    (libc::EROFS, 69, ErrorCode::ReadOnly),
    (libc::ETXTBSY, 74, ErrorCode::TextFileBusy),
    (libc::EXDEV, 75, ErrorCode::CrossDevice),
];

/// The modules of wasmtime-wasi that convert errors: of the kernel to its own, and of streams to those
/// of 0.2.
const CONVERSIONS: [&str; 2] = [
    "wasmtime_wasi::filesystem",
    "wasmtime_wasi::p2::host::filesystem",
];

thread_local! {
    /// The last error of the kernel that wasmtime-wasi did not know, until somebody asks.
    static HEARD: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Hears of errors in this thread, as long as the guard is there.
pub(crate) fn listen() -> DefaultGuard {
    tracing::subscriber::set_default(Listener)
}

/// What was heard of the call that has just returned.
fn heard() -> Option<&'static (i32, i32, ErrorCode)> {
    let number = HEARD.take()?;
    UNKNOWN.iter().find(|(known, ..)| *known == number)
}

/// What preview 1 returns instead of `errno`.
fn errno(errno: i32) -> i32 {
    match heard() {
        Some((_, real, _)) if errno == IO => *real,
        _ => errno,
    }
}

/// What 0.2 returns instead of `code`.
fn error_code(code: ErrorCode) -> ErrorCode {
    match heard() {
        Some((.., real)) if matches!(code, ErrorCode::Io) => *real,
        _ => code,
    }
}

/// Hears these conversions, and nothing else.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() == Level::DEBUG
            && CONVERSIONS.contains(&metadata.target())
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Number);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Keeps the number in the text of an event.
struct Number;

impl Visit for Number {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            HEARD.set(number_in(&format!("{value:?}")));
        }
    }
}

/// The number in the text of an error of the kernel, as the standard library writes it.
fn number_in(text: &str) -> Option<i32> {
    let (_, rest) = text.rsplit_once("(os error ")?;
    rest.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// What becomes of an error of the kernel, in 0.2 and in preview 1.
    fn converted(number: i32) -> (ErrorCode, i32) {
        let convert = || ErrorCode::from(io::Error::from_raw_os_error(number));
        let code = error_code(convert());
        convert();
        (code, errno(IO))
    }

    #[test]
    fn errors_that_wasmtime_does_not_know_are_what_they_are() {
        let _listening = listen();
        for (number, errno, code) in UNKNOWN {
            assert_eq!(converted(number), (code, errno));
        }
        assert_eq!(converted(libc::EIO), (ErrorCode::Io, IO));
        assert_eq!(converted(libc::ENOENT), (ErrorCode::NoEntry, IO));
        // One that nobody knows.
        assert_eq!(converted(libc::EISNAM), (ErrorCode::Io, IO));
    }

    #[test]
    fn what_was_heard_is_for_one_call() {
        let _listening = listen();
        let _ = ErrorCode::from(io::Error::from_raw_os_error(libc::EXDEV));
        assert_eq!(errno(0), 0);
        assert_eq!(errno(IO), IO);
        let _ = ErrorCode::from(io::Error::from_raw_os_error(libc::EXDEV));
        assert_eq!(error_code(ErrorCode::NoEntry), ErrorCode::NoEntry);
        assert_eq!(error_code(ErrorCode::Io), ErrorCode::Io);
    }
}
