//! Limits of block devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lighter_testkit::guest;
use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

use super::limit;
use lighter_testkit::shim::{Shim, eventually};

const MIB: u64 = 1 << 20;

/// The disk that a folder is on: not a partition of it, which the kernel has no limits for.
fn disk(folder: &Path) -> (u64, u64) {
    let device = fs::metadata(folder).unwrap().dev();
    let (number, minor) = (major(device), minor(device));
    let place = format!("/sys/dev/block/{number}:{minor}");
    let of_disk = fs::read_to_string(format!("{place}/../dev"));
    if !Path::new(&place).join("partition").exists() {
        return (number, minor);
    }
    let of_disk = of_disk.unwrap();
    let (number, minor) = of_disk.trim().split_once(':').unwrap();
    (number.parse().unwrap(), minor.parse().unwrap())
}

fn written_per_second(shim: &Shim, rate: u64) -> Value {
    let (major, minor) = disk(&shim.rootfs());
    let limit = json!([{ "major": major, "minor": minor, "rate": rate }]);
    json!({ "blockIO": { "throttleWriteBpsDevice": limit } })
}

/// The guest has each MiB reach the disk before it writes the next.
#[test]
fn a_guest_writes_no_faster_than_its_limit_which_an_update_changes() {
    let shim = Shim::start();
    fs::copy(guest("fill"), shim.rootfs().join("fill.wasm")).unwrap();
    let file = shim.rootfs().join("file");
    let written = || fs::metadata(&file).map_or(0, |metadata| metadata.len());
    let mut spec = shim.spec("a", &["/fill.wasm", "/file", "1000"]);
    spec["linux"]["resources"] = written_per_second(&shim, 2 * MIB);
    shim.create("a", &spec).unwrap();
    shim.start_task("a").unwrap();
    eventually("it writes", || written() > 0);
    let rate = || {
        let (before, start) = (written(), Instant::now());
        std::thread::sleep(Duration::from_secs(6));
        (written() - before) as f64 / MIB as f64 / start.elapsed().as_secs_f64()
    };
    // Never more than its limit; less while the machine that emulates this one is busy.
    let rate_between = |least: f64, most: f64| {
        for _ in 0..10 {
            let rate = rate();
            assert!(rate < most, "{rate}");
            if rate > least {
                return rate;
            }
        }
        panic!("it never writes {least} MiB a second");
    };
    let slow = rate_between(1.4, 2.6);
    let (major, minor) = disk(&shim.rootfs());
    let kernels = || {
        limit(
            &shim,
            "a",
            "blkio",
            ["blkio.throttle.write_bps_device", "io.max"],
        )
    };
    let set = kernels();
    let names = |rate: u64, text: &str| {
        text.starts_with(&format!("{major}:{minor} ")) && text.contains(&rate.to_string())
    };
    assert!(names(2 * MIB, &set), "{set}");
    shim.update("a", &written_per_second(&shim, 6 * MIB))
        .unwrap();
    let set = kernels();
    assert!(names(6 * MIB, &set), "{set}");
    let fast = rate_between(4.2, 7.5);
    // What the kernel refuses a part of changes nothing.
    let mut refused = written_per_second(&shim, 9 * MIB);
    refused["pids"] = json!({ "limit": 1u64 << 40 });
    assert!(shim.update("a", &refused).is_err());
    assert_eq!(kernels(), set);
    println!("MiB written a second, with limits of 2 and 6: {slow:.2} {fast:.2}");
    shim.remove("a");
}

/// On cgroup v2 the numbers of the specification, 10 to 1000, are those of another scheduler.
#[test]
fn a_weight_of_the_disk_is_the_kernels() {
    let shim = Shim::start();
    let mut spec = shim.spec("a", &["/sleep.wasm", "100"]);
    spec["linux"]["resources"] = json!({ "blockIO": { "weight": 500 } });
    let legacy = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    match shim.create("a", &spec) {
        Ok(_) => {
            let set = limit(&shim, "a", "blkio", ["blkio.bfq.weight", "io.weight"]);
            assert_eq!(set, if legacy { "500" } else { "default 4950" });
            shim.update("a", &json!({ "blockIO": { "weight": 1000 } }))
                .unwrap();
            let set = limit(&shim, "a", "blkio", ["blkio.bfq.weight", "io.weight"]);
            assert_eq!(set, if legacy { "1000" } else { "default 10000" });
            shim.remove("a");
        }
        // Without a scheduler that knows weights the kernel has no file for them.
        Err(error) => {
            assert!(error.contains("weight"), "{error}");
            assert_eq!(shim.leftovers(), Vec::<std::path::PathBuf>::new());
        }
    }
}
