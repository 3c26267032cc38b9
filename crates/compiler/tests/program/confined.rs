//! What the confinement of the compile worker leaves possible, tried from inside.
#![allow(unsafe_code)] // System calls that no well-behaved program makes.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::ptr;

use crate::confine::{Limits, confine};

crate::tests![
    what_compiling_does_not_need_kills,
    files_cannot_be_opened,
    threads_can_be_started,
    it_can_say_why_it_ends,
];

/// First argument of a confined process; the second says what it tries.
pub const ROLE: &str = "--be-confined";

/// Exit status when a call was made and succeeded.
const DONE: i32 = 90;

/// Confines itself and makes one system call.
pub fn be_confined(attempt: &str) -> ! {
    let limits = Limits {
        memory: 1 << 30,
        seconds: 10,
        output: 1 << 20,
        cgroups: Vec::new(),
    };
    // Made before, as it could not be made afterwards.
    let page = map(libc::PROT_READ | libc::PROT_WRITE);
    confine(&limits).unwrap();
    match attempt {
        "thread" => {
            std::thread::spawn(|| {}).join().unwrap();
            std::process::exit(DONE);
        }
        "panic" => {
            let _ = std::panic::catch_unwind(|| panic!("as asked for"));
            std::process::exit(101);
        }
        "stack overflow" => {
            std::process::exit(endless(1));
        }
        _ => {}
    }
    // SAFETY: calls that change nothing in this process if they succeed, which ends then.
    let result = unsafe {
        match attempt {
            "socket" => libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0),
            "unix socket" => libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0),
            "execve" => libc::execve(c"/bin/true".as_ptr(), ptr::null(), ptr::null()),
            "fork" => libc::fork(),
            "ptrace" => libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) as i32,
            "mmap code" => map(libc::PROT_READ | libc::PROT_EXEC) as i32,
            "mprotect code" => libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC),
            "kill" => libc::kill(1, 0),
            "another's thread" => libc::syscall(libc::SYS_tgkill, 1, 1, 0) as i32,
            "unshare" => libc::unshare(libc::CLONE_NEWUSER),
            "new namespace" => {
                libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, 0, 0, 0, 0) as i32
            }
            "memfd" => libc::memfd_create(c"x".as_ptr(), 0),
            "setrlimit" => libc::setrlimit(
                libc::RLIMIT_DATA,
                &libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                },
            ),
            "another stream" => libc::write(5, c"x".as_ptr().cast(), 1) as i32,
            "io_uring" => libc::syscall(libc::SYS_io_uring_setup, 1, 0) as i32,
            "bpf" => libc::syscall(libc::SYS_bpf, 0, 0, 0) as i32,
            "open" => libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY),
            "abort" => libc::abort(),
            other => panic!("unknown: {other}"),
        }
    };
    let errno = std::io::Error::last_os_error().raw_os_error();
    std::process::exit(if result == -1 {
        errno.unwrap_or(0)
    } else {
        DONE
    });
}

/// Uses up the stack.
fn endless(depth: i32) -> i32 {
    let frame = std::hint::black_box([depth; 1000]);
    if frame[7] == 0 {
        return 0;
    }
    endless(frame[7] + 1) + frame[8]
}

fn map(protection: i32) -> *mut libc::c_void {
    // SAFETY: a new mapping at an address that the kernel chooses.
    unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    }
}

fn attempt(what: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args([ROLE, what])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap()
}

fn what_compiling_does_not_need_kills() {
    for what in [
        "socket",
        "unix socket",
        "execve",
        "fork",
        "ptrace",
        "mmap code",
        "mprotect code",
        "kill",
        "another's thread",
        "unshare",
        "new namespace",
        "memfd",
        "setrlimit",
        "another stream",
        "io_uring",
        "bpf",
    ] {
        let status = attempt(what);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{what}: {status}");
    }
}

fn files_cannot_be_opened() {
    // An error and not the end: libraries look for files that they can do without.
    assert_eq!(attempt("open").code(), Some(libc::EACCES));
}

fn threads_can_be_started() {
    assert_eq!(attempt("thread").code(), Some(DONE));
}

fn it_can_say_why_it_ends() {
    assert_eq!(attempt("abort").signal(), Some(libc::SIGABRT));
    assert_eq!(attempt("panic").code(), Some(101));
    // The handler of the standard library says so and aborts.
    assert_eq!(attempt("stack overflow").signal(), Some(libc::SIGABRT));
}
