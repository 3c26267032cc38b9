//! ConfigMaps, Secrets and tokens as files.

use std::time::Duration;

use lighter_kubernetes::{Space, get, pod, until, wasm};
use lighter_testkit::Call;
use serde_json::{Value, json};

#[test]
fn config_maps_and_secrets_are_files_that_follow_their_objects() {
    let space = Space::new("live-update");
    let config = |text: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "config" }, "data": { "key": text } });
    let secret = |text: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secret" }, "stringData": { "key": text } });
    space.apply(&config("first setting"));
    space.apply(&secret("first password"));
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    hello["volumeMounts"] = json!([
        { "name": "config", "mountPath": "/config", "readOnly": true },
        { "name": "secret", "mountPath": "/secret", "readOnly": true },
    ]);
    let mut with = pod("hello", &[hello]);
    with["spec"]["volumes"] = json!([
        { "name": "config", "configMap": { "name": "config" } },
        { "name": "secret", "secret": { "secretName": "secret" } },
    ]);
    let seen = space.start(&with);
    let address = seen["status"]["podIP"].as_str().expect("it has an address");
    let reads = |path: &str, text: &str| {
        until(
            &format!("{path} has {text:?}"),
            Duration::from_secs(180),
            || {
                let answer = get(address, 8080, &format!("/read?{path}"))?;
                if answer.body == text {
                    Ok(())
                } else {
                    Err(answer.body)
                }
            },
        );
    };
    reads("/config/key", "first setting");
    reads("/secret/key", "first password");
    space.apply(&config("second setting"));
    space.apply(&secret("second password"));
    reads("/config/key", "second setting");
    reads("/secret/key", "second password");
    assert_eq!(
        space.get("pod/hello")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
}

#[test]
fn a_guest_reads_the_token_that_is_projected_for_it() {
    let space = Space::new("token");
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    hello["volumeMounts"] = json!([{ "name": "token", "mountPath": "/token" }]);
    let mut with = pod("hello", &[hello]);
    with["spec"]["volumes"] = json!([{ "name": "token", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token", "audience": "a-vault", "expirationSeconds": 600 } },
        { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
    ] } }]);
    let seen = space.start(&with);
    let address = seen["status"]["podIP"].as_str().expect("it has an address");
    let read = |path: &str| {
        until("the guest answers", Duration::from_secs(30), || {
            get(address, 8080, &format!("/read?{path}"))
        })
        .body
    };
    assert_eq!(read("/token/name"), "hello");
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": read("/token/token"), "audiences": ["a-vault"] },
    });
    let text = Call::new("kubectl", ["create", "-f", "-", "-o", "json"])
        .stdin(review.to_string())
        .ok();
    let status = &serde_json::from_str::<Value>(&text).expect("kubectl answers JSON")["status"];
    assert_eq!(status["authenticated"], true, "{status:#}");
    assert_eq!(
        status["user"]["username"],
        format!("system:serviceaccount:{}:default", space.name())
    );
    // The account's own token is where every program looks for it.
    let own = read("/var/run/secrets/kubernetes.io/serviceaccount/token");
    assert_eq!(own.split('.').count(), 3, "no token: {own}");
}
