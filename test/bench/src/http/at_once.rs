//! A service that this node has never seen, started many times at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lighter_testkit::{Call, Containerd, Image};

use super::first_byte::milliseconds;
use super::subject::Subject;
use crate::table::Table;

/// A compilation takes longer by far.
const WATCH: Duration = Duration::from_millis(20);
/// As /proc has the name `lighter-compiler`: 15 bytes of it.
const WORKER: &str = "lighter-compile";
/// Where Lighter keeps compiled code, named by the digest of its source.
const ARTIFACTS: &str = "/var/lib/lighter/artifacts";

/// Starts one container, then `count` at once, each time of a component that is new here.
pub(crate) fn measure(containerd: &Containerd, component: &[u8], count: usize) -> Table {
    let columns = ["until all have answered, ms", "compilations"];
    let several = format!("{count} at once");
    let names = ["one", several.as_str()];
    let mut table = Table::new("Lighter, component new to the node", &columns, names);
    for (row, count) in table.rows.iter_mut().zip([1, count]) {
        eprintln!("at once: {count}");
        let (elapsed, compilations) = once(containerd, component, count);
        row.cells = vec![vec![milliseconds(elapsed)], vec![compilations as f64]];
    }
    table
}

fn once(containerd: &Containerd, component: &[u8], count: usize) -> (Duration, usize) {
    let component = unseen(component);
    let digest = digest(containerd.folder(), &component);
    let image = Image::new("at-once")
        .file("/app.wasm", component, 0o755)
        .entrypoint(["/app.wasm"]);
    containerd.import(&image);
    let subject = Subject::lighter("at once", &image, &[]);
    let done = AtomicBool::new(false);
    let (elapsed, workers) = thread::scope(|scope| {
        let workers = scope.spawn(|| workers_until(&done));
        let begin = Instant::now();
        let starts: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| subject.start(containerd).0))
            .collect();
        let servers: Vec<_> = starts.into_iter().map(|start| start.join()).collect();
        let elapsed = begin.elapsed();
        done.store(true, Ordering::Relaxed);
        for server in servers {
            server.expect("a start does not panic").stop();
        }
        (
            elapsed,
            workers.join().expect("reading /proc does not panic"),
        )
    });
    forget(&digest);
    (elapsed, workers)
}

/// The component with one more custom section, which means nothing and changes the digest.
fn unseen(component: &[u8]) -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("the clock is past 1970").as_nanos();
    let mut section = vec![5];
    section.extend(b"bench");
    section.extend(now.to_le_bytes());
    let length = u8::try_from(section.len()).expect("it is short");
    assert!(length < 128, "longer ones are encoded in several bytes");
    let mut all = component.to_vec();
    all.extend([0, length]);
    all.extend(section);
    all
}

fn digest(folder: &Path, bytes: &[u8]) -> String {
    let file = folder.join("at-once.wasm");
    fs::write(&file, bytes).expect("write a component");
    let line = Call::new("sha256sum", [&file]).ok();
    let _ = fs::remove_file(file);
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// How many compile workers ran until `done`.
fn workers_until(done: &AtomicBool) -> usize {
    let mut seen = BTreeSet::new();
    while !done.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let comm = fs::read_to_string(entry.path().join("comm"));
            if comm.is_ok_and(|comm| comm.trim_end() == WORKER) {
                seen.insert(entry.file_name());
            }
        }
        thread::sleep(WATCH);
    }
    seen.len()
}

/// Removes the code that was compiled for nothing but this.
fn forget(digest: &str) {
    let entries = fs::read_dir(ARTIFACTS).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_name().to_string_lossy().starts_with(digest) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unseen;

    #[test]
    fn a_custom_section_is_added() {
        let all = unseen(b"\0asm");
        assert!(all.starts_with(b"\0asm\0\x16\x05bench"), "{all:?}");
        assert_eq!(all.len(), 4 + 2 + 22);
    }
}
