//! The shim itself: a fork of `start` that serves one pod.
// fork, and zeroing the environment that containerd gave, have no safe form.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use lighter_core::ContainerId;
use lighter_task::{Publisher, SpanSender, block_signals, serve};
use lighter_trace::Settings;

use crate::runtime::ForkingRuntime;
use crate::{logger, socket};

/// Where containerd listens.
pub(crate) struct Addresses {
    /// For events.
    pub(crate) ttrpc: String,
    /// For everything else.
    pub(crate) grpc: String,
}

/// Forks the shim. Returns in the parent, which prints the address and ends.
pub(crate) fn fork(
    listener: UnixListener,
    path: PathBuf,
    namespace: ContainerId,
    addresses: &Addresses,
    debug: bool,
    pod: Option<String>,
    trace: Option<Settings>,
) -> io::Result<()> {
    // SAFETY: the process has one thread, and no runtime yet.
    match unsafe { libc::fork() } {
        -1 => {
            let error = io::Error::last_os_error();
            socket::remove(&path);
            Err(error)
        }
        0 => {
            let code = match run(listener, &path, namespace, addresses, debug, pod, trace) {
                Ok(()) => 0,
                Err(error) => {
                    log::error!("the shim ends: {error}");
                    1
                }
            };
            socket::remove(&path);
            std::process::exit(code)
        }
        _ => Ok(()),
    }
}

fn run(
    listener: UnixListener,
    path: &Path,
    namespace: ContainerId,
    addresses: &Addresses,
    debug: bool,
    pod: Option<String>,
    trace: Option<Settings>,
) -> io::Result<()> {
    // The log FIFO is in the bundle, which is the working directory until now.
    logger::start(debug, pod);
    leave_caller()?;
    block_signals()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?
        .block_on(async {
            let publisher = Publisher::start(&addresses.ttrpc, namespace.as_str());
            let spans = trace
                .as_ref()
                .map(|settings| SpanSender::start(settings, namespace.as_str()))
                .transpose()?;
            let runtime = ForkingRuntime::new(namespace, &addresses.grpc, trace)?;
            let withdraw = || socket::remove(path);
            serve(listener, Box::new(runtime), publisher, spans, withdraw).await
        })
}

/// Becomes a process of its own: session, stdio, folder, children, OOM score.
fn leave_caller() -> io::Result<()> {
    raise_oom_score();
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: replaces stdio, which this process owns; containerd waits for its end.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
    }
    wipe_environment();
    lighter_container::find_process_title();
    Ok(())
}

/// The kernel shall kill a shim before containerd (containerd `docs/runtime-v2.md`): the score
/// of containerd, which this process has inherited, plus one.
fn raise_oom_score() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let score = std::fs::read_to_string(PATH)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = score.filter(|score| *score < 1000) {
        let _ = std::fs::write(PATH, (score + 1).to_string());
    }
}

/// Every guest's process is a copy of this one. containerd's environment may hold passwords
/// (of a proxy, say) and is not for a guest's memory.
fn wipe_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: one thread; environ is a NULL-terminated list of C strings in memory of this
    // process that is writable, and nothing has kept a reference into it.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            libc::memset((*entry).cast(), 0, libc::strlen(*entry));
            entry = entry.add(1);
        }
        libc::clearenv();
    }
}
