//! Entrypoints and working directories that are to lead out of the container: through links, descriptors
//! and procfs (class of CVE-2024-21626), and to what is no file.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lighter_testkit::guest;
use lighter_testkit::shim::Shim;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::{Canary, SECRET, assert_blames_the_caller, assert_nothing_left};

/// Demands that a container does not run the program of the host, and that nothing is left.
#[track_caller]
fn refused(shim: &Shim, what: &str, spec: &Value) -> String {
    let error = refusal(shim, what, spec);
    assert_blames_the_caller(what, &error);
    error
}

/// The error of a Create that fails in time and leaves nothing.
#[track_caller]
fn refusal(shim: &Shim, what: &str, spec: &Value) -> String {
    let begin = Instant::now();
    match shim.create("attack", spec) {
        Err(error) => {
            assert_nothing_left(shim);
            let time = begin.elapsed();
            assert!(time < Duration::from_secs(20), "{what} took {time:?}");
            error
        }
        Ok(_) => {
            let _ = shim.start_task("attack");
            panic!("{what} was created, and ended with {}", shim.wait("attack"));
        }
    }
}

fn bind(source: &Path, destination: &str) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"] })
}

#[test]
fn a_path_leads_to_no_file_of_the_host() {
    let (shim, canary) = (Shim::start(), Canary::new());
    let (root, host, climbing) = (shim.rootfs(), canary.path(), canary.climbing());
    let volume = tempfile::tempdir().unwrap();
    let link = |target: &str, name: &str| symlink(target, root.join(name)).unwrap();
    link(&format!("{host}/host.wasm"), "absolute");
    link(&format!("{climbing}/host.wasm"), "relative");
    link(&host, "middle");
    link(&climbing, "climbing");
    link("two", "one");
    link("/three", "two");
    link("middle", "three");
    link(&format!("/proc/self/root{host}/host.wasm"), "magic");
    link(
        &format!("/proc/self/fd/3/{climbing}/host.wasm"),
        "descriptor",
    );
    link("/proc/self/exe", "exe");
    link("loop", "loop");
    for number in 0..60 {
        link(&format!("long{}", number + 1), &format!("long{number}"));
    }
    link("/middle/host.wasm", "long60");
    symlink(&host, volume.path().join("out")).unwrap();
    symlink(&climbing, volume.path().join("up")).unwrap();
    symlink("/middle", volume.path().join("back")).unwrap();

    let mut paths: Vec<String> = [
        "/absolute",
        "/relative",
        "/middle/host.wasm",
        "/climbing/host.wasm",
        "/one/host.wasm",
        "/magic",
        "/descriptor",
        "/exe",
        "/loop",
        "/loop/host.wasm",
        "/long0",
        "/volume/out/host.wasm",
        "/volume/up/host.wasm",
        "/volume/back/host.wasm",
        "/volume/../middle/host.wasm",
        "/hello.wasm/../middle/host.wasm/..",
        "/proc/self/cwd/host.wasm",
        "/proc/self/exe",
        "/proc/1/exe",
        "/proc/self/map_files",
        "/dev/fd/3",
        "/dev/stdin",
        "host.wasm",
    ]
    .map(str::to_owned)
    .to_vec();
    for process in ["self", "1", "thread-self", "2"] {
        paths.push(format!("/proc/{process}/root{host}/host.wasm"));
        paths.push(format!("/proc/{process}/cwd/{climbing}/host.wasm"));
    }
    for descriptor in 0..64 {
        paths.push(format!("/proc/self/fd/{descriptor}"));
        paths.push(format!("/proc/self/fd/{descriptor}/{climbing}/host.wasm"));
    }
    paths.push(format!("/{climbing}/host.wasm"));
    paths.push(format!("{climbing}/host.wasm"));
    paths.push(format!("/bin/{climbing}/host.wasm#main"));
    paths.push(format!("/{}", "a/".repeat(3000)));
    paths.push(format!("/{}", "b".repeat(300)));
    for path in paths {
        let mut spec = shim.spec("attack", &[&path, "7"]);
        spec["process"]["env"] = json!([format!("PATH=/middle:{climbing}:{host}:/volume/out")]);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(bind(volume.path(), "/volume"));
        refused(&shim, &path, &spec);
    }
    canary.assert_unchanged();
    // What would have run, had one of them led there.
    let mut spec = shim.spec("attack", &["/volume/host.wasm", "7"]);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(bind(Path::new(&host), "/volume"));
    shim.create("attack", &spec).unwrap();
    shim.start_task("attack").unwrap();
    assert_eq!(shim.wait("attack"), 7);
    shim.delete("attack").unwrap();
    // The same of an exec, whose root is that of the container.
    shim.create("good", &shim.spec("good", &["/sleep.wasm", "100"]))
        .unwrap();
    shim.start_task("good").unwrap();
    for path in [
        "/absolute",
        "/climbing/host.wasm",
        "/magic",
        "/exe",
        "/long0",
    ] {
        let error = shim.run_exec("good", "e", &shim.process(&[path, "7"]));
        assert_blames_the_caller(path, &error.unwrap_err());
    }
    shim.remove("good");
    assert_nothing_left(&shim);
    canary.assert_unchanged();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test has threads")]
fn what_is_no_file_is_neither_run_nor_opened() {
    let shim = Shim::start();
    let root = shim.rootfs();
    let fifo = root.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    for (name, kind, device) in [
        // zero, which never ends; a terminal's multiplexer, which makes one for whoever opens it; and
        // a disk.
        ("zero", SFlag::S_IFCHR, makedev(1, 5)),
        ("ptmx", SFlag::S_IFCHR, makedev(5, 2)),
        ("nothing", SFlag::S_IFCHR, makedev(4095, 77)),
        ("disk", SFlag::S_IFBLK, makedev(7, 0)),
    ] {
        mknod(&root.join(name), kind, Mode::S_IRWXU, device).unwrap();
    }
    let huge = |name: &str, head: &[u8]| {
        fs::write(root.join(name), head).unwrap();
        let file = File::options().write(true).open(root.join(name)).unwrap();
        file.set_len(1 << 41).unwrap();
    };
    huge("huge.wasm", b"\0asm\x01\0\0\0");
    huge("huge", b"\0");
    symlink("fifo", root.join("link")).unwrap();

    // Goes on as soon as anybody opens the FIFO.
    let waiting = fifo.clone();
    let writer = thread::spawn(move || File::options().write(true).open(waiting));
    for path in [
        "/fifo", "/link", "/socket", "/zero", "/ptmx", "/nothing", "/disk", "/", "/bin", "/tmp",
    ] {
        let error = refused(&shim, path, &shim.spec("attack", &[path]));
        assert!(error.contains("not a regular file"), "{path}: {error}");
    }
    for path in ["/huge.wasm", "/huge"] {
        let error = refusal(&shim, path, &shim.spec("attack", &[path]));
        // What is longer than this node accepts may be accepted by another one.
        let class = if path == "/huge.wasm" {
            "RESOURCE_EXHAUSTED"
        } else {
            "INVALID_ARGUMENT"
        };
        assert!(error.contains(class), "{path}: {error}");
    }
    thread::sleep(Duration::from_millis(100));
    assert!(!writer.is_finished(), "the FIFO was opened");
    drop(File::open(fifo).unwrap());
    writer.join().unwrap().unwrap();

    let volume = tempfile::tempdir().unwrap();
    mkfifo(&volume.path().join("fifo"), Mode::S_IRWXU).unwrap();
    let mut spec = shim.spec("attack", &["/volume"]);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(bind(&volume.path().join("fifo"), "/volume"));
    refused(&shim, "a volume that is a FIFO", &spec);
}

/// A directory of a volume that a neighbour swaps for a link to the host, and back, all the time.
#[test]
fn a_link_that_is_swapped_during_the_look_up_leads_nowhere() {
    let (shim, canary) = (Shim::start(), Canary::new());
    let volume = tempfile::tempdir().unwrap();
    let [swap, other] = ["swap", "other"].map(|name| volume.path().join(name));
    fs::create_dir(&swap).unwrap();
    // It takes the status for a word to ignore, and the host's program exits with it.
    fs::copy(guest("hello"), swap.join("host.wasm")).unwrap();
    symlink(canary.path(), &other).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let exchange = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &swap, AT_FDCWD, &other, exchange).unwrap();
            }
        });
        let mut outcomes = [0, 0];
        for round in 0..200 {
            let id = format!("round{round}");
            let mut spec = shim.spec(&id, &["/volume/swap/host.wasm", "7"]);
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(bind(volume.path(), "/volume"));
            match shim.create(&id, &spec) {
                Ok(_) => {
                    shim.start_task(&id).unwrap();
                    assert_eq!(shim.wait(&id), 0, "the host's program ran");
                    shim.delete(&id).unwrap();
                    outcomes[0] += 1;
                }
                Err(error) => {
                    assert_blames_the_caller("the swapped link", &error);
                    outcomes[1] += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            outcomes.iter().all(|count| *count > 0),
            "no race: {outcomes:?}"
        );
    });
    assert_nothing_left(&shim);
    canary.assert_unchanged();
}

