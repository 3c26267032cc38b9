//! What the author of a pod writes: annotations, ids, and names that become paths, lines of logs and
//! labels.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lighter_testkit::shim::{Shim, Stdio};
use lighter_testkit::{Call, node_tool, shim_binary};
use serde_json::{Map, Value, json};

use super::{Canary, assert_blames_the_caller, assert_nothing_left, contents};

const OPTIONS: [&str; 16] = [
    "clocks",
    "compose",
    "debug",
    "engine",
    "environment",
    "fuel",
    "hosts",
    "http-address",
    "http-body-bytes",
    "http-concurrency",
    "http-header-seconds",
    "http-request-seconds",
    "http-reuse",
    "names",
    "tcp",
    "udp",
];

/// A container with one annotation is refused for what its author wrote, or is one like any other.
#[track_caller]
fn try_annotations(shim: &Shim, program: &str, annotations: &Value) -> Option<String> {
    let mut spec = shim.spec("pod", &[program]);
    spec["annotations"] = annotations.clone();
    let begin = Instant::now();
    let created = shim.create("pod", &spec);
    let what: String = annotations.to_string().chars().take(200).collect();
    if created.is_ok() {
        shim.start_task("pod").unwrap();
        assert_eq!(shim.wait("pod"), 0, "{what}");
        shim.delete("pod").unwrap();
    }
    let time = begin.elapsed();
    assert!(time < Duration::from_secs(20), "{what} took {time:?}");
    // A failure is one line, whatever is in a name or a value.
    for line in shim.log().lines() {
        assert!(line.starts_with("time="), "{what}: {line:?}");
        assert!(line.len() < 64 << 10, "{what}: {} bytes", line.len());
    }
    let error = created.err()?;
    assert_blames_the_caller(&what, &error);
    assert!(error.len() < 64 << 10, "{what}: {} bytes", error.len());
    Some(error)
}

#[test]
fn absurd_values_are_refused_or_mean_nothing() {
    let shim = Shim::start();
    let long = "9".repeat(70_000);
    for option in OPTIONS {
        for value in [
            "-1",
            "99999999999999999999999999",
            "0x7fffffff",
            "1\n2\nlevel=error msg=forged",
            "1\0",
            "../../../../etc/shadow",
            "\u{202e}\u{1b}[2J",
            &long,
        ] {
            let name = format!("lighter.dev/{option}");
            try_annotations(&shim, "/hello.wasm", &json!({ name: value }));
        }
    }
    assert_nothing_left(&shim);
    for name in [
        "lighter.dev/",
        "lighter.dev/../fuel",
        "lighter.dev/fuel\n",
        "lighter.dev/FUEL",
        &format!("lighter.dev/{}", "a".repeat(70_000)),
    ] {
        let error = try_annotations(&shim, "/hello.wasm", &json!({ name: "1" }));
        assert!(error.is_some(), "{name:.80} was taken");
    }
    for (name, value) in [
        ("run.oci.handler", "\0"),
        ("run.oci.handler", "../../wasm"),
        ("module.wasm.image/variant", "compat\n"),
        ("module.wasm.image/variant", &long),
    ] {
        assert_eq!(
            try_annotations(&shim, "/hello.wasm", &json!({ name: value })),
            None
        );
    }
    // What says that a program is Wasm does not make it so.
    for (name, value) in [
        ("run.oci.handler", "wasm"),
        ("module.wasm.image/variant", "compat"),
    ] {
        let error = try_annotations(&shim, "/bin/sh", &json!({ name: value }));
        assert!(error.unwrap().contains("says that this container is Wasm"));
    }
    assert_nothing_left(&shim);
}

/// The node allows no engine but the default, no records, and the default limits.
#[test]
fn nothing_widens_what_the_node_allows() {
    let shim = Shim::start();
    let records = Path::new("/var/lib/lighter/debug").join(&shim.namespace);
    for (name, value) in [
        ("debug", "coredump"),
        ("debug", "profile"),
        ("debug", "profile,coredump"),
        ("engine", "debug"),
        ("engine", "metered"),
        ("http-body-bytes", "18446744073709551615"),
        ("http-concurrency", "4294967295"),
        ("http-header-seconds", "4294967295"),
        ("http-request-seconds", "18446744073709551615"),
        ("http-reuse", "18446744073709551615"),
    ] {
        for name in [
            format!("lighter.dev/{name}"),
            format!("lighter.dev/{name}.web"),
        ] {
            let annotations = json!({ name: value, "io.kubernetes.cri.container-name": "web" });
            let error = try_annotations(&shim, "/hello.wasm", &annotations).expect(value);
            assert!(
                error.contains("does not allow") || error.contains("the most on this node"),
                "{error}"
            );
        }
    }
    // One that a careless reader would take for the node's own options.
    for name in [
        "lighter.dev/preview3",
        "lighter.dev/link-local",
        "lighter.dev/variants",
    ] {
        assert!(try_annotations(&shim, "/hello.wasm", &json!({ name: "true" })).is_some());
    }
    assert!(!records.exists());
    assert_nothing_left(&shim);
}

