//! Ends the process when a signal would, also when it is the first of its PID namespace.
#![allow(unsafe_code)] // Signal handlers: sigaction, and functions called by their address.

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{c_int, c_void, sigaction, siginfo_t};
use nix::fcntl::OFlag;

/// Signals by which the kernel reports that an instruction failed. Wasmtime (for traps) and
/// Rust (for overflown stacks) have handlers for them.
const FAULTS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// Every other signal, real-time ones apart, whose default action is to end the process
/// (`man 7 signal`). SIGKILL needs no handler.
const OTHERS: [c_int; 18] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSYS,
];

/// What handled each of [`FAULTS`] before, in that order. Set before the handlers are.
static PREVIOUS: OnceLock<[sigaction; FAULTS.len()]> = OnceLock::new();

/// From now on, every signal that ends a process by default ends this one with the exit
/// status 128 + signal, and no signal is blocked in the calling thread (and the threads that
/// it starts).
///
/// The kernel discards signals for the first process of a PID namespace unless it has a handler
/// for them: without this, no SIGTERM would end a guest. The handler calls `_exit`, hence a busy
/// loop ends too. A SIGPIPE that the process caused itself, by writing to a pipe that nobody
/// reads, is swallowed, so that the guest sees EPIPE. Faults go on to whoever handled
/// them before; it does not matter whether the engine was made before or after this call.
/// A second call changes nothing.
pub fn exit_on_fatal_signals() {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if !INSTALLED.swap(true, Ordering::SeqCst) {
        PREVIOUS.get_or_init(|| FAULTS.map(current_action));
        let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
        for signal in FAULTS.into_iter().chain(OTHERS).chain(real_time) {
            install(signal);
        }
    }
    unblock_all();
}

/// The signals that ask a service to end: the one that stops containers, and that of Ctrl-C.
const REQUESTS_TO_END: [c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// The pipe that the next of [`REQUESTS_TO_END`] is told to instead of ending the process; -1 for
/// none.
static TERMINATION: AtomicI32 = AtomicI32::new(-1);

/// From now on, the first SIGTERM or SIGINT makes the returned pipe readable instead of ending the
/// process. A second one ends it, whichever of the two.
///
/// # Errors
/// No pipe could be made.
pub(crate) fn on_termination() -> nix::Result<OwnedFd> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    TERMINATION.store(writer.as_raw_fd(), Ordering::SeqCst);
    // It has to be open as long as a signal can come.
    std::mem::forget(writer);
    Ok(reader)
}

/// Whether a request to end was handed to whoever waits for it.
fn told_termination() -> bool {
    let pipe = TERMINATION.swap(-1, Ordering::SeqCst);
    // SAFETY: write is async-signal-safe, the byte is static, and the descriptor is never closed.
    pipe >= 0 && unsafe { libc::write(pipe, c"t".as_ptr().cast(), 1) } == 1
}

fn current_action(signal: c_int) -> sigaction {
    // SAFETY: all zeroes is a valid sigaction (SIG_DFL), and the kernel only writes to it.
    unsafe {
        let mut action: sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &mut action);
        action
    }
}

fn install(signal: c_int) {
    // SAFETY: `on_signal` has the signature that SA_SIGINFO asks for and calls only what may be
    // called in a handler. The flags are those of Wasmtime's own handler, to which faults go on.
    unsafe {
        let mut action: sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        // It fails only for numbers that the C library keeps for itself, and there are none here.
        libc::sigaction(signal, &action, ptr::null_mut());
    }
}

fn unblock_all() {
    // SAFETY: `set` is a local that sigfillset initialises.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
}

extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo_t. `getpid` and `_exit` are async-signal-safe.
    // A code above zero says that the kernel itself made the signal, because of an instruction
    // of this thread: then `forward` passes on what this function was called with.
    unsafe {
        if signal == libc::SIGPIPE && (*info).si_pid() == libc::getpid() {
            return;
        }
        if REQUESTS_TO_END.contains(&signal) && told_termination() {
            return;
        }
        let forwarded = (*info).si_code > 0 && forward(signal, info, context);
        if !forwarded {
            libc::_exit(128 + signal);
        }
    }
}

/// Calls the handler that was there before; false when there was none.
///
/// # Safety
/// The arguments are those of a signal handler that is running now.
unsafe fn forward(signal: c_int, info: *mut siginfo_t, context: *mut c_void) -> bool {
    let Some(position) = FAULTS.iter().position(|fault| *fault == signal) else {
        return false;
    };
    let Some(previous) = PREVIOUS.get().map(|actions| &actions[position]) else {
        return false;
    };
    if previous.sa_sigaction == libc::SIG_DFL || previous.sa_sigaction == libc::SIG_IGN {
        return false;
    }
    // SAFETY: the kernel had this address as the handler of `signal`, and SA_SIGINFO says which
    // of the two signatures it has.
    unsafe {
        if previous.sa_flags & libc::SA_SIGINFO != 0 {
            type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);
            std::mem::transmute::<usize, Handler>(previous.sa_sigaction)(signal, info, context);
        } else {
            std::mem::transmute::<usize, extern "C" fn(c_int)>(previous.sa_sigaction)(signal);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_ends_a_process_is_listed() {
        // Linux gives these another default action: ignore, stop or continue.
        let harmless = [
            libc::SIGCHLD,
            libc::SIGURG,
            libc::SIGWINCH,
            libc::SIGCONT,
            libc::SIGSTOP,
            libc::SIGTSTP,
            libc::SIGTTIN,
            libc::SIGTTOU,
        ];
        for signal in 1..32 {
            let listed = FAULTS.contains(&signal) || OTHERS.contains(&signal);
            let expected = signal != libc::SIGKILL && !harmless.contains(&signal);
            assert_eq!(listed, expected, "signal {signal}");
        }
    }
}
