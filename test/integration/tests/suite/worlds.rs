//! What kinds of Wasm run, and what those are told that do not.

use std::fs;
use std::time::Duration;

use lighter_testkit::Image;

use crate::containerd_with;
use crate::http::{Service, annotation, split};
use lighter_testkit::shim::eventually;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn preview_3_is_off_until_the_owner_turns_it_on() {
    let image = Image::wasm("preview3");
    let containerd = containerd_with(&image);
    let off = containerd.run(&image).output();
    off.fails_with(&[
        "/preview3.wasm",
        "WASI 0.3",
        "experimental",
        "preview3 = true",
    ]);
    let options = containerd.folder().join("options.toml");
    fs::write(&options, "preview3 = true").unwrap();
    let on = containerd
        .run(&image)
        .flags(["--runtime-config-path", options.to_str().unwrap()])
        .output();
    on.exits(0);
}

/// Its instances are made for several requests, one after the other and at a time.
#[test]
fn a_service_of_preview_3_is_off_too_and_shares_its_instances() {
    let image = Image::wasm("http-hello-3");
    let off = containerd_with(&image).run(&image).output();
    off.fails_with(&["/http-hello-3.wasm", "WASI 0.3", "preview3 = true"]);
    let folder = tempfile::tempdir().unwrap();
    let options = folder.path().join("options.toml");
    fs::write(&options, "preview3 = true").unwrap();
    let flags = ["--runtime-config-path", options.to_str().unwrap()];
    let service = Service::start("http-hello-3", &flags);
    let hello = ("Hello from WASI 0.3\n".to_owned(), 200);
    assert_eq!(service.answer("/"), hello);
    assert_eq!(service.answer("/none").1, 404);
    let url = "http://127.0.0.1:8080/echo";
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let body = "x".repeat(300_000);
        let echo = [version, "--data-binary", "@-", url];
        let echoed = service.network.curl(echo).stdin(body.clone()).ok();
        assert!(echoed == body, "{version}: {} bytes", echoed.len());
    }
    // A request that comes while the instance is between two may be given another one, so that
    // what is shared is not always the first try.
    let count = |service: &Service| -> u32 { service.answer("/count").0.trim().parse().unwrap() };
    eventually("an instance answers again and again", || {
        count(&service) >= 8
    });
    // How many the instance has at the end of each wait: the first sees all of them.
    eventually("an instance answers several at a time", || {
        let together: Vec<_> = (0..3)
            .map(|_| service.get("/together?1500").spawn())
            .collect();
        let mut seen: Vec<String> = together
            .into_iter()
            .map(|call| split(&call.wait(LIMIT).stdout).0.trim().to_owned())
            .collect();
        seen.sort();
        seen == ["1", "2", "3"]
    });
    // One that traps ends its instance, and others are served by the next one.
    eventually("an instance that trapped is another one", || {
        assert_eq!(service.answer("/trap").1, 500);
        count(&service) == 1
    });
    let once = annotation("http-reuse=1");
    let service = Service::start("http-hello-3", &[flags[0], flags[1], &once[0], &once[1]]);
    assert!((0..5).all(|_| count(&service) == 1));
}

#[test]
fn time_limits_hold_for_a_service_of_preview_3() {
    let folder = tempfile::tempdir().unwrap();
    let options = folder.path().join("options.toml");
    fs::write(&options, "preview3 = true\nhttp-request-seconds = 2").unwrap();
    let flags = ["--runtime-config-path", options.to_str().unwrap()];
    let service = Service::start("http-hello-3", &flags);
    for path in ["/spin", "/together?60000"] {
        assert_eq!(service.answer(path).1, 504, "{path}");
        assert_eq!(service.answer("/").1, 200, "after {path}");
    }
}

/// Modules for other runtimes say what they are and what works.
#[test]
fn what_is_made_for_other_runtimes_is_refused_by_name() {
    for (name, texts) in [
        ("threads", ["wasi::thread-spawn", "one thread"]),
        ("wasmedge-sockets", ["sock_open", "wasi:sockets"]),
    ] {
        let image = Image::wasm(name);
        let containerd = containerd_with(&image);
        let leaks = containerd.leaks();
        containerd.run(&image).output().fails_with(&texts);
        leaks.assert_none_since();
    }
}

/// As with any other runtime, they answer an error; `modules.rs` of the compiler says which.
#[test]
fn sockets_of_preview_1_are_no_reason_to_end() {
    let image = Image::wasm("sock-accept");
    assert_eq!(containerd_with(&image).run(&image).output().ok(), "");
}

#[test]
fn imports_that_nobody_provides_are_named_with_their_version() {
    let image = Image::wasm("imports-interface");
    let output = containerd_with(&image).run(&image).output();
    output.fails_with(&["acme:thing/store@1.2.3", "it provides"]);
}
