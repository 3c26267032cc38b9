//! User namespaces, made and joined in front of libcontainer.
//!
//! Symptom: a user namespace with several mappings failed with `could not find PATH`. libcontainer
//! 0.7 writes one mapping itself, and leaves several to newuidmap(1), a setuid program for users who
//! may not write them; root may. It also takes the systemd driver for every container that has a user
//! namespace of its own (`systemd_cgroup: use_systemd || user_ns_config.is_some()`), and sets resource
//! limits once the right to raise them has been given up.
//!
//! Fix: the namespace is made here, and libcontainer gets it as one that exists, by the path of a
//! descriptor; limits are set on the init that it made. The same descriptor maps the ids of volumes.
//!
//! Upstream: libcontainer's `user_ns.rs` (`lookup_map_binaries`, `write_id_mapping`) and
//! `container/builder_impl.rs`; runc writes the mappings itself if it may (`nsexec.c`,
//! `update_uidmap`) and takes the helper only if that fails.
// fork, prlimit and _exit have no safe form.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use lighter_core::Failure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, setfsgid, setfsuid, setresgid, setresuid};
use oci_spec::runtime::{LinuxNamespaceType, PosixRlimitType, Spec};

use crate::fork::{die_with, pidfd_open};
use crate::id_mappings::{IdMappings, table};

/// A user namespace, held by a descriptor.
pub(crate) struct UserNamespace {
    file: OwnedFd,
    /// The others that its container joins. Who is in the user namespace may not open them all: those of
    /// a guest's process are the host's root's.
    others: Vec<(LinuxNamespaceType, OwnedFd)>,
}

impl UserNamespace {
    /// That of the container of `spec`: a new one, or the one that the spec names by its path. None
    /// if the spec asks for none. The spec gets the mappings of one that exists.
    ///
    /// # Errors
    /// InvalidArgument, with runc's words, for mappings that are missing or are not those of the
    /// namespace that is to be joined.
    pub(crate) fn of_container(spec: &mut Spec) -> Result<Option<Self>, Failure> {
        let namespaces = spec
            .linux()
            .as_ref()
            .and_then(|it| it.namespaces().as_ref());
        let mut namespaces = namespaces.into_iter().flatten();
        let Some(asked) = namespaces.find(|it| it.typ() == LinuxNamespaceType::User) else {
            return Ok(None);
        };
        let asked = asked.path().clone();
        let described = IdMappings::of_spec(spec);
        let (mut namespace, mappings) = match asked {
            None if described.is_incomplete() => {
                return Err(Failure::invalid(
                    "user namespaces enabled, but no namespace path to join nor mappings to apply specified",
                ));
            }
            None => (Self::new(&described)?, described),
            Some(path) => {
                let (namespace, mappings) = Self::join(&path)?;
                if !described.is_empty() && !described.is_same(&mappings) {
                    return Err(Failure::invalid(
                        "user namespaces enabled, but both namespace path and non-matching mapping specified -- you may only provide one",
                    ));
                }
                mappings.write_to(spec);
                (namespace, mappings)
            }
        };
        if !mappings.have_root() {
            return Err(Failure::invalid(
                "the user namespace has no root: map user and group 0 of the container in linux.uidMappings and linux.gidMappings",
            ));
        }
        namespace.others = open_others(spec)?;
        Ok(Some(namespace))
    }

    /// A new one with these mappings.
    pub(crate) fn new(mappings: &IdMappings) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::internal(format!("cannot make a user namespace: {what}: {error}"))
        };
        in_member(
            || unshare(CloneFlags::CLONE_NEWUSER),
            |pid| {
                for (name, mappings) in [("uid_map", &mappings.uids), ("gid_map", &mappings.gids)] {
                    let text = table(mappings);
                    std::fs::write(format!("/proc/{pid}/{name}"), &text).map_err(|error| {
                        let text = text.trim_end().replace('\n', ", ");
                        failed(&format!("write {text:?} to its {name}"), &error)
                    })?;
                }
                let file = File::open(format!("/proc/{pid}/ns/user"))
                    .map_err(|error| failed("open it", &error))?;
                Ok(Self::from(OwnedFd::from(file)))
            },
            |error| match error {
                Errno::ENOSPC => failed(
                    "unshare",
                    &"this node allows no more; raise the sysctl user.max_user_namespaces",
                ),
                error => failed("unshare", &error),
            },
        )
    }

    /// The one at `path`, and its mappings.
    fn join(path: &Path) -> Result<(Self, IdMappings), Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::invalid(format!(
                "cannot join the user namespace {}: {error}",
                path.display()
            ))
        };
        let file = OwnedFd::from(File::open(path).map_err(|error| failed(&error))?);
        let mappings = in_member(
            || setns(file.as_fd(), CloneFlags::CLONE_NEWUSER),
            mappings_of,
            |error| failed(&error),
        )?;
        Ok((Self::from(file), mappings))
    }

    /// Gives it to libcontainer, as a namespace that exists, with the others that are joined. Only in a
    /// process that inherits the descriptors do the paths mean anything.
    ///
    /// Takes the limits of the process away, which [`set_limits`] sets.
    pub(crate) fn give_to(&self, spec: &mut Spec) {
        if let Some(mut linux) = spec.linux().clone() {
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            for namespace in &mut namespaces {
                let mut others = self.others.iter();
                if namespace.typ() == LinuxNamespaceType::User {
                    namespace.set_path(Some(path(&self.file)));
                } else if let Some((_, file)) = others.find(|(typ, _)| *typ == namespace.typ()) {
                    namespace.set_path(Some(path(file)));
                }
            }
            linux.set_namespaces(Some(namespaces));
            linux.set_uid_mappings(None);
            linux.set_gid_mappings(None);
            spec.set_linux(Some(linux));
        }
        if let Some(mut process) = spec.process().clone() {
            process.set_rlimits(None);
            spec.set_process(Some(process));
        }
    }
}

