//! Deployments that change.

use std::collections::BTreeMap;
use std::time::Duration;

use lighter_kubernetes::{LIMIT, Load, Space, deployment, get, pod, service, until, wasm};
use lighter_testkit::Call;
use serde_json::{Value, json};

fn hello(version: &str) -> Value {
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    hello["env"] = json!([{ "name": "RELEASE", "value": version }]);
    hello["readinessProbe"] = json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1 });
    // docs/reference/annotations.md: the time that kube-proxy needs to hear of the end.
    hello["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 5 } } });
    let mut pod = pod("hello", &[hello]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
    pod
}

#[test]
fn no_request_fails_while_a_deployment_is_replaced() {
    let space = Space::new("rolling-update");
    space.apply(&service("hello"));
    let mut first = deployment(&hello("first"), 3);
    first["spec"]["strategy"] = json!({ "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } });
    space.apply(&first);
    space.await_rollout("hello");
    let seen = space.get("service/hello");
    let address = seen["spec"]["clusterIP"]
        .as_str()
        .expect("a Service has an address");
    until("the Service answers", LIMIT, || {
        get(address, 80, "/env?RELEASE")
    });

    let load = Load::start(address, 80, "/env?RELEASE");
    let mut second = deployment(&hello("second"), 3);
    second["spec"]["strategy"] = first["spec"]["strategy"].clone();
    space.apply(&second);
    space.await_rollout("hello");
    until("only the second release answers", LIMIT, || {
        let bodies: Vec<_> = (0..20).map(|_| get(address, 80, "/env?RELEASE")).collect();
        let new = |answer: &Result<lighter_kubernetes::Answer, String>| {
            answer
                .as_ref()
                .is_ok_and(|answer| answer.body.trim() == "second")
        };
        if bodies.iter().all(new) {
            Ok(())
        } else {
            Err(format!("{bodies:?}"))
        }
    });
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let answers = load.stop();
    for answer in &answers {
        let key = match answer {
            Ok(answer) if answer.status == 200 => answer.body.trim().to_owned(),
            Ok(answer) => format!("failed: {answer:?}"),
            Err(error) => format!("failed: {error}"),
        };
        *seen.entry(key).or_default() += 1;
    }
    println!("{} requests: {seen:?}", answers.len());
    assert_eq!(
        seen.keys().collect::<Vec<_>>(),
        ["first", "second"],
        "of {} requests: {seen:?}",
        answers.len()
    );
}

#[test]
fn a_deployment_scales_from_1_to_30_and_back() {
    let space = Space::new("scale");
    space.apply(&deployment(&hello("first"), 1));
    space.await_rollout("hello");
    space
        .kubectl(["scale", "deployment/hello", "--replicas=30"])
        .ok();
    space.await_rollout("hello");
    let ready = space.get("deployment/hello");
    assert_eq!(
        ready["status"]["readyReplicas"], 30,
        "{:#}",
        ready["status"]
    );
    let pods = space.pods("app=hello");
    for pod in &pods {
        let address = pod["status"]["podIP"].as_str().expect("it has an address");
        let answer = get(address, 8080, "/").expect("each of 30 pods answers");
        assert_eq!(answer.body, "Hello from Wasm\n");
    }
    space
        .kubectl(["scale", "deployment/hello", "--replicas=1"])
        .ok();
    until("one pod is left", Duration::from_secs(180), || {
        let left = space.pods("app=hello").len();
        if left == 1 {
            Ok(())
        } else {
            Err(left.to_string())
        }
    });
    let left = space.pods("app=hello");
    let stays = left[0]["metadata"]["uid"]
        .as_str()
        .expect("a pod has an id");
    // What is gone for the cluster is gone from the node.
    for pod in &pods {
        let id = pod["metadata"]["uid"].as_str().expect("a pod has an id");
        if id != stays {
            until("the pod's cgroup is removed", LIMIT, || {
                let text = Call::new(
                    "find",
                    ["/sys/fs/cgroup/memory", "-name", &format!("pod{id}")],
                )
                .ok();
                if text.is_empty() { Ok(()) } else { Err(text) }
            });
        }
    }
}
