//! Exec: one process more in a container that runs.
//!
//! libcontainer can add a process too, but not as this container's: it leaves out the seccomp
//! profile, the user namespace and the groups of the process, and needs a `/proc` and a devpts
//! in the container (docs/decisions/0006). What it has for a single step is used.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libcontainer::syscall::Syscall;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::{apparmor, capabilities, seccomp, tty};
use lighter_core::{ErrorClass, Executed, Failure, Stdio};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chdir, pipe2, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Process, Spec};

use crate::console::{self, Terminal};
use crate::diagnosis::Diagnosis;
use crate::executor::{ContainerExecutor, GuestContext, Workload};
use crate::fork::ShimLink;
use crate::manage::ContainerLocation;
use crate::memory_limit::{self, MemoryLimit};
use crate::memory_map::{MemoryMapSender, host_proc};
use crate::native_view::NativeView;
use crate::running_init::Init;
use crate::spec_file::{load_process, load_spec};
use crate::trace::{GuestEnd, TraceRequest};
use crate::{cgroup_files, executor, guest_privileges, init, keyring, stdio, user_namespace};

/// What Exec is asked for.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// Which container, and where its files are.
    pub location: ContainerLocation,
    /// Process id of its init, which has not been reaped.
    pub init: i32,
    /// The file that describes the process, as `process` of the OCI runtime specification.
    pub process: PathBuf,
    /// Where the process reads and writes.
    pub stdio: Stdio,
    /// How a guest makes spans, if they are wanted.
    pub trace: Option<TraceRequest>,
}

/// Runs one process more in the container: in its namespaces and cgroup, with the user and
/// capabilities of the request, and the seccomp profile of the container. It is a child of the
/// shim.
///
/// `workload` finds out what its program is, from a spec with the process, the path that the
/// root of the container is seen at, and whether the container is a guest's. The process runs once
/// the shim has claimed it. What else the shim needs goes over `link`, and is named in the answer.
///
/// Runs in a fork of the shim, see [`crate::Operation`]. A program that cannot be executed is an
/// error, with the wording of runc, from which `docker exec` derives its exit codes.
pub fn exec(
    request: &ExecRequest,
    link: &mut ShimLink,
    workload: impl FnOnce(&Spec, &Path, bool) -> Result<Workload, Failure>,
) -> Result<Executed, Failure> {
    let location = &request.location;
    run(request, link, workload).map_err(|failure| {
        Failure::new(
            failure.class,
            format!(
                "exec failed in container {}: unable to start container process: {}",
                location.id, failure.message
            ),
        )
    })
}

