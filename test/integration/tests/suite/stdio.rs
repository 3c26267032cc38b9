//! Stdio that holds: slow readers, readers that go, loggers.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use lighter_testkit::{Containerd, Image, Process};
use nix::sys::signal::Signal;

use crate::containerd_with;
use lighter_testkit::shim::{Shim, eventually};

const MEBIBYTE: usize = 1 << 20;

/// 100 MB reach a reader that takes its time; nobody stores them meanwhile.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test has threads")]
fn a_hundred_megabytes_reach_a_slow_reader() {
    let shim = Shim::start();
    fs::copy(
        lighter_testkit::guest("big-output"),
        shim.rootfs().join("big-output.wasm"),
    )
    .unwrap();
    let stdout = shim.fifo("a", "stdout");
    let reader = std::thread::spawn(move || {
        let mut file = File::open(stdout).unwrap();
        let mut buffer = vec![0; 256 * 1024];
        let (mut length, mut reads) = (0, 0u32);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => return length,
                got => length += got,
            }
            reads += 1;
            if reads.is_multiple_of(200) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
    shim.create("a", &shim.spec("a", &["/big-output.wasm", "100"]))
        .unwrap();
    shim.start_task("a").unwrap();
    let shim_time = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", shim.pid)).unwrap();
        stat.split_whitespace()
            .nth(13)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = shim_time();
    assert_eq!(shim.wait("a"), 0);
    let after = shim_time();
    shim.delete("a").unwrap();
    assert_eq!(reader.join().unwrap(), 100 * MEBIBYTE);
    assert!(
        after - before < 20,
        "the shim has computed {} ticks",
        after - before
    );
}

/// While containerd is away nothing is lost that fits the FIFO, and the rest waits.
#[test]
fn a_reader_that_comes_back_loses_no_byte() {
    let image = Image::busybox();
    let mut containerd = containerd_with(&image);
    let log = containerd.folder().join("output");
    let logger = format!("file://{}", log.display());
    // A file needs no reader; a FIFO does. Both write on while containerd restarts.
    let script =
        "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; sleep 100";
    let to_file = containerd
        .run(&image)
        .flags(["--log-uri", &logger])
        .arguments(["/bin/sh", "-c", script])
        .detach();
    let to_fifo = containerd
        .run(&image)
        .arguments(["/bin/sh", "-c", script])
        .detach();
    containerd.restart(Signal::SIGKILL);
    eventually("all lines", || {
        fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 200)
    });
    let lines = fs::read_to_string(&log).unwrap();
    let expected: Vec<String> = (0..200).map(|number| format!("line {number}")).collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
    for id in [&to_file, &to_fifo] {
        assert_eq!(containerd.status(id).as_deref(), Some("RUNNING"));
        containerd.remove(id);
    }
}

/// A logger in the form that containerd's documentation gives: it copies 3 and 4 to files.
fn write_logger(folder: &Path) -> String {
    let path = folder.join("logger");
    let script = format!(
        "#!/bin/sh\n\
         echo \"$CONTAINER_NAMESPACE $CONTAINER_ID $*\" > {0}/logger.start\n\
         exec 5>&-\n\
         cat <&4 > {0}/logger.stderr &\n\
         cat <&3 > {0}/logger.stdout\n\
         wait\n\
         echo done > {0}/logger.done\n",
        folder.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    format!("binary://{}?--level=debug&--quiet", path.display())
}

fn runs_with_a_logger(containerd: &Containerd, image: &Image, args: [&str; 3]) {
    let folder = containerd.folder().to_owned();
    let uri = write_logger(&folder);
    let id = containerd
        .run(image)
        .flags(["--log-uri", &uri])
        .arguments(args)
        .detach();
    containerd.await_status(&id, "STOPPED", Duration::from_secs(20));
    // Delete waits for the logger.
    containerd.ctr(["tasks", "delete", &id]).output().exits(0);
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    assert_eq!(text("logger.done"), "done\n");
    assert_eq!(
        text("logger.start").trim(),
        format!("{} {id} --level debug --quiet", containerd.namespace())
    );
    assert_eq!(text("logger.stdout"), "on stdout\n");
    assert_eq!(text("logger.stderr"), "on stderr\n");
    containerd
        .ctr(["containers", "delete", &id])
        .output()
        .exits(0);
    for name in [
        "logger.done",
        "logger.start",
        "logger.stdout",
        "logger.stderr",
    ] {
        let _ = fs::remove_file(folder.join(name));
    }
}

#[test]
fn a_logger_of_the_node_takes_the_output() {
    let image = Image::busybox().guest("/stderr.wasm", "stderr");
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let script = "echo on stdout; echo on stderr >&2";
    runs_with_a_logger(&containerd, &image, ["/bin/sh", "-c", script]);
    runs_with_a_logger(&containerd, &image, ["/stderr.wasm", "", ""]);
    let missing = containerd
        .run(&image)
        .flags(["--log-uri", "binary:///missing/logger"])
        .call("--detach")
        .output();
    missing.fails_with(&["cannot start the logger /missing/logger", "No such file"]);
    leaks.assert_none_since();
    let is_logger = |process: &Process| process.comm == "logger";
    assert!(!containerd.scope().processes().iter().any(is_logger));
}
