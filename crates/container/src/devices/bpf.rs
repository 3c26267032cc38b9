//! Programs of the kernel's virtual machine on a cgroup of version 2: bpf(2), which no library
//! of ours wraps.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// The name of the programs made here, by which an update finds them again.
const NAME: &[u8; 16] = b"lighter_devices\0";

// Numbers of linux/bpf.h.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// As many programs as the kernel lets a cgroup have (BPF_CGROUP_MAX_PROGS).
const MAX_ATTACHED: usize = 64;
const INSTRUCTION: usize = 8;

// Each command's part of `union bpf_attr`: plain numbers, no padding.

#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
}

#[repr(C)]
struct ById {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct ByDescriptor {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Information {
    before_name: [u64; 8],
    name: [u8; 16],
}

/// A program that the kernel has accepted.
pub(super) struct Program(OwnedFd);

/// How often a program is loaded before a failure counts, as in libbpf.
const TRIES: u32 = 5;

impl Program {
    /// Loads it; EPERM without CAP_BPF or CAP_SYS_ADMIN, EINVAL or ENOSYS where the kernel has no
    /// such programs.
    pub(super) fn load(instructions: &[u8]) -> nix::Result<Self> {
        let mut attributes = Load {
            prog_type: PROG_TYPE_CGROUP_DEVICE,
            insn_cnt: number(instructions.len() / INSTRUCTION),
            insns: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name: *NAME,
        };
        let mut tries = TRIES;
        loop {
            tries -= 1;
            // SAFETY: the kernel reads `insn_cnt` instructions of eight bytes, which `instructions`
            // has, and the license up to its NUL.
            match unsafe { bpf(PROG_LOAD, &mut attributes) } {
                // Before Linux 5.11 programs count as locked memory. The limit is this operation's
                // alone: the container's processes are there already.
                Err(Errno::EPERM) if tries > 0 => lift_lock_limit(),
                // A signal has come, as a child's end: the kernel's check of a program gives way.
                Err(Errno::EAGAIN) if tries > 0 => {}
                loaded => return loaded.map(owned).map(Self),
            }
        }
    }

    /// Lets it decide for this cgroup, in the place of a program of ours that did so before.
    /// At no moment there is none. Programs of others stay: they can but deny more.
    pub(super) fn attach(&self, cgroup: &File) -> nix::Result<()> {
        let old = ours(cgroup)?;
        if let [old] = &old[..] {
            match self.attach_to(cgroup, Some(old)) {
                // Before Linux 5.6 none can be replaced.
                Err(Errno::EINVAL) => {}
                replaced => return replaced,
            }
        }
        self.attach_to(cgroup, None)?;
        old.iter().try_for_each(|old| old.detach(cgroup))
    }

    fn attach_to(&self, cgroup: &File, instead_of: Option<&Self>) -> nix::Result<()> {
        let mut attributes = Attach {
            target_fd: descriptor(cgroup),
            attach_bpf_fd: descriptor(&self.0),
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: ALLOW_MULTI | instead_of.map_or(0, |_| REPLACE),
            replace_bpf_fd: instead_of.map_or(0, |old| descriptor(&old.0)),
        };
        // SAFETY: there is no address in it.
        unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
    }

    fn detach(&self, cgroup: &File) -> nix::Result<()> {
        let mut attributes = Attach {
            target_fd: descriptor(cgroup),
            attach_bpf_fd: descriptor(&self.0),
            attach_type: ATTACH_CGROUP_DEVICE,
            attach_flags: 0,
            replace_bpf_fd: 0,
        };
        // SAFETY: there is no address in it.
        unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
    }

