//! The files of our own programs, as a container could reach them: `/proc/PID/exe` of each process
//! of ours leads to the file that it executes (class of CVE-2019-5736).
//!
//! The attack is `test/guests/native/overwrite.c`. It gets hold of the files while their processes
//! run, and goes on after all of them have ended, as the kernel refuses to write to a program
//! that runs.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use lighter_testkit::shim::{DEFAULT_CAPABILITIES, Shim, Stdio, eventually};
use lighter_testkit::{Process, guest, shim_folder};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Copies of programs, which an attack that works may spoil.
struct Programs {
    dir: TempDir,
    before: Vec<(PathBuf, Vec<u8>, u32)>,
}

impl Programs {
    fn new(originals: &[PathBuf]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let before = originals
            .iter()
            .map(|original| {
                let path = dir.path().join(original.file_name().unwrap());
                fs::copy(original, &path).unwrap();
                let mode = fs::metadata(&path).unwrap().mode();
                (path.clone(), fs::read(&path).unwrap(), mode)
            })
            .collect();
        Self { dir, before }
    }

    fn ours() -> Self {
        let names = ["containerd-shim-wasmtime-v1", "lighter-compiler"];
        Self::new(&names.map(|name| shim_folder().join(name)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The arguments by which the attack finds them.
    fn identities(&self) -> Vec<String> {
        let files = self.before.iter().map(|(path, ..)| identity(path).unwrap());
        files.collect()
    }

    /// Those that are not what they were.
    fn changed(&self) -> Vec<&Path> {
        let changed = self.before.iter().filter(|(path, bytes, mode)| {
            fs::read(path).unwrap() != *bytes || fs::metadata(path).unwrap().mode() != *mode
        });
        changed.map(|(path, ..)| path.as_path()).collect()
    }
}

fn identity(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    Some(format!("{}:{}", found.dev(), found.ino()))
}

/// A Linux container of a shim that attacks.
struct Attacker<'a> {
    shim: &'a Shim,
    id: &'static str,
    pid: i32,
}

impl<'a> Attacker<'a> {
    /// One with the default capabilities and `more`, that `edit` changes further.
    fn start(
        shim: &'a Shim,
        id: &'static str,
        programs: &Programs,
        more: &[&str],
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let program = shim.rootfs().join("overwrite");
        if !program.exists() {
            fs::copy(guest("overwrite"), &program).unwrap();
        }
        let identities = programs.identities();
        let mut args = vec!["/overwrite"];
        args.extend(identities.iter().map(String::as_str));
        let mut spec = shim.spec(id, &args);
        give_capabilities(&mut spec, more);
        edit(&mut spec);
        fs::create_dir_all(shim.bundle(id)).unwrap();
        File::create(shim.bundle(id).join("stdout")).unwrap();
        let pid = shim.create(id, &spec).unwrap();
        shim.start_task(id).unwrap();
        let attacker = Self { shim, id, pid };
        eventually("the attack does not begin", || attacker.rounds() > 0);
        attacker
    }

    /// Its process namespace, for who joins it.
    fn pid_namespace(&self) -> String {
        format!("/proc/{}/ns/pid", self.pid)
    }

    fn output(&self) -> String {
        fs::read_to_string(self.shim.bundle(self.id).join("stdout")).unwrap()
    }

    fn rounds(&self) -> usize {
        self.output()
            .lines()
            .filter(|line| *line == "round")
            .count()
    }

    /// Waits until it has tried everything that it has got hold of.
    fn await_rounds(&self) {
        let until = self.rounds() + 5;
        eventually("the attack does not go on", || self.rounds() >= until);
    }

    /// Waits until it has got hold of the file of the process `pid`, as the host numbers it.
    fn await_hold(&self, what: &str, pid: i32) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let own = fs::read_link(self.pid_namespace()).unwrap();
        let host = fs::read_link("/proc/self/ns/pid").unwrap();
        let number = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .and_then(|numbers| match own == host {
                true => numbers.split_whitespace().next(),
                false => numbers.split_whitespace().last(),
            })
            .unwrap();
        let line = format!("has {number} ");
        eventually(&format!("the file of {what} is not reached"), || {
            self.output().lines().any(|each| each.starts_with(&line))
        });
    }

    /// What it has managed to do.
    fn feats(&self) -> Vec<String> {
        let output = self.output();
        let lines = output.lines().map(str::to_owned);
        let mut feats: Vec<String> = lines
            .filter(|line| line.starts_with("WROTE") || line.starts_with("CHANGED"))
            .collect();
        feats.sort();
        feats.dedup();
        feats
    }
}

impl Drop for Attacker<'_> {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

fn give_capabilities(spec: &mut Value, more: &[&str]) {
    let all: Vec<&str> = DEFAULT_CAPABILITIES.iter().chain(more).copied().collect();
    spec["process"]["capabilities"] =
        json!({ "bounding": all, "effective": all, "permitted": all });
}

fn join(spec: &mut Value, attacker: &Attacker<'_>) {
    give_capabilities(spec, &[]);
    spec["linux"]["namespaces"][0] = json!({ "type": "pid", "path": attacker.pid_namespace() });
}

/// The processes that execute a file of `programs`.
fn processes_of(programs: &Programs) -> Vec<Process> {
    let identities = programs.identities();
    let mut processes = Process::all();
    processes.retain(|process| {
        let file = identity(Path::new(&format!("/proc/{}/exe", process.pid)));
        file.is_some_and(|file| identities.contains(&file))
    });
    processes
}

fn kill_all(programs: &Programs) {
    eventually("our programs still run", || {
        let processes = processes_of(programs);
        for process in &processes {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        processes.is_empty()
    });
}

/// Each process of a pod that shares its processes is a fork of the shim, for a while or for all of
/// its life; and a script whose interpreter is `/proc/self/exe` executes the shim once more.
#[test]
fn no_process_of_a_pod_leads_to_a_file_that_can_be_written_to() {
    let programs = Programs::ours();
    let shim = Shim::start_from(&programs.path("containerd-shim-wasmtime-v1"));
    let script = shim.rootfs().join("script");
    fs::write(&script, "#!/proc/self/exe -bundle\n").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();

    let plain = Attacker::start(&shim, "plain", &programs, &[], |_| {});
    // Some processes are nobody's to look at without it.
    let tracer = Attacker::start(&shim, "tracer", &programs, &["CAP_SYS_PTRACE"], |spec| {
        spec["linux"]["namespaces"][0] = json!({ "type": "pid", "path": plain.pid_namespace() });
    });

    let mut spec = shim.spec("created", &["/bin/sh"]);
    join(&mut spec, &plain);
    let created = shim.create("created", &spec).unwrap();

    let mut spec = shim.spec("guest", &["/sleep.wasm", "100"]);
    join(&mut spec, &plain);
    let running = shim.create("guest", &spec).unwrap();
    shim.start_task("guest").unwrap();
    let process = shim.process(&["/sleep.wasm", "100"]);
    shim.exec("guest", "more", &process, Stdio::default())
        .unwrap();
    let exec = shim.start_exec("guest", "more").unwrap();

    // It is `start` of the shim, which waits for the end of its stdin.
    let args = ["/script", "-namespace", "a", "-id", "a", "start"];
    let mut spec = shim.spec("script", &args);
    join(&mut spec, &plain);
    let stdin = shim.fifo("script", "stdin");
    let _stdin = File::options().read(true).write(true).open(stdin).unwrap();
    let itself = shim.create("script", &spec).unwrap();
    shim.start_task("script").unwrap();

    plain.await_hold("the script", itself);
    for (what, pid) in [
        ("a created container", created),
        ("a guest", running),
        ("an exec", exec),
        ("the script", itself),
    ] {
        tracer.await_hold(what, pid);
    }
    kill_all(&programs);
    for attacker in [&plain, &tracer] {
        attacker.await_rounds();
        assert_eq!(attacker.feats(), Vec::<String>::new());
    }
    assert_eq!(programs.changed(), Vec::<&Path>::new());
}

/// Who shares the node's processes and may trace sees the shim, and the worker that compiles.
#[test]
fn the_files_of_shim_and_compile_worker_cannot_be_written_to() {
    let programs = Programs::ours();
    let shim = Shim::start_from(&programs.path("containerd-shim-wasmtime-v1"));
    // A module that takes long, and that nobody has compiled before.
    let mut slow = fs::read(guest("python-cli")).unwrap();
    let name = format!("{:032}", std::process::id());
    slow.extend([0, 33, 32]);
    slow.extend(name.bytes());
    fs::write(shim.rootfs().join("slow.wasm"), slow).unwrap();

    let attacker = Attacker::start(&shim, "attacker", &programs, &["CAP_SYS_PTRACE"], |spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .remove(0);
    });
    attacker.await_hold("the shim", shim.pid);
    std::thread::scope(|scope| {
        let create = scope.spawn(|| shim.create("slow", &shim.spec("slow", &["/slow.wasm"])));
        let compiler = identity(&programs.path("lighter-compiler"));
        let mut worker = None;
        eventually("nothing is compiled", || {
            let processes = processes_of(&programs);
            worker = processes.into_iter().find(|process| {
                identity(Path::new(&format!("/proc/{}/exe", process.pid))) == compiler
            });
            worker.is_some()
        });
        let worker = worker.unwrap();
        eventually("the worker has no name", || {
            Process::read(worker.pid).is_some_and(|worker| worker.comm == "lighter-compile")
        });
        attacker.await_hold("the compile worker", worker.pid);
        kill_all(&programs);
        create.join().unwrap().unwrap_err();
    });
    attacker.await_rounds();
    assert_eq!(attacker.feats(), Vec::<String>::new());
    assert_eq!(programs.changed(), Vec::<&Path>::new());
}

/// A process that executes `program` where `attacker` sees it.
#[expect(clippy::disallowed_methods, reason = "a test may have children")]
fn victim(kind: &str, attacker: &Attacker<'_>, program: &Path) -> Child {
    Command::new(guest("overwrite"))
        .args(["victim", kind, &attacker.pid_namespace()])
        .arg(program)
        .args(["sleep", "100"])
        .spawn()
        .unwrap()
}

/// The attack works on programs that are executed as they are, and on those that are executed through a
/// read-only mount of the file.
#[test]
fn the_attack_overwrites_what_is_not_sealed() {
    let busybox = [PathBuf::from("/bin/busybox")];
    for kind in ["plain", "file"] {
        let programs = Programs::new(&busybox);
        let shim = Shim::start();
        let attacker = Attacker::start(&shim, "attacker", &programs, &[], |_| {});
        let mut victim = victim(kind, &attacker, &programs.path("busybox"));
        eventually("nothing is executed", || {
            !processes_of(&programs).is_empty()
        });
        let pid = processes_of(&programs)[0].pid;
        attacker.await_hold("the victim", pid);
        kill_all(&programs);
        victim.wait().unwrap();
        attacker.await_rounds();
        assert!(
            attacker
                .feats()
                .iter()
                .any(|feat| feat.starts_with("WROTE")),
            "{kind}: {}",
            attacker.output()
        );
        assert_eq!(programs.changed().len(), 1, "{kind}");
    }
}

/// Nothing of the mount but the program itself is left open, and the shim is called what it was.
#[test]
fn a_sealed_shim_holds_no_directory_of_the_host() {
    let shim = Shim::start();
    let links: Vec<PathBuf> = fs::read_dir(format!("/proc/{}/fd", shim.pid))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
        .collect();
    let is_file = |link: &&PathBuf| link.is_absolute() && !link.ends_with("null");
    let files: Vec<&PathBuf> = links.iter().filter(is_file).collect();
    assert_eq!(files, [&shim.rootfs().with_file_name("log")], "{links:?}");
    let process = Process::read(shim.pid).unwrap();
    assert_eq!(process.comm, "containerd-shim");
    let line = &process.command_line;
    assert!(
        line.contains("containerd-shim-wasmtime-v1 -namespace"),
        "{line}"
    );
    assert!(line.contains(" -address /nowhere "), "{line}");
}
