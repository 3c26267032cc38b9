//! Attacks on a node's memory, processors and time, by modules.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lighter_testkit::shim::{Shim, eventually};
use lighter_testkit::{Containerd, Image, Process, Version};
use serde_json::{Value, json};

/// Where this node keeps what it has compiled.
const ARTIFACTS: &str = "/var/lib/lighter/artifacts";

/// The most memory that a process of ours may take for a module of 100 MB, in kB.
const MAX_MEMORY: u64 = 400_000;

/// A number as Wasm writes it (LEB128).
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

fn section(id: u8, contents: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(contents.len()), contents].concat()
}

fn vector(id: u8, entries: &[Vec<u8>]) -> Vec<u8> {
    section(id, &[leb(entries.len()), entries.concat()].concat())
}

fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0", &sections.concat()[..]].concat()
}

/// A custom section that no node has seen before.
fn nonce() -> Vec<u8> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let text = format!("{}-{}-{count}", now.as_nanos(), std::process::id());
    section(0, &[&[0], text.as_bytes()].concat())
}

/// 25,000,000 imports of four bytes each: 100 MB, and some 100 kB of it in a compressed layer.
fn import_bomb() -> Vec<u8> {
    let count = 25_000_000;
    let imports = section(2, &[leb(count), vec![0; 4 * count]].concat());
    module(&[vector(1, &[vec![0x60, 0, 0]]), imports, nonce()])
}

/// A module that takes long to compile, `_start` of which does nothing, or is malformed.
fn laborious(functions: usize, is_valid: bool) -> Vec<u8> {
    // 0 = (0 + 1) * rotl(1, 0)
    let step = [
        0x20, 0, 0x20, 1, 0x7c, 0x20, 1, 0x20, 0, 0x89, 0x7e, 0x21, 0,
    ];
    let body = [&[0][..], &step.repeat(200), &[0x20, 0, 0x0b]].concat();
    let body = [leb(body.len()), body].concat();
    let start = if is_valid {
        vec![2, 0, 0x0b]
    } else {
        vec![3, 0, 0xff, 0x0b]
    };
    let types = [vec![0x60, 0, 0], vec![0x60, 2, 0x7e, 0x7e, 1, 0x7e]];
    let mut kinds = vec![vec![1]; functions];
    kinds.push(vec![0]);
    let mut bodies = vec![body; functions];
    bodies.push(start);
    let export = [&[6][..], b"_start", &[0], &leb(functions)].concat();
    module(&[
        vector(1, &types),
        vector(3, &kinds),
        vector(7, &[export]),
        vector(10, &bodies),
        nonce(),
    ])
}

/// The spec of a container of this file, of a pod and its namespace.
fn spec(shim: &Shim, id: &str, file: &str, pod: (&str, &str)) -> Value {
    let mut spec = shim.spec(id, &[file]);
    spec["annotations"] = json!({
        "io.kubernetes.cri.sandbox-namespace": pod.0,
        "io.kubernetes.cri.sandbox-id": pod.1,
    });
    spec
}

/// Does something, and says how much memory a process of ours had at most meanwhile, in kB: those
/// whose command line names `namespace`, as all forks of a shim do, and jobs.
fn with_peak_memory<T>(namespace: &str, work: impl FnOnce() -> T) -> (T, u64) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(memory_now(namespace));
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watch.join().unwrap())
    })
}

/// The most that any of these processes has had so far.
fn memory_now(namespace: &str) -> u64 {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let peaks = processes.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        if !line.contains(namespace) && !line.starts_with("lighter-job") {
            return None;
        }
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim().trim_end_matches(" kB").parse().ok()
    });
    peaks.max().unwrap_or(0)
}

#[test]
fn an_import_bomb_takes_little_memory_as_a_file() {
    let shim = Shim::start();
    fs::write(shim.rootfs().join("bomb.wasm"), import_bomb()).unwrap();
    let spec = shim.spec("a", &["/bomb.wasm"]);
    let (created, peak) = with_peak_memory(&shim.namespace, || shim.create("a", &spec));
    assert!(peak > 0, "no process was seen");
    assert!(peak < MAX_MEMORY, "{peak} kB");
    let error = created.unwrap_err();
    assert!(error.contains("INVALID_ARGUMENT"), "{error}");
    assert!(error.contains("more than 100000 imports"), "{error}");
}

