//! What a process of a container runs once it has been set up: the image's program, or a guest.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::oci_spec::runtime::{Process, Spec};
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use lighter_core::{Counters, ExitReason, Failure};
use lighter_trace::GuestTrace;
use nix::errno::Errno;

use crate::diagnosis::Diagnosis;
use crate::entrypoint;
use crate::memory_limit::MemoryLimit;
use crate::{console, descriptors, init, title};

/// A program that runs inside init, without an execve.
pub trait Guest {
    /// Runs to the end. It is called in the container's namespaces, as its user, with its
    /// stdio as descriptors 0 to 2; init ends with what it returns.
    fn run(self: Box<Self>, process: GuestProcess) -> ExitReason;

    /// Descriptors that it needs then: nothing else that is open now stays open.
    ///
    /// # Errors
    /// When they cannot be found.
    fn descriptors(&self) -> std::io::Result<Vec<RawFd>>;

    /// The socket at which it expects one message with the `/proc/PID/pagemap` and the
    /// `/proc/PID/maps` of its process, open for reading; none if it needs neither. Its container
    /// has no procfs, and nothing of the host's may be open in it.
    fn take_memory_map_sender(&mut self) -> Option<OwnedFd>;
}

/// What execve would hand to a program.
#[derive(Clone, Debug)]
pub struct GuestProcess {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment in the order of the spec; the last of a name counts.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// What it has of its container.
    pub context: GuestContext,
}

/// What a guest's process has of its container, to read and to write.
#[derive(Clone, Debug, Default)]
pub struct GuestContext {
    /// The memory limit.
    pub memory_limit: Option<MemoryLimit>,
    /// Where it counts what it does.
    pub counters: &'static Counters,
    /// What it makes spans with, if they are wanted.
    pub trace: Option<GuestTrace>,
}

/// What the entrypoint of a container is.
pub enum Workload {
    /// A program of the image, run by execve.
    Native,
    /// A guest that was prepared outside the container.
    Guest {
        /// The guest.
        guest: Box<dyn Guest>,
        /// The file it was made from, as the container names it; a name only, if it was made
        /// from a layer.
        path: PathBuf,
        /// Device and inode of that file. Init checks that this is still the file it sees
        /// there, and that the container's user may read it. None if there is no file.
        identity: Option<(u64, u64)>,
    },
}

impl Workload {
    /// Descriptors that are open now and that it needs when it runs.
    pub(crate) fn descriptors(&self) -> Result<Vec<RawFd>, Failure> {
        match self {
            Self::Native => Ok(Vec::new()),
            Self::Guest { guest, .. } => guest.descriptors().map_err(|error| {
                Failure::internal(format!("cannot list the guest's descriptors: {error}"))
            }),
        }
    }

    /// See [`Guest::take_memory_map_sender`].
    pub(crate) fn take_memory_map_sender(&mut self) -> Option<OwnedFd> {
        match self {
            Self::Native => None,
            Self::Guest { guest, .. } => guest.take_memory_map_sender(),
        }
    }
}

/// The container's workload, as libcontainer wants it.
#[derive(Clone)]
pub(crate) struct ContainerExecutor {
    workload: Rc<RefCell<Option<Workload>>>,
    /// Descriptors that the program keeps.
    descriptors: Rc<Vec<RawFd>>,
    /// Whether stdio is a terminal that the guest's process has to take control of.
    terminal: bool,
    context: GuestContext,
    /// A working directory that libcontainer cannot enter, because it is created later.
    late_cwd: Option<PathBuf>,
    program: Rc<RefCell<PathBuf>>,
    diagnosis: Diagnosis,
}

impl ContainerExecutor {
    pub(crate) fn new(
        workload: Workload,
        descriptors: Vec<RawFd>,
        terminal: bool,
        context: GuestContext,
        diagnosis: Diagnosis,
    ) -> Self {
        Self {
            workload: Rc::new(RefCell::new(Some(workload))),
            descriptors: Rc::new(descriptors),
            terminal,
            context,
            late_cwd: None,
            program: Rc::default(),
            diagnosis,
        }
    }

    /// Enters `cwd` when the program starts. The spec that libcontainer has names another directory.
    pub(crate) fn with_late_cwd(mut self, cwd: Option<PathBuf>) -> Self {
        self.late_cwd = cwd;
        self
    }

    fn process(&self, spec: &Spec) -> GuestProcess {
        let process = spec.process().as_ref();
        let lines = process.and_then(|process| process.env().clone());
        let mut env: Vec<(String, String)> = lines
            .unwrap_or_default()
            .iter()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        // runc sets it where it is missing or empty.
        if !env
            .iter()
            .any(|(name, value)| name == "HOME" && !value.is_empty())
        {
            env.retain(|(name, _)| name != "HOME");
            let user = process.map_or(0, |process| process.user().uid());
            env.push(("HOME".to_owned(), home_of(user)));
        }
        let cwd = process.map(Process::cwd).map(PathBuf::as_path);
        let cwd = self.late_cwd.as_deref().or(cwd);
        let cwd = cwd.map(|cwd| cwd.to_string_lossy().into_owned());
        GuestProcess {
            args: process
                .and_then(|process| process.args().clone())
                .unwrap_or_default(),
            env,
            cwd: cwd
                .filter(|cwd| !cwd.is_empty())
                .unwrap_or_else(|| "/".to_owned()),
            context: self.context.clone(),
        }
    }

