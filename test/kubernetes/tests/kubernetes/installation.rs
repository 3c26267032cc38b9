//! From a node that does not know the handler: what `deploy/` does to it, and takes back.
//!
//! `make test-k8s` runs these on a cluster of their own (`run.sh -b`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lighter_kubernetes::{BUSYBOX, Guest, LIMIT, Space, get, get_with, import_archive, until};
use lighter_testkit::{Call, guest, node_tool};
use serde_json::{Value, json};

/// The guests that `deploy/samples` names.
const SAMPLES: [&str; 9] = [
    "compute",
    "files",
    "hello",
    "hello-c",
    "hello-go",
    "http-hello",
    "http-js",
    "http-python",
    "http-rust",
];
const LABEL: &str = "/metadata/labels/lighter.dev~1installed";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kubectl<const N: usize>(arguments: [&str; N]) -> Call {
    Call::new("kubectl", arguments).limit(LIMIT * 2)
}

fn node() -> Value {
    serde_json::from_str(&kubectl(["get", "node", "node", "-o", "json"]).ok())
        .expect("kubectl answers JSON")
}

/// What is where the installer may write, each file with its content.
fn files() -> BTreeMap<String, Vec<u8>> {
    let list = Call::new(
        "find",
        [
            "/etc/containerd",
            "/etc/lighter.toml",
            "/usr/local/bin",
            "/opt",
        ],
    )
    .output();
    let paths = list.stdout.lines();
    paths
        .map(|path| (path.to_owned(), fs::read(path).unwrap_or_default()))
        .collect()
}

/// Brings what a cluster's owner would pull: the installer, and what the samples run.
fn bring_images() {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let out = folder.path().display().to_string();
    Call::new(root().join("deploy/release.sh"), [&out])
        .limit(LIMIT)
        .ok();
    import_archive(&folder.path().join("lighter-installer.tar"));
    for name in SAMPLES {
        let (file, archive) = (
            guest(name).display().to_string(),
            folder.path().join(format!("{name}.tar")),
        );
        let reference = format!("localhost/{name}:latest");
        let archive_path = archive.display().to_string();
        Call::new(
            node_tool(),
            ["pack", &file, "--name", &reference, "-o", &archive_path],
        )
        .limit(LIMIT)
        .ok();
        import_archive(&archive);
    }
    let tag = [
        "--namespace",
        "k8s.io",
        "images",
        "tag",
        BUSYBOX,
        "docker.io/library/busybox:1.36",
    ];
    Call::new("ctr", tag).ok();
}

fn check_samples(space: &Space, samples: &str) {
    space.kubectl(["apply", "-k", samples]).ok();
    space.await_rollout("hello");
    let address = space.get("service/hello")["spec"]["clusterIP"]
        .as_str()
        .expect("it has an address")
        .to_owned();
    for (path, text) in [
        ("/", "Hello from Wasm"),
        ("/read?/etc/hello/greeting.txt", "Hello from a ConfigMap"),
        ("/read?/etc/secret/token", "not-so-secret"),
    ] {
        let answer = until("the sample answers", LIMIT, || get(&address, 80, path));
        assert_eq!(answer.body.trim(), text, "{path}");
    }
    for (pod, path, text) in [
        (
            "with-init",
            "/read?/data/greeting.txt",
            "Hello from the init container",
        ),
        ("with-sidecar", "/", "Hello from Wasm"),
        ("language-rust", "/", "Hello from Rust"),
        ("language-python", "/", "Hello from Python"),
        ("language-javascript", "/", "Hello from JavaScript"),
    ] {
        let seen = space.await_ready(pod);
        let address = seen["status"]["podIP"].as_str().expect("it has an address");
        let answer = get(address, 8080, path).expect("a pod that is ready answers");
        assert_eq!(answer.body.trim(), text, "{pod}");
    }
    for (pod, text) in [
        ("language-c", "Hello from Wasm"),
        ("language-go", "Hello from Go"),
    ] {
        space.await_value(&format!("pod/{pod}"), "/status/phase", &json!("Succeeded"));
        let log = space.kubectl(["logs", pod]).ok();
        assert!(log.contains(text), "{pod}: {log}");
    }
    until("the sidecar asks the service", LIMIT, || {
        let log = space
            .kubectl(["logs", "with-sidecar", "-c", "watcher"])
            .output()
            .stdout;
        if log.contains("Hello from Wasm") {
            Ok(())
        } else {
            Err(log)
        }
    });
    space.await_value("job/compute", "/status/succeeded", &json!(3));
    space.await_object(
        "cronjob/hello-every-minute",
        "a job that has succeeded",
        |cron| cron["status"]["lastSuccessfulTime"].is_string(),
    );
    space.await_object("hpa/hello", "figures of its pods", |hpa| {
        hpa.pointer("/status/currentMetrics/0/resource/current/averageUtilization")
            .is_some()
    });
}