#[test]
fn an_import_bomb_takes_little_memory_as_a_layer() {
    let containerd = Containerd::start(Version::V2);
    let image = Image::new("bomb")
        .platform("wasi", "wasm")
        .blob("application/wasm", import_bomb(), None)
        .entrypoint(["/bomb.wasm"]);
    let file = containerd.folder().join("bomb.tar");
    fs::write(&file, image.archive()).unwrap();
    let file = file.display().to_string();
    containerd
        .ctr(["images", "import", "--platform", "wasi/wasm", &file])
        .output()
        .exits(0);
    let (output, peak) = with_peak_memory(containerd.namespace(), || {
        let run = containerd.run(&image);
        run.flags(["--platform", "wasi/wasm"]).output()
    });
    assert!(peak > 0 && peak < MAX_MEMORY, "{peak} kB");
    output.fails_with(&["more than 100000 imports"]);
}

/// Whether the kernel lets root of this machine protect a process from the OOM killer: in some
/// containers it does not.
fn may_protect() -> bool {
    let script = "echo -1 > /proc/self/oom_score_adj";
    let status = Command::new("sh").args(["-c", script]).output().unwrap();
    status.status.success()
}

#[test]
fn nothing_but_containerd_and_the_shim_is_protected_from_the_oom_killer() {
    let containerd = if may_protect() { -500 } else { 300 };
    let shim = Shim::start_with_oom_score(containerd);
    let score = |pid: i32| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    assert_eq!(score(shim.pid), containerd + 1);
    // A container that says nothing of it is not protected, one that says it has what it says.
    let inherited = (containerd + 1).max(0);
    let mut cases = vec![("a", None, inherited), ("b", Some(700), 700)];
    if containerd < 0 {
        cases.push(("c", Some(-400), -400));
    }
    for (id, wanted, found) in cases {
        for args in [&["/sleep.wasm", "100"][..], &["/bin/sh", "-c", "sleep 100"]] {
            let mut spec = shim.spec(id, args);
            if let Some(wanted) = wanted {
                spec["process"]["oomScoreAdj"] = json!(wanted);
            }
            let pid = shim.create(id, &spec).unwrap();
            assert_eq!(score(pid), found, "{args:?}");
            shim.start_task(id).unwrap();
            if args[0] == "/bin/sh" && wanted.is_none() {
                let command = "cat /proc/self/oom_score_adj > /tmp/score";
                let exec = shim.process(&["/bin/sh", "-c", command]);
                assert_eq!(shim.run_exec(id, "e", &exec), Ok(0));
                let text = fs::read_to_string(shim.rootfs().join("tmp/score")).unwrap();
                assert_eq!(text.trim(), inherited.to_string());
            }
            shim.remove(id);
        }
    }
    // An operation while it works.
    fs::write(shim.rootfs().join("slow.wasm"), laborious(2000, true)).unwrap();
    let spec = shim.spec("d", &["/slow.wasm"]);
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| shim.create("d", &spec));
        let mut operation = None;
        eventually("no operation works", || {
            operation = shim.children().pop();
            operation.is_some()
        });
        let pid = operation.unwrap().pid;
        eventually("the operation is protected", || {
            let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
            text.is_ok_and(|text| text.trim() == inherited.to_string())
        });
        creating.join().unwrap().unwrap();
    });
    shim.remove("d");
}

#[test]
fn many_slow_modules_of_one_namespace_do_not_delay_anothers_start() {
    let shim = Shim::start();
    for number in 0..6 {
        let path = shim.rootfs().join(format!("slow-{number}.wasm"));
        fs::write(path, laborious(2000, true)).unwrap();
    }
    fs::write(shim.rootfs().join("new.wasm"), laborious(0, true)).unwrap();
    let finished = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (shim, finished) = (&shim, &finished);
            scope.spawn(move || {
                let id = format!("slow-{number}");
                let pod = format!("pod-{number}");
                let spec = spec(shim, &id, &format!("/{id}.wasm"), ("tenant-a", &pod));
                shim.create(&id, &spec).unwrap();
                finished.fetch_add(1, Ordering::SeqCst);
            });
        }
        eventually("nothing is compiled", || worker_of(&shim).is_some());
        // The others come to wait for their turn.
        std::thread::sleep(Duration::from_millis(500));
        let before = finished.load(Ordering::SeqCst);
        let spec = spec(&shim, "new", "/new.wasm", ("tenant-b", "pod"));
        shim.create("new", &spec).unwrap();
        let waited = finished.load(Ordering::SeqCst) - before;
        assert!(waited <= 1, "{waited} others were compiled before it");
    });
    for number in 0..6 {
        shim.remove(&format!("slow-{number}"));
    }
    shim.remove("new");
}

