//! How a guest's end becomes an [`ExitReason`], and what is said about it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use lighter_core::{Counters, ExitReason, TrapKind};
use wasmtime::{ThrownException, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The reason for which a call into the guest `name` failed, and the text for its stderr, empty
/// when the guest just called exit. A trap is counted.
pub(crate) fn of_error(
    name: &str,
    error: &wasmtime::Error,
    counters: &Counters,
) -> (ExitReason, String) {
    if let Some(I32Exit(status)) = error.downcast_ref() {
        // A process gives its parent the lowest eight bits of its status, and so do we.
        return (ExitReason::Exited(*status as u8), String::new());
    }
    let cause = if let Some(Trap::OutOfFuel) = error.downcast_ref() {
        "it has executed as many instructions as its fuel allows".to_owned()
    } else {
        error.root_cause().to_string()
    };
    let Some(kind) = trap_kind(error) else {
        return (
            ExitReason::HostFailure,
            format!("lighter: cannot run {name}: {error:#}\n"),
        );
    };
    counters.trapped(kind);
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let mut text = format!("lighter: {name} trapped: {cause}\n");
    if let Some(backtrace) = backtrace.filter(|backtrace| !backtrace.frames().is_empty()) {
        let frames = backtrace.to_string();
        // Wasmtime puts a heading on the frames that repeats what the line above says.
        let frames = frames
            .split_once('\n')
            .map_or(frames.as_str(), |(_, rest)| rest);
        text.push_str(&format!("wasm backtrace:\n{}\n", frames.trim_end()));
    }
    (ExitReason::Trapped, text)
}

/// Why the guest trapped; `None` if it did not, and the host is at fault.
fn trap_kind(error: &wasmtime::Error) -> Option<TrapKind> {
    let kind = match error.downcast_ref() {
        Some(Trap::UnreachableCodeReached) => TrapKind::Unreachable,
        Some(Trap::MemoryOutOfBounds | Trap::HeapMisaligned) => TrapKind::MemoryOutOfBounds,
        Some(Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature) => {
            TrapKind::IndirectCall
        }
        Some(
            Trap::IntegerDivisionByZero | Trap::IntegerOverflow | Trap::BadConversionToInteger,
        ) => TrapKind::Arithmetic,
        Some(Trap::StackOverflow) => TrapKind::StackOverflow,
        Some(Trap::OutOfFuel) => TrapKind::OutOfFuel,
        Some(_) => TrapKind::Other,
        None if error.is::<ThrownException>() => TrapKind::Exception,
        None if error.is::<WasmBacktrace>() => TrapKind::Other,
        None => return None,
    };
    Some(kind)
}

/// Where Kubernetes reads why a container ended (`terminationMessagePath`, by default): a file
/// that the kubelet mounts.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// Bytes of it that the kubelet shows.
const TERMINATION_BYTES: usize = 4096;

/// Says why the container ends: on stderr, and where `kubectl describe` shows it.
pub(crate) fn say(text: &str) {
    write_to_stderr(text);
    let file = std::fs::OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(TERMINATION_LOG);
    if let Ok(mut file) = file
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
    {
        let end = text.floor_char_boundary(TERMINATION_BYTES);
        let _ = file.write_all(&text.as_bytes()[..end]);
    }
}

/// Tells whoever reads the container's log what the host did, in one line.
pub(crate) fn complain(message: &str) {
    write_to_stderr(&format!("lighter: {message}\n"));
}

/// Writes to descriptor 2. There is nobody to tell if that fails.
pub(crate) fn write_to_stderr(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(std::io::stderr(), rest) {
            Ok(0) => return,
            Ok(count) => rest = &rest[count..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_keeps_the_lowest_eight_bits() {
        for (status, expected) in [(0, 0), (7, 7), (255, 255), (256, 0), (-1, 255)] {
            let (reason, text) = of_error("app", &I32Exit(status).into(), Default::default());
            assert_eq!(reason, ExitReason::Exited(expected));
            assert_eq!(text, "");
        }
    }

    #[test]
    fn a_trap_is_told_from_a_failure_of_the_host() {
        let (reason, text) = of_error(
            "/app.wasm",
            &Trap::MemoryOutOfBounds.into(),
            Default::default(),
        );
        assert_eq!(reason, ExitReason::Trapped);
        assert!(text.starts_with("lighter: /app.wasm trapped: "), "{text}");
        assert!(text.contains("out of bounds memory access"), "{text}");

        let (reason, text) = of_error(
            "app",
            &wasmtime::Error::msg("no memory left"),
            Default::default(),
        );
        assert_eq!(reason, ExitReason::HostFailure);
        assert_eq!(text, "lighter: cannot run app: no memory left\n");
    }
}
