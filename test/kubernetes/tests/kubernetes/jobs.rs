//! Pods that end, and those that make them.

use lighter_kubernetes::{Space, pod, wasm};
use serde_json::{Value, json};

fn job(name: &str, container: Value, spec: &Value) -> Value {
    let mut template = pod(name, &[container]);
    template["spec"]["restartPolicy"] = json!("Never");
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "template": { "spec": template["spec"] } },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn has(job: &Value, condition: &str, reason: &str) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|seen| {
        seen["type"] == condition && seen["status"] == "True" && seen["reason"] == reason
    })
}

#[test]
fn a_job_completes() {
    let space = Space::new("job");
    space.apply(&job(
        "hello",
        wasm("hello", &["/hello.wasm"]),
        &json!({ "completions": 4, "parallelism": 2 }),
    ));
    let seen = space.await_object("job/hello", "its completion", |job| {
        has(job, "Complete", "CompletionsReached")
    });
    assert_eq!(seen["status"]["succeeded"], 4, "{:#}", seen["status"]);
    assert!(
        space
            .kubectl(["logs", "job/hello"])
            .ok()
            .contains("Hello from Wasm")
    );
}

#[test]
fn a_job_fails_when_its_pods_do() {
    let space = Space::new("failed-job");
    space.apply(&job(
        "exit",
        wasm("exit", &["/exit.wasm", "3"]),
        &json!({ "backoffLimit": 1 }),
    ));
    let rules = json!({
        "backoffLimit": 6,
        "podFailurePolicy": { "rules": [
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [134] } },
        ] },
    });
    space.apply(&job("trap", wasm("trap", &["/trap.wasm"]), &rules));
    let seen = space.await_object("job/exit", "its failure", |job| {
        has(job, "Failed", "BackoffLimitExceeded")
    });
    assert_eq!(seen["status"]["failed"], 2, "{:#}", seen["status"]);
    // A trap, told by its exit code, is not tried again.
    let seen = space.await_object("job/trap", "its failure", |job| {
        has(job, "Failed", "PodFailurePolicy")
    });
    assert_eq!(seen["status"]["failed"], 1, "{:#}", seen["status"]);
}

#[test]
fn a_cron_job_starts_by_its_schedule() {
    let space = Space::new("cron-job");
    let job = job("hello", wasm("hello", &["/hello.wasm"]), &json!({}));
    space.apply(&json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "hello" },
        "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": job["spec"] } },
    }));
    space.await_object("cronjob/hello", "a job that has succeeded", |cron| {
        cron["status"]["lastSuccessfulTime"].is_string()
    });
}

#[test]
fn init_containers_run_before_the_others() {
    let space = Space::new("init");
    let mut write = wasm(
        "write",
        &["/files.wasm", "write", "/shared/file", "by init"],
    );
    let mut read = wasm("read", &["/files.wasm", "read", "/shared/file"]);
    for container in [&mut write, &mut read] {
        container["volumeMounts"] = json!([{ "name": "shared", "mountPath": "/shared" }]);
    }
    let mut with_init = pod("read", &[read]);
    with_init["spec"]["restartPolicy"] = json!("Never");
    with_init["spec"]["initContainers"] = json!([write]);
    with_init["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    space.apply(&with_init);

    let mut blocked = pod("blocked", &[wasm("hello", &["/hello.wasm"])]);
    blocked["spec"]["restartPolicy"] = json!("Never");
    blocked["spec"]["initContainers"] = json!([wasm("exit", &["/exit.wasm", "5"])]);
    space.apply(&blocked);

    space.await_value("pod/read", "/status/phase", &json!("Succeeded"));
    assert_eq!(
        space.kubectl(["logs", "read"]).ok(),
        "read /shared/file: ok by init\n"
    );
    let seen = space.await_value("pod/blocked", "/status/phase", &json!("Failed"));
    assert_eq!(
        seen["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"],
        5
    );
    let state = &seen["status"]["containerStatuses"][0]["state"];
    assert_eq!(
        state["terminated"]["exitCode"].as_i64(),
        None,
        "it has run: {state:#}"
    );
}