fn run(
    request: &ExecRequest,
    link: &mut ShimLink,
    workload: impl FnOnce(&Spec, &Path, bool) -> Result<Workload, Failure>,
) -> Result<Executed, Failure> {
    let location = &request.location;
    let is_guest = location.guest_bundle().exists();
    let (mut spec, _) = load_spec(&location.bundle)?;
    let mut process = load_process(&request.process)?;
    spec.set_process(Some(process.clone()));
    let init = Init::find(request.init)?;
    if init.has_user_namespace() {
        user_namespace::complete(&mut spec, init.pid)?;
    }
    let described = spec.clone();
    // The mounts are there already, below the root of init.
    spec.set_mounts(None);
    let mut workload = workload(&spec, &init.root(), is_guest)?;
    if matches!(workload, Workload::Guest { .. }) {
        guest_privileges::narrow(&mut process);
    }
    let view = match workload {
        Workload::Native if is_guest => NativeView::of(&described, &init.mounts()?)?,
        _ => None,
    };
    let mut context = GuestContext {
        memory_limit: if is_guest {
            Some(memory_limit::find(location)?)
        } else {
            None
        },
        // The page is init's: a process that is killed cannot take back what it has counted.
        ..GuestContext::default()
    };
    let mut code = workload.descriptors()?;
    code.extend(context.memory_limit.iter().map(MemoryLimit::descriptor));
    // Opened here: where the process is, there is no procfs.
    let memory_map = MemoryMapSender::new(&mut workload)
        .map(|sender| Ok((sender, host_proc()?)))
        .transpose()?;
    let spans = GuestEnd::open(request.trace.as_ref(), &workload);
    if let Some(spans) = &spans {
        spans.give(&mut context, &mut code);
    }

    let owner = stdio::host_owner(&spec, Some(&process));
    let mut opened = stdio::open(&request.stdio, owner, location)?;
    let mut executed = Executed::default();
    opened.pass_logger(&mut executed, &mut link.passed_fds);
    let terminal = request.stdio.terminal;
    let failed =
        |error: std::io::Error| Failure::internal(format!("cannot make the terminal: {error}"));
    let mut socket = None;
    let stdio = if !terminal {
        ChildStdio::Files([
            opened.stdin.take(),
            opened.stdout.take(),
            opened.stderr.take(),
        ])
    } else if is_guest {
        let Terminal { master, slave } = console::open(Some(&process)).map_err(failed)?;
        opened.hand_over(master, &mut executed, &mut link.passed_fds);
        ChildStdio::Slave(slave)
    } else {
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        socket = Some((ours, opened));
        ChildStdio::Console(theirs)
    };

    let diagnosis = Diagnosis::start()
        .map_err(|error| Failure::internal(format!("cannot make a memory file: {error}")))?;
    let (outcome, report) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|error| Failure::internal(format!("cannot make a pipe: {error}")))?;
    // Nobody in the container may look into this process, which comes from outside, before it
    // has become the program. An execve takes this back.
    nix::sys::prctl::set_dumpable(false)
        .map_err(|error| Failure::internal(format!("cannot protect the process: {error}")))?;
    keyring::join(location)?;
    let users = init.late_user_namespace(view.is_some())?;
    join(location, &process, &init, users.is_some())?;
    let executor = ContainerExecutor::new(workload, code, false, context, diagnosis.clone());
    let child = Child {
        spec: &spec,
        process: &process,
        executor,
        view,
        users,
        has_user_namespace: init.has_user_namespace(),
    };
    let forked = link.fork_claimed(|| {
        let failure = child.run(stdio, report.as_raw_fd());
        let mut report = File::from(report);
        let _ = report.write_all(&serde_json::to_vec(&failure).unwrap_or_default());
        1
    });
    executed.pid = forked.map_err(|error| Failure::internal(format!("cannot fork: {error}")))?;
    if let Some((sender, proc)) = memory_map {
        sender.send(proc, executed.pid)?;
    }
    // This process's own ends of the pipe and of stdio have gone with the closure.
    wait_for_exec(outcome, &diagnosis)?;
    if let Some((socket, opened)) = socket {
        let master = console::receive(&socket).map_err(failed)?;
        // This process is in the user namespace now, and users have the numbers that they have there.
        let owner = match init.has_user_namespace() {
            true => (process.user().uid(), process.user().gid()),
            false => owner,
        };
        console::adopt(&master, Some(&process), owner).map_err(failed)?;
        opened.hand_over(master, &mut executed, &mut link.passed_fds);
    }
    if let Some(spans) = spans {
        spans.hand_over(&mut executed, &mut link.passed_fds);
    }
    Ok(executed)
}

/// Waits until the process has become its program, which closes the pipe, or says why not.
fn wait_for_exec(outcome: OwnedFd, diagnosis: &Diagnosis) -> Result<(), Failure> {
    let mut report = Vec::new();
    File::from(outcome)
        .read_to_end(&mut report)
        .map_err(|error| Failure::internal(format!("cannot read from the process: {error}")))?;
    if report.is_empty() {
        return Ok(());
    }
    let failure = serde_json::from_slice(&report)
        .unwrap_or_else(|_| Failure::internal("the process ended while it was set up"));
    Err(diagnosis.explain(failure))
}

