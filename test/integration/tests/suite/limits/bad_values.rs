//! Limits that cannot be: refused with the reason, and nothing is left of the container.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lighter_testkit::{Call, Driver, Running};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use lighter_testkit::shim::Shim;

fn attempt(shim: &Shim, id: &str, resources: &Value) -> Result<i32, String> {
    let mut spec = shim.spec(id, &["/sleep.wasm", "100"]);
    spec["linux"]["resources"] = resources.clone();
    shim.create(id, &spec)
}

#[test]
fn limits_that_cannot_be_are_refused_by_create_and_update() {
    let shim = Shim::start();
    attempt(&shim, "good", &json!({})).unwrap();
    shim.start_task("good").unwrap();
    for (number, (resources, why)) in [
        (json!({ "memory": { "limit": -5 } }), "memory.limit"),
        (json!({ "memory": { "reservation": -5 } }), "memory.reservation"),
        (json!({ "memory": { "limit": 64 << 20, "swap": -5 } }), "memory.swap"),
        (json!({ "memory": { "limit": 64 << 20, "swap": 32 << 20 } }), "memory.swap"),
        (json!({ "memory": { "limit": "64M" } }), "64M"),
        (json!({ "cpu": { "quota": 10, "period": 100_000 } }), "cpu.quota is 10 us"),
        (json!({ "cpu": { "quota": 20_000, "period": 100_000_000 } }), "cpu.period"),
        (json!({ "cpu": { "quota": -7 } }), "cpu.quota"),
        (json!({ "cpu": { "cpus": "4000" } }), "cpuset.cpus"),
        (json!({ "cpu": { "cpus": "3-1" } }), "cpuset.cpus"),
        (json!({ "cpu": { "mems": "64" } }), "cpuset.mems"),
        (json!({ "pids": { "limit": -7 } }), "pids.limit"),
        (json!({ "blockIO": { "weight": 5 } }), "blockIO.weight"),
        (json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": 4000, "minor": 1, "rate": 4096 }] } }), "4000:1"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("a{number}");
        let error = attempt(&shim, &id, &resources).expect_err(&resources.to_string());
        assert!(error.contains(why), "{resources}: {error}");
        let error = shim.update("good", &resources).expect_err(&resources.to_string());
        assert!(
            error.contains("INVALID_ARGUMENT") && error.contains(why),
            "{resources}: {error}"
        );
    }
    shim.remove("good");
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// A limit of a controller that this machine does not have.
#[test]
fn a_limit_without_a_controller_is_refused() {
    let shim = Shim::start();
    let resources = json!({ "rdma": { "mlx5_1": { "hcaHandles": 3 } } });
    let error = attempt(&shim, "a", &resources).unwrap_err();
    assert!(
        error.contains("UNIMPLEMENTED") && error.contains("rdma"),
        "{error}"
    );
    let classes = json!({ "network": { "classID": 1_048_577 } });
    let error = attempt(&shim, "b", &classes).unwrap_err();
    assert!(
        error.contains("FAILED_PRECONDITION") && error.contains("net_cls"),
        "{error}"
    );
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

/// Starts a process that is no container's in this cgroup.
fn stranger_in(folder: &Path) -> Running {
    let stranger = Call::new("/bin/busybox", ["sleep", "1000"]).spawn();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("cgroup.procs"), stranger.pid().to_string()).unwrap();
    stranger
}

/// As with runc since 1.2. Its limits would hold for the stranger, and its removal would be a kill.
#[test]
fn a_cgroup_with_processes_in_it_is_refused_and_left_alone() {
    let shim = Shim::start();
    let root = Path::new("/sys/fs/cgroup");
    let below = Driver::of_tests().folder(&shim.namespace, "a");
    let hierarchy = if root.join("pids").is_dir() {
        root.join("pids")
    } else {
        root.to_owned()
    };
    let folder = hierarchy.join(&below);
    let stranger = stranger_in(&folder);
    let error = attempt(&shim, "a", &json!({})).unwrap_err();
    assert!(
        error.contains("FAILED_PRECONDITION")
            && error.contains("is not empty: 1 process(es) found"),
        "{error}"
    );
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap();
    assert_eq!(procs.trim(), stranger.pid().to_string(), "it still runs");
    stranger.signal(Signal::SIGKILL);
    stranger.wait(Duration::from_secs(10));
    // Once it is empty it is as good as any.
    attempt(&shim, "a", &json!({})).unwrap();
    shim.remove("a");
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn limits_below_what_a_start_needs_name_the_least_that_works() {
    let shim = Shim::start();
    let cases = [
        (
            json!({ "memory": { "limit": 65536 } }),
            json!({ "memory": { "limit": 2_097_152 } }),
            "2097152",
        ),
        (
            json!({ "pids": { "limit": 1 } }),
            json!({ "pids": { "limit": 2 } }),
            "2",
        ),
    ];
    for (number, (too_little, least, named)) in cases.into_iter().enumerate() {
        let id = format!("a{number}");
        let error = attempt(&shim, &id, &too_little).unwrap_err();
        assert!(
            error.contains("INVALID_ARGUMENT")
                && error.contains(&format!("the least that works is {named}\"")),
            "{error}"
        );
        assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
        let mut spec = shim.spec(&id, &["/hello.wasm"]);
        spec["linux"]["resources"] = least;
        shim.create(&id, &spec).unwrap();
        shim.start_task(&id).unwrap();
        assert_eq!(shim.wait(&id), 0);
        shim.delete(&id).unwrap();
    }
    assert_eq!(shim.leftovers(), Vec::<PathBuf>::new());
}