    fn name(&self) -> nix::Result<[u8; 16]> {
        let mut information = Information::default();
        let mut attributes = ByDescriptor {
            bpf_fd: descriptor(&self.0),
            info_len: number(size_of::<Information>()),
            info: (&raw mut information) as u64,
        };
        // SAFETY: the kernel writes at most `info_len` bytes of numbers to `information`, which
        // lives longer than the call.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }?;
        Ok(information.name)
    }
}

/// The programs of this cgroup that were made here.
fn ours(cgroup: &File) -> nix::Result<Vec<Program>> {
    let mut ids = [0u32; MAX_ATTACHED];
    let mut attributes = Query {
        target_fd: descriptor(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: number(ids.len()),
        reserved: 0,
    };
    // SAFETY: the kernel writes at most `prog_cnt` numbers to `ids`, which lives longer than the
    // call.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    let attached = ids.iter().take(attributes.prog_cnt as usize);
    let programs = attached.filter_map(|id| {
        let mut attributes = ById {
            prog_id: *id,
            next_id: 0,
            open_flags: 0,
        };
        // SAFETY: there is no address in it.
        let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attributes) };
        // One that a security module hides, or that has just gone, is none of ours.
        let program = Program(owned(fd.ok()?));
        (program.name().ok()? == *NAME).then_some(program)
    });
    Ok(programs.collect())
}

/// The system call; answers the descriptor that some commands make.
///
/// # Safety
///
/// `attributes` has to be what the command takes (bpf(2)), and the addresses and lengths in it
/// those of memory that the kernel may read or write during the call.
unsafe fn bpf<A>(command: libc::c_long, attributes: &mut A) -> nix::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes the bytes of `attributes`, which is borrowed for the
    // call, and what the caller answers for.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    Errno::result(answer)
}

fn lift_lock_limit() {
    let none = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: it reads the structure, which lives longer than the call. Whether it has had an
    // effect is seen by what is tried next.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) };
}

/// A length or descriptor in the type that the kernel's structures have for it.
fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn descriptor(file: &impl AsRawFd) -> u32 {
    file.as_raw_fd().cast_unsigned()
}

fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = i32::try_from(fd).expect("the kernel has answered a descriptor");
    // SAFETY: the system call has just made it, close-on-exec, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use oci_spec::runtime::LinuxDeviceCgroup;

    use super::super::program::assemble;
    use super::super::rules::Rules;
    use super::*;

    /// A cgroup of version 2, which every kernel that this runs on has beside those of version 1.
    struct Cgroup(tempfile::TempDir);

    impl Cgroup {
        fn new() -> Self {
            let mountpoint = tempfile::tempdir().unwrap();
            mount(
                None::<&str>,
                mountpoint.path(),
                Some("cgroup2"),
                MsFlags::empty(),
                None::<&str>,
            )
            .expect("mount cgroup2: these tests run as root");
            let cgroup = Self(mountpoint);
            std::fs::create_dir(cgroup.path()).unwrap();
            cgroup
        }

        fn path(&self) -> std::path::PathBuf {
            let name = format!("lighter-unit-{}", std::process::id());
            self.0.path().join(name)
        }

        fn open(&self) -> File {
            File::open(self.path()).unwrap()
        }

        /// What `sh` says who runs this in the cgroup.
        fn run(&self, script: &str) -> bool {
            let join = format!("echo $$ > {}/cgroup.procs; {script}", self.path().display());
            let mut shell = Command::new("sh");
            let status = shell.args(["-c", &join]).status().unwrap();
            status.success()
        }
    }

    impl Drop for Cgroup {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(self.path());
            let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
        }
    }

    fn program(json: &str) -> Program {
        let rules = serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap();
        Program::load(&assemble(&Rules::parse(&rules).unwrap())).unwrap()
    }

    #[test]
    fn the_kernel_enforces_it_and_a_newer_one_takes_its_place() {
        let cgroup = Cgroup::new();
        let folder = cgroup.open();
        assert!(Path::new("/dev/kmsg").exists());
        let writes = || cgroup.run(": > /dev/kmsg");
        assert!(writes());
        program("[]").attach(&folder).unwrap();
        assert!(!writes());
        assert!(cgroup.run(": <> /dev/null && : < /dev/urandom"));
        program(r#"[{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "w"}]"#)
            .attach(&folder)
            .unwrap();
        assert!(writes());
        assert!(!cgroup.run(": <> /dev/kmsg"));
        program(r#"[{"allow": true}]"#).attach(&folder).unwrap();
        assert!(cgroup.run(": <> /dev/kmsg"));
        assert_eq!(ours(&folder).unwrap().len(), 1);
    }

    /// The kernel follows each way through a program before it takes it.
    #[test]
    fn the_kernel_takes_as_many_rules_as_anybody_has() {
        let rules: Vec<String> = (0..500)
            .map(|number| {
                let access = ["r", "w", "m", "rw", "rwm"][number % 5];
                let (allow, major) = (number % 3 != 0, number % 7 + 1);
                format!(
                    r#"{{"allow": {allow}, "type": "c", "major": {major}, "minor": {number}, "access": "{access}"}}"#
                )
            })
            .collect();
        program(&format!("[{}]", rules.join(",")));
    }
}