/// Takes this process into the container, as far as its child inherits that: limits while the
/// right to set them is there, the cgroup, and then the namespaces; but for the user namespace, if the
/// child joins that.
fn join(
    location: &ContainerLocation,
    process: &Process,
    init: &Init,
    without_users: bool,
) -> Result<(), Failure> {
    let syscall = create_syscall();
    for limit in process.rlimits().iter().flatten() {
        syscall.set_rlimit(limit).map_err(|error| {
            let failure = Failure::from_error(ErrorClass::Internal, &error);
            Failure::internal(format!("cannot set the limit {}: {failure}", limit.typ()))
        })?;
    }
    if let Some(score) = process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| Failure::internal(format!("cannot set the OOM score: {error}")))?;
    }
    let root = File::open(init.root())
        .map_err(|error| Failure::internal(format!("cannot open the root: {error}")))?;
    cgroup_files::join(location, init.pid)?;
    let failed = |what: &str, error: Errno| {
        Failure::internal(format!("cannot {what} of the container: {error}"))
    };
    let mut namespaces = init.namespaces;
    if without_users {
        namespaces.remove(CloneFlags::CLONE_NEWUSER);
    }
    if !namespaces.is_empty() {
        setns(&init.pidfd, namespaces).map_err(|error| failed("join the namespaces", error))?;
    }
    if !init.namespaces.contains(CloneFlags::CLONE_NEWNS) {
        // Without a mount namespace of its own init has changed its root by chroot.
        nix::unistd::fchdir(&root).map_err(|error| failed("enter the root", error))?;
        nix::unistd::chroot(".").map_err(|error| failed("enter the root", error))?;
    }
    Ok(())
}

/// What descriptors 0 to 2 of the new process become.
enum ChildStdio {
    /// Files, `/dev/null` where there is none.
    Files([Option<OwnedFd>; 3]),
    /// A terminal of the host.
    Slave(OwnedFd),
    /// A terminal of the container's devpts, whose master goes over this socket.
    Console(UnixStream),
}

impl ChildStdio {
    fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let (files, other) = match self {
            Self::Files(files) => (files.as_slice(), None),
            Self::Slave(slave) => ([].as_slice(), Some(slave.as_raw_fd())),
            Self::Console(socket) => ([].as_slice(), Some(socket.as_raw_fd())),
        };
        let files = files.iter().flatten().map(AsRawFd::as_raw_fd);
        files.chain(other)
    }
}

/// The new process, after the fork.
struct Child<'a> {
    spec: &'a Spec,
    process: &'a Process,
    executor: ContainerExecutor,
    /// What a native program sees in a guest's container.
    view: Option<NativeView>,
    /// The user namespace, if it is joined after the file systems have been mounted.
    users: Option<OwnedFd>,
    has_user_namespace: bool,
}