impl From<OwnedFd> for UserNamespace {
    fn from(file: OwnedFd) -> Self {
        Self {
            file,
            others: Vec::new(),
        }
    }
}

fn path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// The namespaces of other kinds that a spec names by their paths.
fn open_others(spec: &Spec) -> Result<Vec<(LinuxNamespaceType, OwnedFd)>, Failure> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|it| it.namespaces().as_ref());
    let mut others = Vec::new();
    for namespace in namespaces.into_iter().flatten() {
        let typ = namespace.typ();
        if let Some(path) = namespace.path()
            && typ != LinuxNamespaceType::User
        {
            let file = File::open(path).map_err(|error| {
                Failure::invalid(format!(
                    "cannot join the {typ} namespace {}: {error}",
                    path.display()
                ))
            })?;
            others.push((typ, file.into()));
        }
    }
    Ok(others)
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Does something as the user and group `owner` as far as files go: what is created belongs to them, and
/// what they may not do is not done. The host's root has no place in the file systems of a user namespace.
///
/// Only for a forked operation, which has one thread.
pub(crate) fn as_owner<T>((uid, gid): (u32, u32), work: impl FnOnce() -> T) -> T {
    if (uid, gid) == (0, 0) {
        return work();
    }
    let (own_gid, own_uid) = (setfsgid(gid.into()), setfsuid(uid.into()));
    let done = work();
    setfsuid(own_uid);
    setfsgid(own_gid);
    done
}

/// Takes this process into the user and the mount namespace of the process `pid`, as root there.
pub(crate) fn enter(pid: i32) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::internal(format!(
            "cannot enter the container's user namespace: {error}"
        ))
    };
    let init = pidfd_open(pid).map_err(|error| failed(&error))?;
    setns(&init, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .and_then(|()| setresgid(0.into(), 0.into(), 0.into()))
        .and_then(|()| setresuid(0.into(), 0.into(), 0.into()))
        .map_err(|error| failed(&error))
}

/// Gives a spec that has no mappings those of the user namespace of the process `pid`.
pub(crate) fn complete(spec: &mut Spec, pid: i32) -> Result<(), Failure> {
    if IdMappings::of_spec(spec).is_empty() {
        mappings_of(Pid::from_raw(pid))?.write_to(spec);
    }
    Ok(())
}

fn mappings_of(pid: Pid) -> Result<IdMappings, Failure> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path)
            .map_err(|error| Failure::internal(format!("cannot read {path}: {error}")))
    };
    IdMappings::from_tables(&read("uid_map")?, &read("gid_map")?)
}

/// Does something with a process that `enter` has taken into a user namespace, by its pid. The
/// process does nothing else, and ends with this.
///
/// Only for a forked operation, which has one thread.
fn in_member<T>(
    enter: impl FnOnce() -> Result<(), Errno>,
    work: impl FnOnce(Pid) -> Result<T, Failure>,
    not_entered: impl FnOnce(Errno) -> Failure,
) -> Result<T, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::internal(format!("cannot make a process: {error}"))
    };
    let (outcome, report) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let (gate, opener) = pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(&error))?;
    let parent = nix::unistd::getpid();
    // SAFETY: the process has one thread (the caller's duty), so the child owns a consistent copy
    // of everything. It leaves by _exit, so no destructor of the parent's frames runs in it.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(failed(&std::io::Error::last_os_error())),
        0 => {
            die_with(parent);
            // Whoever has the namespace already must not look into this process, which is the host's.
            let _ = nix::sys::prctl::set_dumpable(false);
            // Its own ends would keep both pipes open.
            drop((outcome, opener));
            let entered = enter().map_or_else(|error| error as i32, |()| 0);
            let _ = File::from(report).write_all(&entered.to_ne_bytes());
            let _ = File::from(gate).read(&mut [0]);
            // SAFETY: _exit ends the process at once; nothing of the parent's is dropped.
            unsafe { libc::_exit(0) }
        }
        pid => Pid::from_raw(pid),
    };
    drop((report, gate));
    let mut entered = [0; 4];
    let result = match File::from(outcome).read_exact(&mut entered) {
        Err(_) => Err(failed(&"it was killed")),
        Ok(()) => match i32::from_ne_bytes(entered) {
            0 => work(pid),
            error => Err(not_entered(Errno::from_raw(error))),
        },
    };
    drop(opener);
    while let Err(Errno::EINTR) = waitpid(pid, None) {}
    result
}

/// Sets the limits that a spec has for its process on the init `pid`: whoever is in a user namespace
/// may not raise one.
pub(crate) fn set_limits(spec: &Spec, pid: i32) -> Result<(), Failure> {
    let limits = spec.process().as_ref().and_then(|it| it.rlimits().as_ref());
    for limit in limits.into_iter().flatten() {
        let value = libc::rlimit {
            rlim_cur: limit.soft(),
            rlim_max: limit.hard(),
        };
        let resource = resource(limit.typ());
        // SAFETY: the kernel reads the structure, and writes nothing to the null pointer.
        let set = unsafe { libc::prlimit(pid, resource, &raw const value, std::ptr::null_mut()) };
        Errno::result(set).map_err(|error| {
            Failure::internal(format!(
                "cannot set the limit {} of the container's process: {error}",
                limit.typ()
            ))
        })?;
    }
    Ok(())
}

fn resource(limit: PosixRlimitType) -> libc::__rlimit_resource_t {
    match limit {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}
