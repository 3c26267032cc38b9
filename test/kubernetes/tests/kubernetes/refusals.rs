//! What `kubectl describe` says of what cannot run.

use lighter_kubernetes::{Space, import, pod, wasm};
use lighter_testkit::{Call, Image, Registry};
use serde_json::json;

#[test]
fn a_runtime_class_without_its_handler() {
    let space = Space::new("no-handler");
    let class = json!({
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
        "metadata": { "name": "absent" }, "handler": "not-installed",
    });
    Call::new("kubectl", ["apply", "-f", "-"])
        .stdin(class.to_string())
        .ok();
    let mut hello = pod("hello", &[wasm("hello", &["/hello.wasm"])]);
    hello["spec"]["runtimeClassName"] = json!("absent");
    space.apply(&hello);
    space.await_described(
        "hello",
        &[
            "FailedCreatePodSandBox",
            "no runtime for \"not-installed\" is configured",
        ],
    );
}

#[test]
fn an_image_for_another_platform() {
    let space = Space::new("platform");
    let registry = Registry::start();
    let image = Image::new("elsewhere")
        .guest("/hello.wasm", "hello")
        .platform("linux", "arm64")
        .edit_index(|_| {});
    import(&image);
    let (name, there) = (image.reference(), registry.reference("elsewhere:1"));
    let push = ["--namespace", "k8s.io", "images", "push", "--plain-http"];
    Call::new("ctr", push.into_iter().chain([there.as_str(), &name])).ok();
    let mut hello = wasm("hello", &["/hello.wasm"]);
    hello["image"] = json!(there);
    hello["imagePullPolicy"] = json!("Always");
    space.apply(&pod("hello", &[hello]));
    space.await_described(
        "hello",
        &["ErrImagePull", "no match for platform in manifest"],
    );
}

#[test]
fn a_volume_that_is_not_there() {
    let space = Space::new("no-volume");
    for (name, volume, text) in [
        (
            "config",
            json!({ "configMap": { "name": "absent" } }),
            "configmap \"absent\" not found",
        ),
        (
            "path",
            json!({ "hostPath": { "path": "/absent", "type": "File" } }),
            "hostPath type check failed: /absent is not a file",
        ),
        (
            "claim",
            json!({ "persistentVolumeClaim": { "claimName": "absent" } }),
            "persistentvolumeclaim \"absent\" not found",
        ),
    ] {
        let mut hello = wasm("hello", &["/hello.wasm"]);
        hello["volumeMounts"] = json!([{ "name": "volume", "mountPath": "/volume" }]);
        let mut without = pod(name, &[hello]);
        without["spec"]["volumes"] = json!([volume]);
        without["spec"]["volumes"][0]["name"] = json!("volume");
        space.apply(&without);
        space.await_described(name, &[text]);
    }
}

#[test]
fn an_entrypoint_that_is_not_there_or_no_wasm() {
    let space = Space::new("no-program");
    space.apply(&pod("absent", &[wasm("absent", &["/absent.wasm"])]));
    space.apply(&pod("text", &[wasm("text", &["/not-wasm.wasm"])]));
    space.await_described("absent", &["/absent.wasm", "StartError"]);
    space.await_described("text", &["/not-wasm.wasm", "StartError"]);
}

#[test]
fn an_option_that_the_node_does_not_allow() {
    let space = Space::new("option");
    let mut hello = pod("hello", &[wasm("hello", &["/hello.wasm"])]);
    hello["metadata"]["annotations"] = json!({ "lighter.dev/no-such-option": "1" });
    space.apply(&hello);
    space.await_described("hello", &["lighter.dev/no-such-option"]);
}
