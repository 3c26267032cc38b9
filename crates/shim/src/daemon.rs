//! The shim itself: a program that `start` executes, and that serves one pod.
//!
//! It is this same file, executed through a mount that nobody can write to: each guest and each
//! init is a fork of the shim, so `/proc/PID/exe` of a container's process leads to the file.
//!
//! ```text
//! stdin    the reading end of a pipe: one byte when `start` has answered, or the end of file
//! stdout   the socket that it listens on
//! HANDOVER what it has to know, in the environment
//! ```
// Wiping the environment and closing what was inherited have no safe form.
#![allow(unsafe_code)]

use std::error::Error;
use std::fs::OpenOptions;
use std::future::pending;
use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lighter_core::ContainerId;
use lighter_seal::SealedExecutable;
use lighter_task::{Publisher, SpanSender, block_signals};
use lighter_trace::Settings;
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;

use crate::arguments::Arguments;
use crate::runtime::ForkingRuntime;
use crate::{logger, socket};

/// The variable with the [`Handover`].
const HANDOVER: &str = "LIGHTER_SHIM";
/// Bytes of that variable at least. The command line and the environment are the room in which
/// the command line of a guest is shown.
const TITLE_ROOM: usize = 1024;
/// How many seconds a shim waits for its first task. Longer than any caller of containerd: kubelet has
/// given up after four minutes.
pub(crate) const UNUSED_SECONDS: u64 = 10 * 60;

/// What `start` knows, and the shim has to. It is in the memory of each guest, and holds no secret.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Handover {
    /// The file of the socket.
    pub(crate) socket: PathBuf,
    /// Where containerd takes events.
    pub(crate) events: String,
    /// Namespace and name of the pod.
    pub(crate) pod: Option<String>,
    /// How spans are made, if they are.
    pub(crate) trace: Option<Settings>,
    /// The program of the compile worker.
    pub(crate) compiler: PathBuf,
    /// What the shim has to say about its own start.
    pub(crate) warning: Option<String>,
    /// Seconds after which the shim ends if it got no task.
    pub(crate) unused_seconds: u64,
}

/// A shim whose address nobody has yet: it ends if this is dropped, and if this process ends.
pub(crate) struct Starting {
    shim: PipeWriter,
}

impl Starting {
    /// Tells the shim that its address is known from now on.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.shim.write_all(b"\n")
    }
}

/// Executes the shim, which serves `listener`. `program` is the path of this program.
#[expect(
    clippy::disallowed_methods,
    reason = "`start` is no shim, and ends before its child"
)]
pub(crate) fn execute(
    listener: UnixListener,
    program: &Path,
    arguments: &Arguments,
    mut handover: Handover,
) -> io::Result<Starting> {
    // Not by that path: it may have been replaced.
    let sealed = SealedExecutable::open("/proc/self/exe".as_ref())?;
    handover.warning = sealed.copied().map(|cause| {
        format!(
            "the shim runs from a copy of its program, which takes memory for each pod: {cause}"
        )
    });
    let (start, shim) = io::pipe()?;
    let handover = serde_json::to_string(&handover)?;
    let mut command = Command::new(sealed.path());
    // SAFETY: the closure does nothing. With one, the standard library forks and executes; otherwise it
    // calls posix_spawn, by which the C library leaves its own signals 32 and 33 ignored in the shim, and
    // so in every program of a container.
    unsafe { command.pre_exec(|| Ok(())) };
    command
        // Those who look for shims know them by this path.
        .arg0(program)
        .args(["-namespace", &arguments.namespace])
        .args(["-id", &arguments.id])
        .args(["-address", &arguments.address])
        .args(arguments.debug.then_some("-debug"))
        .arg("serve")
        // containerd's environment may hold passwords (of a proxy, say) and is not for a guest's
        // memory.
        .env_clear()
        .env(HANDOVER, format!("{handover:<TITLE_ROOM$}"))
        .stdin(start)
        .stdout(OwnedFd::from(listener))
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Starting { shim })
}

/// Runs the shim to its end.
pub(crate) fn serve(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let handover = std::env::var(HANDOVER)
        .map_err(|_| "cannot serve: only `start` executes the shim, and says what for")?;
    let handover: Handover = serde_json::from_str(&handover)?;
    close_inherited();
    // The log FIFO is in the bundle, which is the working directory until now.
    logger::start(arguments.debug, handover.pod.clone());
    if let Some(warning) = &handover.warning {
        log::warn!("{warning}");
    }
    let path = handover.socket.clone();
    run(arguments, handover).map_err(|error| {
        log::error!("the shim ends: {error}");
        socket::remove(&path);
        error
    })
}

fn run(arguments: &Arguments, handover: Handover) -> Result<(), Box<dyn Error>> {
    let (namespace, _) = arguments.container()?;
    let start = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = UnixListener::from(io::stdout().as_fd().try_clone_to_owned()?);
    leave_caller()?;
    block_signals()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?
        .block_on(accept(namespace, arguments, handover, start, listener))?;
    Ok(())
}

async fn accept(
    namespace: ContainerId,
    arguments: &Arguments,
    handover: Handover,
    start: OwnedFd,
    listener: UnixListener,
) -> io::Result<()> {
    let Handover {
        socket,
        events,
        trace,
        compiler,
        unused_seconds,
        ..
    } = handover;
    let publisher = Publisher::start(&events, namespace.as_str());
    let spans = trace
        .as_ref()
        .map(|settings| SpanSender::start(settings, namespace.as_str()))
        .transpose()?;
    let start = pipe::Receiver::from_owned_fd(start)?;
    let unwanted = async {
        tokio::select! {
            () = abandoned(start) => {}
            () = tokio::time::sleep(Duration::from_secs(unused_seconds)) => {}
        }
    };
    let runtime = ForkingRuntime::new(namespace, &arguments.address, compiler, trace);
    let withdraw = || socket::remove(&socket);
    lighter_task::serve(
        listener,
        Box::new(runtime),
        publisher,
        spans,
        unwanted,
        withdraw,
    )
    .await
}

/// Waits for the end of a `start` that has not answered: nobody knows this shim then.
async fn abandoned(start: pipe::Receiver) {
    loop {
        if start.readable().await.is_err() {
            return;
        }
        match start.try_read(&mut [0]) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    drop(start);
    pending().await
}

/// Becomes a process of its own: session, stdio, folder, children, OOM score, name.
fn leave_caller() -> io::Result<()> {
    raise_oom_score();
    nix::unistd::setsid()?;
    nix::sys::prctl::set_child_subreaper(true)?;
    // It was executed by a descriptor's path, of which the kernel makes a number.
    nix::sys::prctl::set_name(c"containerd-shim-wasmtime-v1")?;
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for fd in 0..3 {
        // SAFETY: replaces stdio, which this process owns; what it was is open elsewhere.
        unsafe { libc::dup2(null.as_raw_fd(), fd) };
    }
    // SAFETY: one thread, and nothing has kept a reference to a variable.
    unsafe { libc::clearenv() };
    lighter_container::find_process_title();
    Ok(())
}

/// Closes all but stdio: the descriptor that this program was executed by, and whatever
/// containerd may have passed on.
fn close_inherited() {
    // SAFETY: nothing has been opened yet, so nothing refers to what is closed.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
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
