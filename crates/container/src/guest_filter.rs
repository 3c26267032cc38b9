//! The system calls of a guest's process, from right before its guest runs until it ends.
//!
//! Such a process has no use for most of the kernel: its code is mapped, it executes no program, and
//! what guests ask for is WASI. So of two filters that are loaded beside the container's own
//! profile, one allows what Wasmtime, tokio and the C library need for WASI, and answers every
//! other call as a kernel that does not have it (ENOSYS), which is what a C library probes for. The
//! other one ends the process at once (SIGSYS) at calls that only an exploit makes. Where both
//! have an opinion, the kernel takes the sterner one.
//!
//! The container's seccomp profile is written for any program, so it has to allow execve, fork and
//! executable memory. This filter is the same for each container, and no pod can widen it.

use std::collections::BTreeMap;

use libc::{
    SYS_accept4, SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bind, SYS_bpf, SYS_brk, SYS_capset,
    SYS_chmod, SYS_chown, SYS_chroot, SYS_clock_adjtime, SYS_clock_getres, SYS_clock_gettime,
    SYS_clock_nanosleep, SYS_clock_settime, SYS_clone, SYS_close, SYS_close_range, SYS_connect,
    SYS_delete_module, SYS_dup, SYS_dup2, SYS_dup3, SYS_epoll_create1, SYS_epoll_ctl,
    SYS_epoll_pwait, SYS_epoll_pwait2, SYS_epoll_wait, SYS_eventfd2, SYS_execve, SYS_execveat,
    SYS_exit, SYS_exit_group, SYS_fadvise64, SYS_fallocate, SYS_fanotify_init, SYS_fchmod,
    SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_finit_module, SYS_fork,
    SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick, SYS_fstat, SYS_fsync, SYS_ftruncate,
    SYS_futex, SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getpeername,
    SYS_getpid, SYS_getppid, SYS_getrandom, SYS_getsockname, SYS_getsockopt, SYS_gettid,
    SYS_getuid, SYS_init_module, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup,
    SYS_ioctl, SYS_ioperm, SYS_iopl, SYS_kcmp, SYS_kexec_file_load, SYS_kexec_load, SYS_keyctl,
    SYS_kill, SYS_lchown, SYS_linkat, SYS_listen, SYS_lseek, SYS_lstat, SYS_madvise,
    SYS_memfd_create, SYS_memfd_secret, SYS_mkdirat, SYS_mknod, SYS_mknodat, SYS_mmap,
    SYS_modify_ldt, SYS_mount, SYS_mount_setattr, SYS_move_mount, SYS_mprotect, SYS_mremap,
    SYS_munmap, SYS_name_to_handle_at, SYS_nanosleep, SYS_newfstatat, SYS_open_by_handle_at,
    SYS_open_tree, SYS_openat, SYS_openat2, SYS_perf_event_open, SYS_personality, SYS_pidfd_getfd,
    SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pipe2, SYS_pivot_root, SYS_pkey_mprotect, SYS_poll,
    SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_prlimit64, SYS_process_madvise,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_ptrace, SYS_pwrite64, SYS_pwritev,
    SYS_pwritev2, SYS_quotactl, SYS_read, SYS_readlink, SYS_readlinkat, SYS_readv, SYS_reboot,
    SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_remap_file_pages, SYS_renameat, SYS_renameat2,
    SYS_request_key, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigprocmask,
    SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_tgsigqueueinfo, SYS_sched_getaffinity,
    SYS_sched_yield, SYS_seccomp, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_set_robust_list,
    SYS_setdomainname, SYS_setfsgid, SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_sethostname,
    SYS_setns, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_setsockopt,
    SYS_settimeofday, SYS_setuid, SYS_shmat, SYS_shutdown, SYS_sigaltstack, SYS_socket, SYS_stat,
    SYS_statx, SYS_swapoff, SYS_swapon, SYS_symlinkat, SYS_sync_file_range, SYS_sysinfo,
    SYS_syslog, SYS_tgkill, SYS_tkill, SYS_umount2, SYS_uname, SYS_unlinkat, SYS_unshare,
    SYS_uselib, SYS_userfaultfd, SYS_utimensat, SYS_vfork, SYS_vhangup, SYS_write, SYS_writev,
};
use lighter_core::Failure;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::init;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// `PAGEMAP_SCAN` (linux/fs.h).
const PAGEMAP_SCAN: u64 = 0xc060_6610;
/// `PR_SET_VMA` (linux/prctl.h).
const PR_SET_VMA: i32 = 0x5356_4d41;
/// The part of a socket's type that is no flag.
const SOCK_TYPE_MASK: i32 = 0xf;
/// Flags of clone(2) that give the new process a namespace of its own.
const NEW_NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Filters the calls of this thread, and of all threads that it starts. The process has
/// no_new_privs set and one thread.
///
/// # Errors
/// The container's seccomp profile allows no second filter. No guest may run then.
pub(crate) fn load() -> Result<(), Failure> {
    let programs = programs()
        .map_err(|error| Failure::internal(format!("cannot make the filter of guests: {error}")))?;
    for program in &programs {
        init::load_filter(program).map_err(|error| {
            Failure::internal(format!(
                "cannot load the filter of guests: {error}; the container's seccomp profile has to allow prctl"
            ))
        })?;
    }
    Ok(())
}

