//! How containers end, and what the cluster says of it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lighter_kubernetes::{Guest, LIMIT, Space, get, pod, until, wasm};
use serde_json::{Value, json};

/// A pod of one container that is not started again.
fn once(name: &str, container: Value) -> Value {
    let mut once = pod(name, &[container]);
    once["spec"]["restartPolicy"] = json!("Never");
    once
}

fn ended(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

#[test]
fn a_trap_is_shown_with_its_exit_code_and_message() {
    let space = Space::new("trap");
    let mut trap = wasm("trap", &["/trap.wasm"]);
    trap["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    space.apply(&once("trap", trap));
    let seen = space.await_value("pod/trap", "/status/phase", &json!("Failed"));
    assert_eq!(ended(&seen)["exitCode"], 134, "{:#}", seen["status"]);
    space.await_described(
        "trap",
        &[
            "Exit Code:    134",
            "wasm trap: wasm `unreachable`",
            "inner_that_traps",
        ],
    );
}

#[test]
fn an_exit_code_is_the_guests() {
    let space = Space::new("exit-code");
    space.apply(&once("exit", wasm("exit", &["/exit.wasm", "42"])));
    let seen = space.await_value("pod/exit", "/status/phase", &json!("Failed"));
    assert_eq!(ended(&seen)["exitCode"], 42, "{:#}", seen["status"]);
    space.await_described("exit", &["Reason:       Error", "Exit Code:    42"]);
}

#[test]
fn a_guest_writes_its_termination_message() {
    let space = Space::new("message");
    space.apply(&once(
        "files",
        wasm(
            "files",
            &[
                "/files.wasm",
                "write",
                "/dev/termination-log",
                "all is done",
            ],
        ),
    ));
    let seen = space.await_value("pod/files", "/status/phase", &json!("Succeeded"));
    assert_eq!(
        ended(&seen)["message"],
        "all is done",
        "{:#}",
        seen["status"]
    );
}

#[test]
fn a_guest_that_the_kernel_kills_is_oomkilled() {
    let space = Space::new("oom");
    let mut fill = wasm("fill", &["/fill.wasm", "/memory/file", "100"]);
    fill["resources"] = json!({ "limits": { "memory": "32Mi" } });
    fill["volumeMounts"] = json!([{ "name": "memory", "mountPath": "/memory" }]);
    let mut once = once("fill", fill);
    once["spec"]["volumes"] = json!([{ "name": "memory", "emptyDir": { "medium": "Memory" } }]);
    space.apply(&once);
    let seen = space.await_value("pod/fill", "/status/phase", &json!("Failed"));
    assert_eq!(ended(&seen)["exitCode"], 137, "{:#}", seen["status"]);
    space.await_described("fill", &["Reason:       OOMKilled", "Exit Code:    137"]);
}

#[test]
fn a_crash_loop_names_its_cause() {
    let space = Space::new("crash-loop");
    let mut trap = wasm("trap", &["/trap.wasm"]);
    trap["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    space.apply(&pod("trap", &[trap]));
    space.apply(&pod("not-wasm", &[wasm("not-wasm", &["/not-wasm.wasm"])]));
    space.await_described(
        "trap",
        &[
            "CrashLoopBackOff",
            "wasm trap: wasm `unreachable`",
            "Exit Code:    134",
        ],
    );
    space.await_described(
        "not-wasm",
        &[
            "CrashLoopBackOff",
            "/not-wasm.wasm",
            "Reason:       StartError",
        ],
    );
}

#[test]
fn restart_policies() {
    let space = Space::new("restart-policies");
    let mut policies = Vec::new();
    for (policy, code) in [
        ("Always", "0"),
        ("OnFailure", "0"),
        ("OnFailure", "1"),
        ("Never", "1"),
    ] {
        let name = format!("{}-{code}", policy.to_lowercase());
        let mut pod = pod(&name, &[wasm("exit", &["/exit.wasm", code])]);
        pod["spec"]["restartPolicy"] = json!(policy);
        space.apply(&pod);
        policies.push(name);
    }
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    for name in ["always-0", "onfailure-1"] {
        space.await_object(&format!("pod/{name}"), "a second start", |pod| {
            restarts(pod) > Some(0)
        });
    }
    for (name, phase) in [("onfailure-0", "Succeeded"), ("never-1", "Failed")] {
        let seen = space.await_value(&format!("pod/{name}"), "/status/phase", &json!(phase));
        assert_eq!(restarts(&seen), Some(0), "{:#}", seen["status"]);
    }
}

#[test]
fn a_pod_is_deleted_when_its_requests_are_answered() {
    let space = Space::new("drain");
    let mut draining = pod("hello", &[wasm("hello", &["/http-hello.wasm"])]);
    draining["spec"]["terminationGracePeriodSeconds"] = json!(60);
    let seen = space.start(&draining);
    let address = seen["status"]["podIP"]
        .as_str()
        .expect("it has an address")
        .to_owned();
    until("it answers", LIMIT, || get(&address, 8080, "/"));
    // Nobody else asks: without a probe this is the only connection, and the guest has it at once.
    let request = thread::spawn(move || get(&address, 8080, "/sleep?6000"));
    let sockets = format!("/proc/{}/net/tcp6", Guest::of(&seen, "hello").pid);
    until("the request has come", LIMIT, || {
        let text = fs::read_to_string(&sockets).expect("the guest runs");
        // Port 8080, state ESTABLISHED: proc(5).
        let is = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            matches!(fields[..], [_, local, _, "01", ..] if local.ends_with(":1F90"))
        };
        if text.lines().any(is) {
            Ok(())
        } else {
            Err(text)
        }
    });
    let begin = Instant::now();
    space.kubectl(["delete", "pod", "hello"]).ok();
    let took = begin.elapsed();
    let answer = request
        .join()
        .expect("no panic")
        .expect("the request is answered");
    assert_eq!((answer.status, answer.body.trim()), (200, "slept"));
    assert!(
        took > Duration::from_secs(3),
        "deleted after {took:?}, while a request was on its way"
    );
    assert!(
        took < Duration::from_secs(40),
        "deleted after {took:?}: the grace period, not the last request, ended it"
    );
}

#[test]
fn a_guest_that_computes_for_ever_ends_within_the_grace_period() {
    let space = Space::new("grace");
    let mut busy = wasm("busy", &["/busy.wasm"]);
    busy["resources"] = json!({ "limits": { "cpu": "200m" } });
    let mut patient = pod("busy", &[busy]);
    patient["spec"]["terminationGracePeriodSeconds"] = json!(60);
    space.start(&patient);
    let begin = Instant::now();
    space.kubectl(["delete", "pod", "busy"]).ok();
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "deleted after {took:?}");
}

#[test]
fn pre_stop_runs_a_guest_before_the_end() {
    let space = Space::new("pre-stop");
    let folder = tempfile::tempdir_in("/var/lib").expect("make a folder on the node");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["lifecycle"] = json!({
        "preStop": { "exec": { "command": ["/files.wasm", "write", "/node/stopped", "by preStop"] } },
    });
    sleep["volumeMounts"] = json!([{ "name": "node", "mountPath": "/node" }]);
    let mut stopped = pod("sleep", &[sleep]);
    stopped["spec"]["terminationGracePeriodSeconds"] = json!(30);
    stopped["spec"]["volumes"] = json!([{ "name": "node", "hostPath": { "path": folder.path() } }]);
    space.start(&stopped);
    space.kubectl(["delete", "pod", "sleep"]).ok();
    let text = until("preStop has written", LIMIT, || {
        fs::read_to_string(folder.path().join("stopped")).map_err(|error| error.to_string())
    });
    assert_eq!(text, "by preStop");
}