/// What an upgrade does: each node's installer is replaced, and pods run on.
fn a_new_installer_leaves_pods_alone(space: &Space) {
    let services = [("with-init", "service"), ("with-sidecar", "watcher")];
    let guests = || services.map(|(pod, name)| Guest::of(&space.get(&format!("pod/{pod}")), name));
    let before = guests();
    let installer = "daemonset/lighter-installer";
    kubectl(["rollout", "restart", "-n", "lighter-system", installer]).ok();
    kubectl([
        "rollout",
        "status",
        "-n",
        "lighter-system",
        installer,
        "--timeout",
        "120s",
    ])
    .ok();
    assert_eq!(guests(), before, "not the same processes");
    assert!(node().pointer(LABEL).is_some(), "the label has gone");
}

/// What an owner may add: both programs see the guests that run.
fn check_observers(deploy: &str) {
    // As docs/guides/monitoring.md has it. Until the Secret is there, nothing listens.
    const TOKEN: &str = "a-token-of-the-kubernetes-test";
    let secret = ["create", "secret", "generic", "lighter-metrics"];
    let namespace = ["-n", "lighter-system", "--from-file=token=/dev/stdin"];
    Call::new("kubectl", secret.iter().chain(&namespace))
        .stdin(TOKEN)
        .ok();
    for (folder, name) in [("monitoring", "metrics"), ("tracing", "traces")] {
        kubectl(["apply", "-k", &format!("{deploy}/{folder}")]).ok();
        let set = format!("daemonset/lighter-{name}");
        let timeout = ["-n", "lighter-system", &set, "--timeout", "60s"];
        Call::new("kubectl", ["rollout", "status"].iter().chain(&timeout))
            .limit(LIMIT * 2)
            .ok();
    }
    let of = ["-n", "lighter-system", "-l"];
    let selector = "app.kubernetes.io/name=lighter-metrics";
    let address = ["get", "pods", "-o", "jsonpath={.items[0].status.podIP}"];
    let address = Call::new("kubectl", address.iter().chain(&of).chain(&[selector])).ok();
    let anybody = get(&address, 9464, "/metrics").expect("the port is served");
    assert_eq!(anybody.status, 401, "{}", anybody.body);
    assert!(!anybody.body.contains("pod="), "{}", anybody.body);
    let token = format!("Authorization: Bearer {TOKEN}");
    let metrics = get_with(&address, 9464, "/metrics", &[&token]).expect("metrics are served");
    assert!(
        metrics.body.contains(r#"pod="with-init""#),
        "{}",
        metrics.body
    );
    until("spans are exported", LIMIT, || {
        let logs = ["logs", "-n", "lighter-system", "daemonset/lighter-traces"];
        let log = kubectl(logs).output().stdout;
        let listens = log.contains("exports spans of /run/lighter/traces.sock");
        listens.then_some(()).ok_or(log)
    });
    for folder in ["monitoring", "tracing"] {
        let folder = format!("{deploy}/{folder}");
        kubectl(["delete", "-k", &folder, "--timeout", "60s"]).ok();
    }
    kubectl([
        "delete",
        "secret",
        "-n",
        "lighter-system",
        "lighter-metrics",
    ])
    .ok();
}

#[test]
fn deploy_installs_samples_run_and_its_deletion_leaves_the_node_as_it_was() {
    let space = Space::alone("installation");
    bring_images();
    let before = files();
    assert_eq!(node().pointer(LABEL), None);
    let deploy = root().join("deploy").display().to_string();

    kubectl(["apply", "-k", &deploy]).ok();
    until("the node is labelled", LIMIT, || {
        let seen = node();
        let log = || {
            kubectl([
                "logs",
                "-n",
                "lighter-system",
                "daemonset/lighter-installer",
            ])
            .output()
        };
        seen.pointer(LABEL)
            .is_some()
            .then_some(())
            .ok_or_else(|| log().stdout + &log().stderr)
    });
    assert_ne!(files(), before, "labelled, although nothing was installed");
    let samples = root().join("deploy/samples").display().to_string();
    check_samples(&space, &samples);
    check_observers(&deploy);
    a_new_installer_leaves_pods_alone(&space);
    space
        .kubectl(["delete", "-k", &samples, "--timeout", "120s"])
        .limit(LIMIT * 2)
        .ok();

    kubectl(["delete", "-k", &deploy, "--timeout", "200s"]).ok();
    until(
        "nothing of the installation is there",
        Duration::from_secs(60),
        || {
            let names = |files: &BTreeMap<String, Vec<u8>>| {
                files.keys().cloned().collect::<Vec<_>>().join(" ")
            };
            let now = files();
            if now == before {
                Ok(())
            } else {
                Err(format!("{}; before: {}", names(&now), names(&before)))
            }
        },
    );
    assert_eq!(node().pointer(LABEL), None);
    kubectl(["get", "namespace", "lighter-system"])
        .output()
        .fails_with(&["not found"]);
    kubectl(["get", "clusterrole", "lighter-installer"])
        .output()
        .fails_with(&["not found"]);
}
