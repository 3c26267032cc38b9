//! Each rule, tried in a process of its own: a guest cannot make a system call of its choice.
#![allow(unsafe_code)] // Forks and raw system calls.

use std::arch::asm;

use libc::c_long;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Failed(Errno),
    Killed(Signal),
}

const KILLED: Outcome = Outcome::Killed(Signal::SIGSYS);
const ABSENT: Outcome = Outcome::Failed(Errno::ENOSYS);
/// What an allowed call says of a descriptor that is not open.
const BAD_DESCRIPTOR: Outcome = Outcome::Failed(Errno::EBADF);
const NO_DESCRIPTOR: c_long = -1;

/// What becomes of `work` under the filters. It ends with zero or the number of an error.
fn confined(work: impl FnOnce() -> i32) -> Outcome {
    // SAFETY: the child runs `work` and leaves by _exit. The C library's fork makes its allocator usable
    // in the child of a process with threads, and nothing else of other threads is touched.
    let pid = match unsafe { libc::fork() } {
        -1 => panic!("cannot fork"),
        0 => {
            let status = nix::sys::prctl::set_no_new_privs()
                .map_err(|_| 254)
                .and_then(|()| load().map_err(|_| 255))
                .map_or_else(|status| status, |()| work());
            // SAFETY: _exit has no precondition.
            unsafe { libc::_exit(status) }
        }
        pid => Pid::from_raw(pid),
    };
    match waitpid(pid, None).unwrap() {
        WaitStatus::Exited(_, 0) => Outcome::Done,
        WaitStatus::Exited(_, status @ 254..) => panic!("cannot load the filters: {status}"),
        WaitStatus::Exited(_, status) => Outcome::Failed(Errno::from_raw(status)),
        WaitStatus::Signaled(_, signal, _) => Outcome::Killed(signal),
        other => panic!("{other:?}"),
    }
}

fn call<const N: usize>(number: i64, arguments: [c_long; N]) -> Outcome {
    let mut all: [c_long; 6] = [0; 6];
    all[..N].copy_from_slice(&arguments);
    let [a, b, c, d, e, f] = all;
    confined(|| {
        // SAFETY: the process is a copy that does nothing afterwards but end. No argument of these
        // tests is the address of anything that is used.
        match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
            -1 => Errno::last_raw(),
            _ => 0,
        }
    })
}

fn constant(value: impl TryInto<c_long>) -> c_long {
    value.try_into().ok().unwrap()
}

/// What only an exploit does, by name, so that a rule that goes is missed.
#[test]
fn an_exploits_calls_end_the_process() {
    for (name, number) in [
        ("execve", SYS_execve),
        ("execveat", SYS_execveat),
        ("fork", SYS_fork),
        ("vfork", SYS_vfork),
        ("memfd_create", SYS_memfd_create),
        ("ptrace", SYS_ptrace),
        ("process_vm_readv", SYS_process_vm_readv),
        ("process_vm_writev", SYS_process_vm_writev),
        ("pidfd_getfd", SYS_pidfd_getfd),
        ("kill", SYS_kill),
        ("mount", SYS_mount),
        ("umount2", SYS_umount2),
        ("pivot_root", SYS_pivot_root),
        ("chroot", SYS_chroot),
        ("open_tree", SYS_open_tree),
        ("move_mount", SYS_move_mount),
        ("fsopen", SYS_fsopen),
        ("mount_setattr", SYS_mount_setattr),
        ("unshare", SYS_unshare),
        ("setns", SYS_setns),
        ("open_by_handle_at", SYS_open_by_handle_at),
        ("bpf", SYS_bpf),
        ("perf_event_open", SYS_perf_event_open),
        ("userfaultfd", SYS_userfaultfd),
        ("io_uring_setup", SYS_io_uring_setup),
        ("add_key", SYS_add_key),
        ("keyctl", SYS_keyctl),
        ("init_module", SYS_init_module),
        ("finit_module", SYS_finit_module),
        ("kexec_load", SYS_kexec_load),
        ("kexec_file_load", SYS_kexec_file_load),
        ("reboot", SYS_reboot),
        ("mknodat", SYS_mknodat),
        ("setuid", SYS_setuid),
        ("capset", SYS_capset),
        ("personality", SYS_personality),
        ("shmat", SYS_shmat),
        ("remap_file_pages", SYS_remap_file_pages),
    ] {
        assert_eq!(call(number, []), KILLED, "{name}");
    }
}