impl Child<'_> {
    /// Becomes the program. Returns only if it cannot.
    fn run(&self, stdio: ChildStdio, report: RawFd) -> Failure {
        match self.set_up(stdio, report) {
            Ok(()) => Failure::invalid(self.executor.run(self.spec, Some(report)).message),
            Err(failure) => failure,
        }
    }

    /// Makes of this process what the request describes, in the order of libcontainer's init.
    fn set_up(&self, stdio: ChildStdio, report: RawFd) -> Result<(), Failure> {
        // The operation's: the root of init, the host's procfs, other ends of sockets.
        self.executor.close_descriptors(
            stdio
                .descriptors()
                .chain([report])
                .chain(self.users.as_ref().map(AsRawFd::as_raw_fd)),
        );
        let process = self.process;
        let syscall = create_syscall();
        let syscall = syscall.as_ref();
        nix::unistd::setsid().map_err(|error| internal("setsid", &error))?;
        if let Some(view) = &self.view {
            view.enter()?;
        }
        if let Some(users) = &self.users {
            setns(users, CloneFlags::CLONE_NEWUSER)
                .map_err(|error| internal("join the user namespace", &error))?;
        }
        if self.has_user_namespace {
            // The shim's user may have no place in the namespace; its root has.
            set_user(0, 0).map_err(|error| internal("become root", &error))?;
        }
        connect(stdio, syscall)?;
        let no_new_privileges = process.no_new_privileges() == Some(true);
        if no_new_privileges {
            nix::sys::prctl::set_no_new_privs()
                .map_err(|error| internal("set no_new_privileges", &error))?;
        }
        if let Some(profile) = process.apparmor_profile() {
            apparmor::apply_profile(profile)
                .map_err(|error| internal("apply the AppArmor profile", &error))?;
        }
        if let Some(mask) = process.user().umask() {
            nix::sys::stat::umask(Mode::from_bits_truncate(mask));
        }
        self.become_user()?;
        // Changing the user has taken the effective ones, which seccomp needs.
        capabilities::reset_effective(syscall)
            .map_err(|error| internal("reset capabilities", &error))?;
        if !no_new_privileges {
            self.load_seccomp()?;
        }
        if let Some(wanted) = process.capabilities() {
            capabilities::drop_privileges(wanted, syscall)
                .map_err(|error| internal("drop capabilities", &error))?;
        }
        // Fails for a folder that is not below the root any more.
        nix::unistd::getcwd().map_err(|error| internal("verify the working directory", &error))?;
        self.executor.check(self.spec)?;
        if no_new_privileges {
            self.load_seccomp()?;
        }
        Ok(())
    }

    fn become_user(&self) -> Result<(), Failure> {
        let user = self.process.user();
        let cwd = self.process.cwd();
        // As root first: the user may not be allowed to pass the folders above. But root may be
        // refused where the user is not, on a network file system.
        let early = chdir(cwd);
        let groups: Vec<Gid> = user
            .additional_gids()
            .iter()
            .flatten()
            .map(|gid| Gid::from_raw(*gid))
            .collect();
        match setgroups(&groups) {
            Err(error) if !groups.is_empty() => return Err(internal("set groups", &error)),
            _ => {}
        }
        set_user(user.uid(), user.gid()).map_err(|error| internal("change the user", &error))?;
        match early {
            Err(Errno::EACCES | Errno::EPERM) => chdir(cwd),
            early => early,
        }
        .map_err(|error| Failure::invalid(executor::cannot_enter(cwd, error)))
    }

    fn load_seccomp(&self) -> Result<(), Failure> {
        let linux = self.spec.linux().as_ref();
        let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(());
        };
        if seccomp::is_notify(profile) {
            return Err(Failure::new(
                ErrorClass::Unimplemented,
                "the container's seccomp profile asks an agent about system calls (SCMP_ACT_NOTIFY), which exec does not support",
            ));
        }
        seccomp::initialize_seccomp(profile)
            .map(drop)
            .map_err(|error| internal("load the seccomp profile", &error))
    }
}

/// Changes all user and group ids, and keeps the capabilities to drop the right ones later.
fn set_user(uid: u32, gid: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::sys::prctl::set_keepcaps(true)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    nix::sys::prctl::set_keepcaps(false)
}

/// Makes `stdio` descriptors 0 to 2.
fn connect(stdio: ChildStdio, syscall: &dyn Syscall) -> Result<(), Failure> {
    match stdio {
        ChildStdio::Files(files) => {
            for (number, file) in (0..).zip(files) {
                if let Some(file) = file {
                    init::place(&file, number).map_err(|error| internal("set stdio", &error))?;
                }
            }
        }
        ChildStdio::Slave(slave) => {
            for number in 0..3 {
                init::place(&slave, number).map_err(|error| internal("set stdio", &error))?;
            }
            console::take_control().map_err(|error| internal("take the terminal", &error))?;
        }
        // libcontainer closes the socket.
        ChildStdio::Console(socket) => {
            tty::setup_console(syscall, socket.into_raw_fd(), false)
                .map_err(|error| internal("make the terminal", &error))?;
        }
    }
    Ok(())
}

fn internal(what: &str, error: &(impl std::error::Error + 'static)) -> Failure {
    let failure = Failure::from_error(ErrorClass::Internal, error);
    Failure::internal(format!("cannot {what}: {failure}"))
}