/// The two filters, in the order in which they are loaded: the first allows prctl(2), by which the second
/// is.
fn programs() -> Result<[BpfProgram; 2], Error> {
    let filter = |rules, otherwise, matched| -> Result<BpfProgram, Error> {
        let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?;
        Ok(BpfProgram::try_from(filter)?)
    };
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Ok([
        filter(deadly()?, SeccompAction::Allow, SeccompAction::KillProcess)?,
        filter(allowed()?, absent, SeccompAction::Allow)?,
    ])
}

/// Calls that end the process.
fn deadly() -> Result<Rules, Error> {
    let mut rules = rules(&[
        // Another program, or another process: a guest's process is one, and stays what it is.
        SYS_execve,
        SYS_execveat,
        SYS_uselib,
        SYS_fork,
        SYS_vfork,
        // Programs that are in memory alone.
        SYS_memfd_create,
        SYS_memfd_secret,
        // Other processes: their memory, descriptors and fate.
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_process_madvise,
        SYS_pidfd_open,
        SYS_pidfd_getfd,
        SYS_pidfd_send_signal,
        SYS_kcmp,
        SYS_kill,
        SYS_tkill,
        SYS_rt_sigqueueinfo,
        SYS_rt_tgsigqueueinfo,
        // What is mounted where, and what root is.
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_chroot,
        SYS_open_tree,
        SYS_move_mount,
        SYS_fsopen,
        SYS_fsconfig,
        SYS_fsmount,
        SYS_fspick,
        SYS_mount_setattr,
        SYS_quotactl,
        SYS_swapon,
        SYS_swapoff,
        // Namespaces.
        SYS_unshare,
        SYS_setns,
        // Files past every mount: by CAP_DAC_READ_SEARCH, which a guest may keep, any file of the
        // file system that a volume is in.
        SYS_open_by_handle_at,
        SYS_name_to_handle_at,
        // WASI has no owners, modes and device nodes.
        SYS_mknod,
        SYS_mknodat,
        SYS_chmod,
        SYS_fchmod,
        SYS_fchmodat,
        SYS_chown,
        SYS_fchown,
        SYS_lchown,
        SYS_fchownat,
        // Users and capabilities.
        SYS_setuid,
        SYS_setgid,
        SYS_setreuid,
        SYS_setregid,
        SYS_setresuid,
        SYS_setresgid,
        SYS_setfsuid,
        SYS_setfsgid,
        SYS_setgroups,
        SYS_capset,
        // Parts of the kernel where exploits of the kernel begin, and that WASI has no use for.
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_io_uring_register,
        SYS_add_key,
        SYS_request_key,
        SYS_keyctl,
        SYS_fanotify_init,
        SYS_modify_ldt,
        // The kernel itself, and the machine.
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_kexec_load,
        SYS_kexec_file_load,
        SYS_reboot,
        SYS_iopl,
        SYS_ioperm,
        SYS_syslog,
        SYS_acct,
        SYS_vhangup,
        SYS_sethostname,
        SYS_setdomainname,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_clock_adjtime,
        SYS_adjtimex,
        // Ways to executable memory beside those below: READ_IMPLIES_EXEC, SHM_EXEC, and other
        // contents for a mapping that is executable.
        SYS_personality,
        SYS_shmat,
        SYS_remap_file_pages,
        // Other filters than these.
        SYS_seccomp,
    ]);
    // No new code. That of the guest and of this program is mapped, and cannot be written to.
    let executable = [has(2, libc::PROT_EXEC, libc::PROT_EXEC)?];
    for call in [SYS_mmap, SYS_mprotect, SYS_pkey_mprotect] {
        rules.insert(call, vec![rule(&executable)?]);
    }
    // Threads of this process only, in its namespaces.
    let mut processes = vec![rule(&[has(0, libc::CLONE_THREAD, 0)?])?];
    for flag in NEW_NAMESPACES {
        processes.push(rule(&[has(0, flag, flag)?])?);
    }
    rules.insert(SYS_clone, processes);
    // Signals to other processes. Own threads are signalled by abort.
    let own = u64::from(std::process::id());
    rules.insert(SYS_tgkill, vec![rule(&[is_not(0, own)?])?]);
    // Input for who else reads from the terminal.
    let injections = [libc::TIOCSTI, libc::TIOCLINUX];
    let injections = injections.map(|request| rule(&[is(1, request)?]));
    rules.insert(SYS_ioctl, injections.into_iter().collect::<Result<_, _>>()?);
    // Programs that the kernel runs for a socket.
    let programs = [
        libc::SO_ATTACH_FILTER,
        libc::SO_ATTACH_BPF,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        libc::SO_ATTACH_REUSEPORT_EBPF,
    ];
    let programs =
        programs.map(|option| rule(&[is(1, libc::SOL_SOCKET as u64)?, is(2, option as u64)?]));
    rules.insert(
        SYS_setsockopt,
        programs.into_iter().collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

/// Calls that WASI, Wasmtime, tokio and the C library need.
fn allowed() -> Result<Rules, Error> {
    let mut rules = rules(&[
        // Open files: fd_read, fd_write, streams, the tables of counters and of the page map.
        SYS_read,
        SYS_readv,
        SYS_pread64,
        SYS_preadv,
        SYS_preadv2,
        SYS_write,
        SYS_writev,
        SYS_pwrite64,
        SYS_pwritev,
        SYS_pwritev2,
        SYS_lseek,
        SYS_fstat,
        SYS_ftruncate,
        SYS_fallocate,
        SYS_fadvise64,
        SYS_fsync,
        SYS_fdatasync,
        SYS_sync_file_range,
        SYS_getdents64,
        SYS_close,
        SYS_close_range,
        SYS_dup,
        SYS_dup2,
        SYS_dup3,
        // Paths, always below a directory that is open but for the preopened ones themselves.
        SYS_openat,
        SYS_openat2,
        SYS_newfstatat,
        SYS_stat,
        SYS_lstat,
        SYS_statx,
        SYS_readlink,
        SYS_readlinkat,
        SYS_getcwd,
        SYS_mkdirat,
        SYS_unlinkat,
        SYS_renameat,
        SYS_renameat2,
        SYS_linkat,
        SYS_symlinkat,
        SYS_utimensat,
        // Waiting: tokio's event loop, streams and clocks.
        SYS_epoll_create1,
        SYS_epoll_ctl,
        SYS_epoll_wait,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_eventfd2,
        SYS_pipe2,
        SYS_poll,
        SYS_ppoll,
        SYS_nanosleep,
        SYS_clock_nanosleep,
        // Clocks that the C library cannot read by itself: processor time, and odd machines.
        SYS_clock_gettime,
        SYS_clock_getres,
        // Sockets; which ones, see below.
        SYS_connect,
        SYS_bind,
        SYS_listen,
        SYS_accept4,
        SYS_getsockname,
        SYS_getpeername,
        SYS_sendto,
        SYS_sendmsg,
        // Two look-ups of one name at a time.
        SYS_sendmmsg,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_recvmmsg,
        SYS_shutdown,
        // Memory; executable one, see above.
        SYS_mmap,
        SYS_mprotect,
        SYS_mremap,
        SYS_munmap,
        SYS_madvise,
        SYS_brk,
        // Threads; no process, see above. There is no clone3, whose flags stand in memory where no
        // filter can read them: the C library uses clone then.
        SYS_clone,
        SYS_set_robust_list,
        SYS_rseq,
        SYS_futex,
        SYS_sched_getaffinity,
        SYS_sched_yield,
        SYS_gettid,
        SYS_exit,
        // Traps, which are signals, and ending.
        SYS_rt_sigaction,
        SYS_rt_sigprocmask,
        SYS_rt_sigreturn,
        SYS_sigaltstack,
        SYS_restart_syscall,
        SYS_tgkill,
        SYS_exit_group,
        // wasi:random, and seeds of hash tables.
        SYS_getrandom,
        // What the C library asks about the process and the machine before it looks a name up, or
        // sizes a stack.
        SYS_getpid,
        SYS_getppid,
        SYS_getuid,
        SYS_geteuid,
        SYS_getgid,
        SYS_getegid,
        SYS_uname,
        SYS_sysinfo,
    ]);
    let one_of = |argument: u8, values: &[u64]| -> Result<Vec<SeccompRule>, Error> {
        let rules = values.iter().map(|value| rule(&[is(argument, *value)?]));
        rules.collect()
    };
    rules.insert(
        SYS_ioctl,
        one_of(
            1,
            &[
                // Whether a stream is a terminal.
                libc::TCGETS,
                libc::TIOCGWINSZ,
                // The C library's and Rust's ways to make a descriptor non-blocking, or to close it on exec.
                libc::FIONBIO,
                libc::FIOCLEX,
                // Bytes that can be read.
                libc::FIONREAD,
                // Which pages an instance has written to.
                PAGEMAP_SCAN,
            ],
        )?,
    );
    rules.insert(
        SYS_fcntl,
        one_of(
            1,
            &[
                libc::F_DUPFD,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GETFD,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
            ]
            .map(|command| command as u64),
        )?,
    );
    rules.insert(
        SYS_prctl,
        one_of(
            0,
            &[
                // Names of threads and of memory.
                libc::PR_SET_NAME,
                PR_SET_VMA,
                // A service's look at its own page map.
                libc::PR_GET_DUMPABLE,
                libc::PR_SET_DUMPABLE,
            ]
            .map(|option| option as u64),
        )?,
    );
    // Own limits are read, for the size of stacks, and never set.
    rules.insert(SYS_prlimit64, vec![rule(&[is(0, 0)?, is_null(2)?])?]);
    rules.insert(SYS_socket, sockets()?);
    // What is set on TCP and UDP sockets: no other protocol, no firewall, no tunnel.
    let levels = [
        libc::SOL_SOCKET,
        libc::IPPROTO_TCP,
        libc::IPPROTO_IP,
        libc::IPPROTO_IPV6,
    ];
    for call in [SYS_getsockopt, SYS_setsockopt] {
        rules.insert(call, one_of(1, &levels.map(|level| level as u64))?);
    }
    Ok(rules)
}

/// TCP and UDP, and the kernel's list of addresses, which the C library sorts those of a name by.
/// No socket of AF_UNIX: in a pod with the node's network, abstract ones are the node's daemons.
fn sockets() -> Result<Vec<SeccompRule>, Error> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [
            (libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP),
        ] {
            // Zero is the default, which is the same.
            for protocol in [protocol, 0] {
                sockets.push(rule(&[
                    is(0, family as u64)?,
                    has(1, SOCK_TYPE_MASK, kind)?,
                    is(2, protocol as u64)?,
                ])?);
            }
        }
    }
    sockets.push(rule(&[
        is(0, libc::AF_NETLINK as u64)?,
        has(1, SOCK_TYPE_MASK, libc::SOCK_RAW)?,
        is(2, libc::NETLINK_ROUTE as u64)?,
    ])?);
    Ok(sockets)
}

/// Rules that look at no argument.
fn rules(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.to_vec())?)
}

/// That an argument of 32 bits has this value.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    condition(argument, SeccompCmpOp::Ne, value)
}

/// That those bits of an argument which are set in `mask` are `value`.
fn has(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, Error> {
    let bits = |number: i32| u64::from(number as u32);
    condition(argument, SeccompCmpOp::MaskedEq(bits(mask)), bits(value))
}

fn condition(argument: u8, operation: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    let length = SeccompCmpArgLen::Dword;
    Ok(SeccompCondition::new(argument, length, operation, value)?)
}

fn is_null(argument: u8) -> Result<SeccompCondition, Error> {
    let length = SeccompCmpArgLen::Qword;
    let operation = SeccompCmpOp::Eq;
    Ok(SeccompCondition::new(argument, length, operation, 0)?)
}

#[cfg(test)]
mod tests;
