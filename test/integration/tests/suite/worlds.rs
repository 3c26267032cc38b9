//! What kinds of Wasm run, and what those are told that do not.

use std::fs;

use lighter_testkit::Image;

use crate::containerd_with;

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

/// Go imports the sockets of preview 1 whether it uses them or not, so they fail when they are
/// called.
#[test]
fn sockets_of_preview_1_are_refused_when_they_are_called() {
    let image = Image::wasm("sock-accept");
    let output = containerd_with(&image).run(&image).output();
    output.fails_with(&["sock_accept", "WASI 0.2", "wasi:sockets"]);
}

#[test]
fn imports_that_nobody_provides_are_named_with_their_version() {
    let image = Image::wasm("imports-interface");
    let output = containerd_with(&image).run(&image).output();
    output.fails_with(&["acme:thing/store@1.2.3", "it provides"]);
}
