//! The system calls that compiling needs. Any other one kills the worker.
//!
//! It has its input and its output open already, so it opens nothing, starts nothing and
//! makes nothing executable.

use std::collections::BTreeMap;

use libc::{
    SYS_brk, SYS_clock_gettime, SYS_clone, SYS_clone3, SYS_exit, SYS_exit_group, SYS_futex,
    SYS_getpid, SYS_getrandom, SYS_gettid, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap,
    SYS_munmap, SYS_openat, SYS_read, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sched_getaffinity, SYS_sched_yield,
    SYS_set_robust_list, SYS_sigaltstack, SYS_tgkill, SYS_write,
};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters the calls of this thread, and of all that it starts.
pub(super) fn install() -> Result<(), Error> {
    // A new thread is started by clone3, whose flags stand in memory where no filter can read
    // them. Told that there is no clone3, the C library uses clone.
    let absent = rules(&[SYS_clone3]);
    // The allocator looks for a setting of the kernel, and does without.
    let denied = rules(&[SYS_openat]);
    let mut allowed = allowed()?;
    // Of several filters the sternest answer counts, so these have to pass the last one.
    for call in absent.keys().chain(denied.keys()) {
        allowed.insert(*call, Vec::new());
    }
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    for (rules, matched, otherwise) in [
        (absent, errno(libc::ENOSYS), SeccompAction::Allow),
        (denied, errno(libc::EACCES), SeccompAction::Allow),
        (allowed, SeccompAction::Allow, SeccompAction::KillProcess),
    ] {
        // Installing a filter takes prctl and seccomp, so the one that forbids them is last.
        let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?;
        apply_filter(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

fn allowed() -> Result<Rules, Error> {
    let mut rules = rules(&[
        // Memory.
        SYS_brk,
        SYS_madvise,
        SYS_mremap,
        SYS_munmap,
        // Threads: they are born, wait for each other, and end.
        SYS_exit,
        SYS_exit_group,
        SYS_futex,
        SYS_gettid,
        SYS_restart_syscall,
        SYS_rseq,
        SYS_rt_sigprocmask,
        SYS_sched_getaffinity,
        SYS_sched_yield,
        SYS_set_robust_list,
        SYS_sigaltstack,
        // Seeds of hash tables.
        SYS_getrandom,
        // On machines whose clock the C library cannot read by itself.
        SYS_clock_gettime,
        // Ending by abort, also when the stack overflows, with a line that says why.
        SYS_getpid,
        SYS_rt_sigaction,
        SYS_rt_sigreturn,
    ]);
    rules.insert(SYS_read, vec![rule(&[is(0, 0)?])?]);
    rules.insert(SYS_write, vec![rule(&[is(0, 1)?])?, rule(&[is(0, 2)?])?]);
    // Never code: what it compiles is run by others, from the file.
    for call in [SYS_mmap, SYS_mprotect] {
        rules.insert(call, vec![rule(&[has(2, libc::PROT_EXEC, 0)?])?]);
    }
    // Threads of this process, in its namespaces: no new process.
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    let apart = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let flags = has(0, thread | apart, thread)?;
    rules.insert(SYS_clone, vec![rule(&[flags])?]);
    // Abort: others that run as nobody could be signalled too.
    let own = u64::from(std::process::id());
    rules.insert(SYS_tgkill, vec![rule(&[is(0, own)?])?]);
    Ok(rules)
}

/// Rules that look at no argument.
fn rules(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(conditions.to_vec())?)
}

/// That an argument has a value. All that are asked for have 32 bits.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    let operation = SeccompCmpOp::Eq;
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operation,
        value,
    )?)
}

/// That those bits of an argument which are set in `mask` are `value`.
fn has(argument: u8, mask: i32, value: i32) -> Result<SeccompCondition, Error> {
    let bits = |number: i32| u64::from(number as u32);
    let operation = SeccompCmpOp::MaskedEq(bits(mask));
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operation,
        bits(value),
    )?)
}
