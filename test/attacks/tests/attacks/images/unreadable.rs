//! Modules that the user of a container may not read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use lighter_testkit::shim::{DEFAULT_CAPABILITIES, Shim};
use serde_json::json;

#[test]
fn a_guest_does_not_run_from_a_module_that_its_user_may_not_read() {
    let shim = Shim::start();
    let root = shim.rootfs();
    let mode = |path: &str, mode| {
        fs::set_permissions(root.join(path), Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(root.join("private")).unwrap();
    for name in ["secret.wasm", "private/hello.wasm"] {
        fs::copy(root.join("hello.wasm"), root.join(name)).unwrap();
    }
    mode("hello.wasm", 0o644);
    mode("sleep.wasm", 0o644);
    mode("secret.wasm", 0o600);
    mode("private", 0o700);
    let spec = |id: &str, path: &str, user: u32| {
        let mut spec = shim.spec(id, &[path]);
        spec["process"]["user"] = json!({ "uid": user, "gid": user });
        let names = DEFAULT_CAPABILITIES;
        spec["process"]["capabilities"] =
            json!({ "bounding": names, "effective": names, "permitted": names });
        spec
    };
    // The code is in the cache: root has run it.
    for (number, path) in ["/secret.wasm", "/private/hello.wasm"]
        .into_iter()
        .enumerate()
    {
        let id = format!("root-{number}");
        shim.create(&id, &spec(&id, path, 0)).unwrap();
        shim.remove(&id);
    }
    shim.create("own", &spec("own", "/hello.wasm", 1000))
        .unwrap();
    shim.remove("own");
    for path in ["/secret.wasm", "/secret.wasm#_start", "/private/hello.wasm"] {
        let error = shim.create("a", &spec("a", path, 1000)).unwrap_err();
        assert!(error.contains("permission denied"), "{path}: {error}");
    }
    // The same by an exec, of a user of its own.
    let mut sleeping = spec("b", "/sleep.wasm", 0);
    sleeping["process"]["args"] = json!(["/sleep.wasm", "100"]);
    shim.create("b", &sleeping).unwrap();
    shim.start_task("b").unwrap();
    let process = |path: &str| spec("b", path, 1000)["process"].clone();
    assert_eq!(shim.run_exec("b", "may", &process("/hello.wasm")), Ok(0));
    for path in ["/secret.wasm", "/private/hello.wasm"] {
        let error = shim.run_exec("b", "may-not", &process(path)).unwrap_err();
        assert!(error.contains("permission denied"), "{path}: {error}");
        let _ = shim.delete_exec("b", "may-not");
    }
    shim.remove("b");
}