#[test]
fn a_megabyte_of_annotations_is_taken_or_refused_in_time() {
    let shim = Shim::start();
    let many: Map<String, Value> = (0..8000)
        .map(|number| (format!("example.com/{number}"), "x".repeat(120).into()))
        .collect();
    assert_eq!(try_annotations(&shim, "/hello.wasm", &many.into()), None);
    let unknown: Map<String, Value> = (0..8000)
        .map(|number| (format!("lighter.dev/{number}"), "x".repeat(120).into()))
        .collect();
    assert!(try_annotations(&shim, "/hello.wasm", &unknown.into()).is_some());
    let hosts = "a.test,".repeat(150_000);
    try_annotations(&shim, "/hello.wasm", &json!({ "lighter.dev/hosts": hosts }));
    let names = "A,".repeat(500_000);
    try_annotations(
        &shim,
        "/hello.wasm",
        &json!({ "lighter.dev/environment": names }),
    );
    let one = json!({ "example.com/one": "y".repeat(1 << 20) });
    assert_eq!(try_annotations(&shim, "/hello.wasm", &one), None);
    assert_nothing_left(&shim);
}

/// Names of pods are labels of metrics: no line of them is of a pod's making.
#[test]
fn a_pods_name_forges_no_metric() {
    let shim = Shim::start();
    let mut spec = shim.spec("pod", &["/sleep.wasm", "100"]);
    let forged = "x\"} 1\nlighter_forged_total{pod=\"other\"} 7\n# EOF\n";
    spec["annotations"] = json!({
        "io.kubernetes.cri.sandbox-name": forged,
        "io.kubernetes.cri.sandbox-namespace": "../../default",
        "io.kubernetes.cri.container-name": "a\\\"b\0",
        "io.kubernetes.cri.image-name": "\r\n",
    });
    shim.create("pod", &spec).unwrap();
    shim.start_task("pod").unwrap();
    let text = Call::new(node_tool(), ["metrics"]).ok();
    let own: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(&shim.namespace))
        .collect();
    assert!(!own.is_empty());
    for line in text.lines() {
        assert!(!line.starts_with("lighter_forged"), "{line}");
    }
    assert_eq!(text.matches("\n# EOF\n").count(), 1);
    shim.remove("pod");
    assert_nothing_left(&shim);
}

const IDS: [&str; 14] = [
    "",
    ".",
    "..",
    "../victim",
    "../../victim",
    "a/b",
    "/etc",
    "a/../../victim",
    "a\0b",
    "a\nb",
    ".hidden",
    "a..b",
    "-v",
    "ä",
];

#[test]
fn an_id_is_a_name_and_no_path() {
    let (shim, canary) = (Shim::start(), Canary::new());
    let spec = shim.spec("good", &["/sleep.wasm", "100"]);
    shim.create("good", &spec).unwrap();
    shim.start_task("good").unwrap();
    let bundle = contents(&shim.bundle("good"));
    let long = "a".repeat(77);
    let climbing = format!("{}/secret", canary.climbing());
    for id in IDS.iter().copied().chain([long.as_str(), &climbing]) {
        let what = format!("{id:?}");
        let dir = tempfile::tempdir().unwrap();
        let created = shim.create_in(dir.path(), id, &spec.to_string());
        assert_blames_the_caller(&what, &created.unwrap_err());
        let process = shim.process(&["/hello.wasm"]);
        if !id.is_empty() {
            let added = shim.exec("good", id, &process, Stdio::default());
            assert_blames_the_caller(&what, &added.unwrap_err());
        }
        for failed in [
            shim.start_task(id).err(),
            shim.delete(id).err(),
            shim.state(id, "").err(),
            shim.kill(id, nix::sys::signal::Signal::SIGKILL).err(),
            shim.exec(id, "e", &process, Stdio::default()).err(),
            shim.start_exec("good", &format!("../{id}")).err(),
            shim.delete_exec("good", &format!("../{id}")).err(),
        ] {
            let error = failed.expect("there is no such container");
            let is_own = error.contains("INVALID_ARGUMENT") || error.contains("NOT_FOUND");
            assert!(is_own, "{what}: {error}");
        }
    }
    assert!(contents(&shim.bundle("good")) == bundle);
    shim.remove("good");
    assert_nothing_left(&shim);
    canary.assert_unchanged();
}

/// containerd calls `delete` of a shim that has died, with the id and the bundle as they are.
#[test]
fn the_command_line_takes_no_path_for_an_id() {
    let canary = Canary::new();
    let cwd = canary.dir.path();
    let up = canary.climbing();
    for action in ["delete", "start"] {
        for (namespace, id) in [
            ("default", up.as_str()),
            ("default", ".."),
            ("default", "a/b"),
            (&*up, "x"),
            ("..", "x"),
            ("a/..", "x"),
        ] {
            let output = Command::new(shim_binary())
                .args([
                    "-namespace",
                    namespace,
                    "-id",
                    id,
                    "-address",
                    "/nowhere",
                    action,
                ])
                .current_dir(cwd)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{action} of {namespace} {id}");
            assert!(text.contains("invalid container id or namespace"), "{text}");
        }
    }
    canary.assert_unchanged();
    assert!(fs::exists(cwd.join("secret")).unwrap());
}