/// A program of the image that looks around where it was started, and writes down what it sees.
fn look_around(shim: &Shim, cwd: &str, out: &Path, climbing: &str) -> Value {
    let script = format!(
        "for f in secret ./{climbing}/secret ../secret; do cat $f; done >/out/seen 2>/dev/null; \
         echo made >made; cat ./{climbing}/tool >/out/tool 2>/dev/null; exit 0"
    );
    let mut spec = shim.spec("cwd", &["/bin/sh", "-c", &script]);
    spec["process"]["cwd"] = cwd.into();
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(bind(out, "/out"));
    spec
}

#[test]
fn a_working_directory_is_one_of_the_container() {
    let (shim, canary) = (Shim::start(), Canary::new());
    let (root, host, climbing) = (shim.rootfs(), canary.path(), canary.climbing());
    for (target, name) in [
        (&*host, "absolute"),
        (&*climbing, "relative"),
        ("/proc/self/fd/7", "descriptor"),
        ("/proc/1/root", "root"),
        ("loop", "loop"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    let volume = tempfile::tempdir().unwrap();
    symlink(&host, volume.path().join("out")).unwrap();
    let mut dirs: Vec<String> = [
        "/absolute",
        "/relative",
        "/absolute/dir",
        "/absolute/made/by/create",
        "/descriptor",
        "/root",
        "/loop",
        "/proc/1/cwd",
        "/proc/self/cwd",
        "/hello.wasm",
        "relative",
        "../..",
        "",
    ]
    .map(str::to_owned)
    .to_vec();
    dirs.extend((0..40).map(|number| format!("/proc/self/fd/{number}")));
    dirs.extend([7, 9].map(|number| format!("/proc/self/fd/{number}/{climbing}")));
    dirs.push(format!("/{climbing}"));
    // What is seen of a directory that is the container's.
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("secret"), SECRET).unwrap();
    let spec = look_around(&shim, "/out", out.path(), &climbing);
    shim.create("cwd", &spec).unwrap();
    shim.start_task("cwd").unwrap();
    shim.wait("cwd");
    shim.delete("cwd").unwrap();
    let seen = fs::read_to_string(out.path().join("seen")).unwrap();
    assert!(seen.contains(SECRET) && out.path().join("made").exists());
    for cwd in dirs {
        let out = tempfile::tempdir().unwrap();
        let spec = look_around(&shim, &cwd, out.path(), &climbing);
        match shim
            .create("cwd", &spec)
            .and_then(|_| shim.start_task("cwd"))
        {
            Ok(()) => {
                shim.wait("cwd");
                shim.delete("cwd").unwrap();
            }
            Err(error) => {
                assert!(error.contains("INVALID_ARGUMENT"), "{cwd}: {error}");
                let _ = shim.delete("cwd");
            }
        }
        assert_nothing_left(&shim);
        let seen = fs::read_to_string(out.path().join("seen")).unwrap_or_default();
        assert!(!seen.contains(SECRET), "{cwd} leads to the host");
        let tool = fs::metadata(out.path().join("tool")).map_or(0, |file| file.len());
        assert_eq!(tool, 0, "{cwd} leads to programs of the host");
        canary.assert_unchanged();

        // A guest's, too.
        let mut spec = shim.spec("cwd", &["/hello.wasm"]);
        spec["process"]["cwd"] = cwd.clone().into();
        match shim.create("cwd", &spec) {
            Ok(_) => {
                let _ = shim.start_task("cwd");
                shim.remove("cwd");
            }
            Err(error) => assert!(error.contains("INVALID_ARGUMENT"), "{cwd}: {error}"),
        }
        assert_nothing_left(&shim);
        canary.assert_unchanged();
    }
}