#[test]
fn every_call_without_conditions_ends_the_process_or_is_there() {
    let deadly = deadly().unwrap();
    for (number, rules) in &deadly {
        if rules.is_empty() {
            assert_eq!(call(*number, []), KILLED, "call {number}");
        }
    }
    // Those that end or block whoever calls them without arguments, or change what it runs on.
    let not_tried = [
        SYS_exit,
        SYS_exit_group,
        SYS_rt_sigreturn,
        SYS_poll,
        SYS_ppoll,
        SYS_read,
        SYS_readv,
        SYS_close_range,
        SYS_restart_syscall,
        // An operation that it does not know is ENOSYS, too.
        SYS_futex,
    ];
    for (number, rules) in allowed().unwrap() {
        let is_conditional = !rules.is_empty() || deadly.contains_key(&number);
        if !is_conditional && !not_tried.contains(&number) {
            let outcome = call(number, [NO_DESCRIPTOR; 6]);
            assert!(![KILLED, ABSENT].contains(&outcome), "call {number}");
        }
    }
}

/// Nobody of WASI needs them, and a C library that looks for them does without.
#[test]
fn other_calls_are_those_of_an_older_kernel() {
    for number in [
        libc::SYS_clone3,
        libc::SYS_inotify_init1,
        libc::SYS_setxattr,
        libc::SYS_membarrier,
        libc::SYS_socketpair,
        libc::SYS_msgget,
        libc::SYS_timerfd_create,
        libc::SYS_landlock_create_ruleset,
        libc::SYS_statfs,
        100_000,
    ] {
        assert_eq!(call(number, []), ABSENT, "call {number}");
    }
}

#[test]
fn no_memory_becomes_executable() {
    let private = constant(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let written = libc::PROT_READ | libc::PROT_WRITE;
    let map = |protection: i32| {
        call(
            SYS_mmap,
            [0, 4096, constant(protection), private, NO_DESCRIPTOR, 0],
        )
    };
    assert_eq!(map(written), Outcome::Done);
    assert_eq!(map(libc::PROT_NONE), Outcome::Done);
    for protection in [
        libc::PROT_EXEC,
        libc::PROT_READ | libc::PROT_EXEC,
        written | libc::PROT_EXEC,
    ] {
        assert_eq!(map(protection), KILLED);
        for number in [SYS_mprotect, SYS_pkey_mprotect] {
            assert_eq!(call(number, [0, 4096, constant(protection)]), KILLED);
        }
    }
    assert_eq!(call(SYS_mprotect, [0, 0, constant(written)]), Outcome::Done);
}

#[test]
fn threads_start_and_processes_do_not() {
    let thread = || {
        let thread = std::thread::Builder::new().spawn(|| 7);
        i32::from(thread.is_ok_and(|thread| thread.join().is_ok_and(|it| it == 7))) - 1
    };
    assert_eq!(confined(thread), Outcome::Done);
    let process = constant(libc::SIGCHLD);
    assert_eq!(call(SYS_clone, [process]), KILLED);
    assert_eq!(
        call(SYS_clone, [process | constant(libc::CLONE_VM)]),
        KILLED
    );
    let thread = constant(libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND);
    for flag in NEW_NAMESPACES {
        assert_eq!(call(SYS_clone, [thread | constant(flag)]), KILLED);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "its signal is what is tested")]
fn signals_are_for_own_threads() {
    let own = confined(|| {
        // SAFETY: raise takes an integer, and the signal is ignored by default.
        unsafe { libc::raise(libc::SIGURG) }
    });
    assert_eq!(own, Outcome::Done);
    let parent = constant(std::process::id());
    assert_eq!(call(SYS_tgkill, [parent, parent, 0]), KILLED);
    let aborted = confined(|| std::process::abort());
    assert_eq!(aborted, Outcome::Killed(Signal::SIGABRT));
}

#[test]
fn terminals_are_asked_and_not_written_to_backwards() {
    let ioctl = |request: u64| call(SYS_ioctl, [NO_DESCRIPTOR, constant(request)]);
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        assert_eq!(ioctl(request), KILLED);
    }
    for request in [
        libc::TCGETS,
        libc::TIOCGWINSZ,
        libc::FIONBIO,
        libc::FIOCLEX,
        libc::FIONREAD,
        PAGEMAP_SCAN,
    ] {
        assert_eq!(ioctl(request), BAD_DESCRIPTOR, "{request:#x}");
    }
    for request in [libc::TCSETS, libc::TIOCSCTTY, libc::SIOCSIFADDR] {
        assert_eq!(ioctl(request), ABSENT, "{request:#x}");
    }
}