    /// Checks the program as the container's user sees it.
    pub(crate) fn check(&self, spec: &Spec) -> Result<(), Failure> {
        let process = self.process(spec);
        match &*self.workload.borrow() {
            Some(Workload::Guest { path, identity, .. }) => match identity {
                Some(identity) => entrypoint::check_guest(path, *identity),
                None => Ok(()),
            },
            _ => {
                let name = process.args.first().ok_or_else(|| {
                    Failure::invalid("the container has no entrypoint: process.args is empty")
                })?;
                *self.program.borrow_mut() =
                    entrypoint::find_executable(name, &process.env, &process.cwd)?;
                Ok(())
            }
        }
    }

    /// Closes what the process does not need any more. Before any path of the container is
    /// looked up.
    pub(crate) fn close_descriptors(&self, keep: impl IntoIterator<Item = RawFd>) {
        let own = self.descriptors.iter().copied();
        let keep = keep.into_iter().chain(self.diagnosis.descriptors());
        descriptors::close_others(own.chain(keep));
    }

    /// Becomes the program, or runs the guest and ends the process. Returns only if the
    /// program could not be executed; `report`, which execve closes, is still open then.
    pub(crate) fn run(&self, spec: &Spec, report: Option<RawFd>) -> NotExecuted {
        let process = self.process(spec);
        self.diagnosis.end();
        match self.workload.take() {
            Some(Workload::Guest { guest, path, .. }) => {
                if self.terminal
                    && let Err(error) = console::take_control()
                {
                    complain(&format!("the terminal is not the guest's own: {error}"));
                }
                run_guest(guest, process, &path.to_string_lossy(), &self.descriptors)
            }
            _ => {
                descriptors::close_others(report);
                if let Some(cwd) = &self.late_cwd
                    && let Err(errno) = nix::unistd::chdir(cwd)
                {
                    return NotExecuted {
                        message: cannot_enter(cwd, errno),
                        status: 126,
                    };
                }
                run_native(&self.program.borrow(), &process)
            }
        }
    }
}

/// Why a program could not be executed.
pub(crate) struct NotExecuted {
    pub(crate) message: String,
    /// The shell's: 127 if there is no such file, else 126.
    pub(crate) status: i32,
}

impl Executor for ContainerExecutor {
    /// Runs before Create is answered, so that what is wrong becomes Create's error.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.close_descriptors(descriptors::sockets());
        self.check(spec).map_err(|failure| {
            self.diagnosis.report(&failure);
            ExecutorValidationError::ArgValidationError(failure.message)
        })
    }

    /// libcontainer's map has lost the order of the environment: [`Self::process`] makes another.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    /// Start has been answered by now, so a failure can only be told on the container's stderr
    /// and by the exit status.
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failed = self.run(spec, None);
        complain(&failed.message);
        init::exit_now(failed.status)
    }
}

fn run_guest(guest: Box<dyn Guest>, process: GuestProcess, name: &str, descriptors: &[RawFd]) -> ! {
    title::set(&process.args);
    let reason = match init::become_program(name, descriptors) {
        Ok(()) => {
            catch_unwind(AssertUnwindSafe(|| guest.run(process))).unwrap_or(ExitReason::HostFailure)
        }
        Err(failure) => {
            complain(&failure.message);
            ExitReason::HostFailure
        }
    };
    init::exit_now(reason.status().into())
}

/// Replaces this process by the program.
fn run_native(program: &Path, process: &GuestProcess) -> NotExecuted {
    let failed = |errno: Errno| NotExecuted {
        message: format!(
            "exec {}: {}",
            program.display(),
            errno.desc().to_lowercase()
        ),
        status: if errno == Errno::ENOENT { 127 } else { 126 },
    };
    let strings = |list: Vec<String>| -> Result<Vec<CString>, std::ffi::NulError> {
        list.into_iter().map(CString::new).collect()
    };
    let environment = process
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let path = CString::new(program.as_os_str().as_encoded_bytes());
    let (Ok(path), Ok(args), Ok(environment)) = (
        path,
        strings(process.args.clone()),
        strings(environment.collect()),
    ) else {
        return failed(Errno::EINVAL);
    };
    init::reset_signals();
    let Err(errno) = nix::unistd::execve(&path, &args, &environment);
    failed(errno)
}

/// The home directory of a user by the container's `/etc/passwd`; `/`, as for runc, if that does not
/// say.
fn home_of(uid: u32) -> String {
    libcontainer::utils::get_user_home(uid)
        .filter(|home| !home.as_os_str().is_empty())
        .map_or_else(
            || "/".to_owned(),
            |home| home.to_string_lossy().into_owned(),
        )
}

/// In runc's words, which clients know.
pub(crate) fn cannot_enter(cwd: &Path, errno: Errno) -> String {
    format!(
        "chdir to cwd ({cwd:?}) failed: {}",
        errno.desc().to_lowercase()
    )
}

fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "lighter: {message}");
}