#[test]
fn a_module_that_fails_is_not_compiled_again_and_again() {
    let bytes = laborious(100, false);
    let mut first = String::new();
    // As a container that is restarted in another pod, too.
    for round in 0..3 {
        let shim = Shim::start();
        fs::write(shim.rootfs().join("bad.wasm"), &bytes).unwrap();
        let error = shim.create("a", &shim.spec("a", &["/bad.wasm"]));
        let error = error.unwrap_err();
        assert!(error.contains("INVALID_ARGUMENT"), "{error}");
        assert_eq!(error.contains("this was found"), round > 0, "{error}");
        if round == 0 {
            first = error;
        } else {
            let cause = "cannot be compiled: ";
            let said = first.split(cause).nth(1).unwrap();
            let said = said.split('"').next().unwrap();
            assert!(
                error.contains(said.trim_end_matches(')')),
                "{error}: {first}"
            );
        }
    }
}

fn artifacts_of(digest: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(Path::new(ARTIFACTS).join("code"))
        .into_iter()
        .flatten();
    let paths = names.flatten().map(|entry| entry.path());
    paths
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(digest)
        })
        .collect()
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

/// A compile worker that an operation of this shim has started, or its job.
fn worker_of(shim: &Shim) -> Option<Process> {
    let processes = Process::all();
    let parent = |pid: i32| {
        processes
            .iter()
            .find(|each| each.pid == pid)
            .map(|each| each.parent)
    };
    let workers = processes
        .iter()
        .filter(|each| each.comm.starts_with("lighter-compile"));
    let mut workers = workers.filter(|worker| {
        let mut above = std::iter::successors(Some(worker.pid), |pid| parent(*pid)).take(5);
        above.any(|pid| pid == shim.pid)
    });
    workers.next().cloned()
}

#[test]
fn a_compilation_goes_on_when_its_shim_is_killed() {
    let shim = Shim::start();
    let path = shim.rootfs().join("slow.wasm");
    let bytes = laborious(3000, true);
    fs::write(&path, &bytes).unwrap();
    let digest = sha256(&path);
    let spec = shim.spec("a", &["/slow.wasm"]);
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| shim.create("a", &spec));
        let mut worker = None;
        eventually("nothing is compiled", || {
            worker = worker_of(&shim);
            worker.is_some()
        });
        let job = Process::read(worker.unwrap().parent).unwrap();
        assert!(
            artifacts_of(&digest).is_empty(),
            "it is compiled already: make it slower"
        );
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(shim.pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        creating.join().unwrap().unwrap_err();
        eventually("the operation goes on", || shim.children().is_empty());
        eventually("nothing has come of the compilation", || {
            !artifacts_of(&digest).is_empty()
        });
        eventually("the job stays", || {
            Process::read(job.pid).is_none_or(|now| now.started != job.started || now.state == 'Z')
        });
    });
    // Who asks again finds it.
    let written = fs::metadata(&artifacts_of(&digest)[0])
        .unwrap()
        .modified()
        .unwrap();
    let again = Shim::start();
    fs::write(again.rootfs().join("slow.wasm"), &bytes).unwrap();
    again
        .create("a", &again.spec("a", &["/slow.wasm"]))
        .unwrap();
    let artifact = artifacts_of(&digest).remove(0);
    assert_eq!(fs::metadata(artifact).unwrap().modified().unwrap(), written);
    again.remove("a");
}

#[test]
fn an_artifact_that_a_guest_has_locked_fails_a_start_in_time() {
    let shim = Shim::start();
    let path = shim.rootfs().join("new.wasm");
    fs::write(&path, laborious(0, true)).unwrap();
    let spec = |id: &str| shim.spec(id, &["/new.wasm"]);
    shim.create("a", &spec("a")).unwrap();
    shim.remove("a");
    // As a guest that has taken its process over can, which has the file open.
    let locked = File::open(&artifacts_of(&sha256(&path))[0]).unwrap();
    locked.lock().unwrap();
    let began = Instant::now();
    let error = shim.create("b", &spec("b")).unwrap_err();
    assert!(error.contains("DEADLINE_EXCEEDED"), "{error}");
    assert!(error.contains("cannot lock"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60));
    locked.unlock().unwrap();
    shim.create("b", &spec("b")).unwrap();
    shim.remove("b");
}