#[test]
fn sockets_are_tcp_and_udp() {
    let socket = |family: i32, kind: i32, protocol: i32| {
        let kind = kind | libc::SOCK_CLOEXEC;
        let arguments = [family, kind, protocol].map(constant);
        call(SYS_socket, arguments)
    };
    let (stream, datagram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol, expected) in [
            (stream, 0, true),
            (stream, libc::IPPROTO_TCP, true),
            (datagram, 0, true),
            (datagram, libc::IPPROTO_UDP, true),
            (datagram, libc::IPPROTO_ICMP, false),
            (stream, libc::IPPROTO_SCTP, false),
            (stream, libc::IPPROTO_MPTCP, false),
            (raw, libc::IPPROTO_TCP, false),
            (raw, 0, false),
        ] {
            let is_there = socket(family, kind, protocol) != ABSENT;
            assert_eq!(is_there, expected, "{family} {kind} {protocol}");
        }
    }
    let netlink = libc::AF_NETLINK;
    assert_eq!(socket(netlink, raw, libc::NETLINK_ROUTE), Outcome::Done);
    for (family, kind, protocol) in [
        (netlink, raw, libc::NETLINK_NETFILTER),
        (libc::AF_UNIX, stream, 0),
        (libc::AF_PACKET, raw, 0),
        (libc::AF_VSOCK, stream, 0),
        (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
    ] {
        assert_eq!(
            socket(family, kind, protocol),
            ABSENT,
            "{family} {protocol}"
        );
    }
}

#[test]
fn options_of_sockets_run_no_program_and_steer_no_firewall() {
    let set = |level: i32, option: i32| {
        let arguments = [constant(level), constant(option)];
        call(SYS_setsockopt, [NO_DESCRIPTOR, arguments[0], arguments[1]])
    };
    for option in [
        libc::SO_ATTACH_FILTER,
        libc::SO_ATTACH_BPF,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        libc::SO_ATTACH_REUSEPORT_EBPF,
    ] {
        assert_eq!(set(libc::SOL_SOCKET, option), KILLED);
    }
    for level in [
        libc::SOL_SOCKET,
        libc::IPPROTO_TCP,
        libc::IPPROTO_IP,
        libc::IPPROTO_IPV6,
    ] {
        assert_eq!(set(level, 1), BAD_DESCRIPTOR, "{level}");
    }
    for level in [libc::IPPROTO_RAW, libc::IPPROTO_SCTP, libc::SOL_NETLINK] {
        assert_eq!(set(level, 1), ABSENT, "{level}");
        let get = call(SYS_getsockopt, [NO_DESCRIPTOR, constant(level), 1]);
        assert_eq!(get, ABSENT, "{level}");
    }
}

#[test]
fn descriptors_limits_and_the_process_are_read_and_little_is_set() {
    let fcntl = |command: i32| call(SYS_fcntl, [NO_DESCRIPTOR, constant(command)]);
    for command in [libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC] {
        assert_eq!(fcntl(command), BAD_DESCRIPTOR);
    }
    for command in [libc::F_SETLEASE, libc::F_NOTIFY, libc::F_SETOWN] {
        assert_eq!(fcntl(command), ABSENT);
    }
    let prctl = |option: i32| call(SYS_prctl, [constant(option), 0, 0, 0, 0]);
    assert_ne!(prctl(libc::PR_GET_DUMPABLE), ABSENT);
    for option in [
        libc::PR_SET_SECCOMP,
        libc::PR_CAP_AMBIENT,
        libc::PR_SET_MM,
        libc::PR_SET_PTRACER,
        libc::PR_SET_KEEPCAPS,
    ] {
        assert_eq!(prctl(option), ABSENT, "{option}");
    }
    let files = constant(libc::RLIMIT_NOFILE);
    assert_eq!(call(SYS_prlimit64, [0, files]), Outcome::Done);
    assert_eq!(call(SYS_prlimit64, [0, files, 1]), ABSENT);
    assert_eq!(call(SYS_prlimit64, [1, files]), ABSENT);
}

/// Numbers of other tables of system calls stand for other calls.
#[test]
fn no_other_table_of_calls_leads_around_the_filter() {
    // x32: execve has a number of its own there.
    const X32: i64 = 0x4000_0000;
    for number in [X32 | 520, X32 | SYS_mmap] {
        assert_eq!(call(number, [0; 6]), ABSENT);
    }
    let thirty_two_bits = confined(|| {
        // SAFETY: getpid of the 32-bit table touches no memory, and `int 0x80` changes these registers
        // at most.
        unsafe {
            asm!("int 0x80", inout("rax") 20_u64 => _, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        0
    });
    // A kernel without that table faults.
    let faulted = Outcome::Killed(Signal::SIGSEGV);
    assert!(
        [KILLED, faulted].contains(&thirty_two_bits),
        "{thirty_two_bits:?}"
    );
}
