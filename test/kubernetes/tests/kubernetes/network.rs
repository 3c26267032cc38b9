//! Services, names and both address families.

use std::collections::BTreeSet;
use std::time::Duration;

use lighter_kubernetes::{LIMIT, Space, deployment, get, linux, pod, runc, service, until, wasm};
use lighter_testkit::Call;
use serde_json::{Value, json};

const REQUESTS: usize = 40;

/// A service that says at `/env?POD` which pod it is.
fn hello() -> Value {
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    hello["env"] =
        json!([{ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
    hello["readinessProbe"] = json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1 });
    pod("hello", &[hello])
}

fn addresses(object: &Value, pointer: &str) -> Vec<String> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str().or_else(|| entry["ip"].as_str()))
        .map(str::to_owned)
        .collect()
}

/// The pods of the service that run and are not being deleted.
fn replicas(space: &Space) -> BTreeSet<String> {
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    space
        .pods("app=hello")
        .iter()
        .filter(stays)
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

/// Who answers: the node itself, or a Linux pod, asking a Service.
fn answers(space: &Space, client: &str, address: &str) -> Result<BTreeSet<String>, String> {
    if client == "node" {
        return (0..REQUESTS)
            .map(|_| get(address, 80, "/env?POD").map(|answer| answer.body.trim().to_owned()))
            .collect();
    }
    let script = format!(
        "for i in $(seq {REQUESTS}); do timeout 5 wget -qO- 'http://{address}/env?POD' && echo || exit 1; done"
    );
    let output = space.exec(client, ["sh", "-c", &script]);
    let answers = output
        .stdout
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    output
        .status
        .success()
        .then_some(answers)
        .ok_or(output.stderr)
}

/// Each replica answers each client, nobody else does, and no request fails.
#[track_caller]
fn all_answer(space: &Space, address: &str) {
    let expected = replicas(space);
    // kube-proxy knows of them within a second or two.
    until("all replicas answer", Duration::from_secs(30), || {
        let seen = answers(space, "node", address)?;
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}, expected {expected:?}"))
        }
    });
    for client in ["node", "client-on-wasmtime", "client-on-runc"] {
        let seen = answers(space, client, address)
            .unwrap_or_else(|error| panic!("{client}: a request failed: {error}"));
        assert_eq!(seen, expected, "{client} was answered by others");
    }
}

#[test]
fn a_service_is_answered_by_all_its_replicas_also_when_one_is_replaced() {
    let space = Space::new("service");
    space.apply(&service("hello"));
    space.apply(&deployment(&hello(), 2));
    space.apply(&pod(
        "client-on-wasmtime",
        &[linux("client", "exec sleep 1d")],
    ));
    space.apply(&runc("client-on-runc", &[linux("client", "exec sleep 1d")]));
    space.await_rollout("hello");
    for client in ["client-on-wasmtime", "client-on-runc"] {
        space.await_ready(client);
    }
    let seen = space.get("service/hello");
    let address = seen["spec"]["clusterIP"]
        .as_str()
        .expect("a Service has an address");
    all_answer(&space, address);

    let gone = replicas(&space).pop_first().expect("there are two");
    space.kubectl(["delete", "pod", &gone]).ok();
    space.await_rollout("hello");
    assert!(!replicas(&space).contains(&gone));
    all_answer(&space, address);

    space
        .kubectl(["delete", "deployment/hello", "service/hello"])
        .ok();
    space
        .kubectl([
            "wait",
            "pod",
            "-l",
            "app=hello",
            "--for",
            "delete",
            "--timeout",
            "60s",
        ])
        .ok();
    until("nobody answers", Duration::from_secs(30), || {
        get(address, 80, "/").map_or(Ok(()), |answer| Err(answer.body))
    });
    let tasks = Call::new("ctr", ["--namespace", "k8s.io", "containers", "list"]).ok();
    assert!(!tasks.contains(&gone), "{tasks}");
}

#[test]
fn pods_and_services_have_addresses_of_both_families() {
    let space = Space::new("dual-stack");
    space.apply(&service("hello"));
    let seen = space.start(&hello());
    let pod = addresses(&seen, "/status/podIPs");
    let cluster = addresses(&space.get("service/hello"), "/spec/clusterIPs");
    for (list, port) in [(&pod, 8080), (&cluster, 80)] {
        assert_eq!(list.len(), 2, "not of both families: {list:?}");
        assert!(list[0].contains('.') && list[1].contains(':'), "{list:?}");
        for address in list {
            let answer = until("it answers", LIMIT, || get(address, port, "/env?POD"));
            assert_eq!(answer.body.trim(), "hello", "{address}");
        }
    }
    // From a guest, over IPv6.
    let url = format!("/fetch?http://[{}]:8080/env?POD", pod[1]);
    let answer = get(&pod[0], 8080, &url).expect("it answers");
    assert!(
        answer.body.contains("200") && answer.body.contains("hello"),
        "{}",
        answer.body
    );
}

#[test]
fn names_of_services_are_resolved_in_guests_and_linux_pods() {
    let space = Space::new("names");
    space.apply(&service("hello"));
    space.start(&hello());
    let cluster = addresses(&space.get("service/hello"), "/spec/clusterIPs");
    let full = format!("hello.{}.svc.cluster.local", space.name());
    let guest = space.start(&pod("guest", &[wasm("guest", &["/http-hello.wasm"])]));
    space.start(&pod("on-wasmtime", &[linux("client", "exec sleep 1d")]));
    space.start(&runc("on-runc", &[linux("client", "exec sleep 1d")]));
    for (client, program) in [
        ("guest", ["/sockets.wasm", "resolve", "hello"]),
        ("guest", ["/sockets.wasm", "resolve", &full]),
        ("on-wasmtime", ["busybox", "nslookup", &full]),
        ("on-runc", ["busybox", "nslookup", &full]),
    ] {
        // CoreDNS hears of a Service some moments after its creation.
        until(
            &format!("{program:?} in {client} has {cluster:?}"),
            LIMIT,
            || {
                let output = space.exec(client, program);
                let all = cluster
                    .iter()
                    .all(|address| output.stdout.contains(address.as_str()));
                if all {
                    Ok(())
                } else {
                    Err(output.stdout + &output.stderr)
                }
            },
        );
    }
    let address = guest["status"]["podIP"]
        .as_str()
        .expect("it has an address");
    let answer = get(address, 8080, "/fetch?http://hello/env?POD").expect("the guest answers");
    assert!(
        answer.body.contains("200") && answer.body.contains("hello"),
        "{answer:?}"
    );
}
