//! Options of a node and annotations of a pod, as containerd hands them over.

use std::fs;

use lighter_testkit::{Image, Network};

use crate::containerd_with;

#[test]
fn annotations_that_are_wrong_are_named_before_anything_runs() {
    let image = Image::wasm("hello");
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let run = |annotations: &[&str]| {
        let flags = annotations.iter().flat_map(|annotation| {
            [
                "--annotation".to_owned(),
                format!("lighter.dev/{annotation}"),
            ]
        });
        containerd.run(&image).flags(flags).output()
    };
    run(&["fule=3"]).fails_with(&["lighter.dev/fule", "there are clocks, compose, debug"]);
    run(&["engine=metered"]).fails_with(&["lighter.dev/engine", "owner does not allow"]);
    run(&["fuel=10"]).fails_with(&["lighter.dev/fuel", "engine=metered"]);
    run(&["http-concurrency=100000"]).fails_with(&["the most on this node is 100"]);
    run(&["tcp=maybe"]).fails_with(&["true or false"]);
    run(&["tcp=false", "udp=false", "clocks=coarse"]).exits(0);
    leaks.assert_none_since();
}

#[test]
fn the_nodes_owner_sets_the_widest_options() {
    let image = Image::wasm("busy");
    let containerd = containerd_with(&image);
    let options = containerd.folder().join("options.toml");
    let run = |toml: &str, flags: &[&str]| {
        fs::write(&options, toml).unwrap();
        containerd
            .run(&image)
            .flags(["--runtime-config-path", options.to_str().unwrap()])
            .flags(flags)
            .output()
    };
    let metered = [
        "--annotation",
        "lighter.dev/engine=metered",
        "--annotation",
        "lighter.dev/fuel=1000000",
    ];
    // It computes for ever, or as long as its fuel lasts.
    let ended = run("variants = [\"metered\"]\nSystemdCgroup = false", &metered);
    ended
        .exits(134)
        .fails_with(&["as many instructions as its fuel allows"]);
    run("variants = []", &metered).fails_with(&["owner does not allow"]);
    run("variant = []", &[]).fails_with(&["variant", "`variants`"]);
    run("tcp = false", &["--annotation", "lighter.dev/tcp=true"])
        .fails_with(&["owner does not allow"]);
    let missing = containerd
        .run(&image)
        .flags(["--runtime-config-path", "/nonexistent.toml"])
        .output();
    missing.fails_with(&["/nonexistent.toml"]);
}

#[test]
fn the_environment_and_configuration_are_what_was_given() {
    let image = Image::wasm("env-args");
    let containerd = containerd_with(&image);
    let flags = [
        "--env",
        "SEEN=1",
        "--env",
        "HIDDEN=2",
        "--annotation",
        "lighter.dev/environment=SEEN",
    ];
    let seen = containerd.run(&image).flags(flags).output().ok();
    assert!(seen.contains("env: SEEN=1"), "{seen}");
    assert!(!seen.contains("HIDDEN") && !seen.contains("PATH"), "{seen}");
}

#[test]
fn configuration_and_key_value_stores_are_there_for_components() {
    let image = Image::wasm("config-keyvalue");
    let containerd = containerd_with(&image);
    let run = |flags: &[&str], arguments: &[&str]| {
        containerd
            .run(&image)
            .flags(flags)
            .arguments(["/config-keyvalue.wasm"].iter().chain(arguments))
            .output()
            .ok()
    };
    let set = ["--env", "COLOUR=blue"];
    assert_eq!(run(&set, &["config", "COLOUR"]).trim(), "blue");
    assert_eq!(run(&set, &["config", "SIZE"]).trim(), "none");
    let stored = run(&[], &["set", "a", "1", "get", "a", "get", "b"]);
    assert!(stored.contains('1') && stored.contains("none"), "{stored}");
}

/// Variants differ in what is compiled into the code, not in what it does.
#[test]
fn every_variant_runs_the_same_program() {
    let image = Image::wasm("hello");
    let containerd = containerd_with(&image);
    let options = containerd.folder().join("options.toml");
    fs::write(&options, "variants = [\"metered\", \"debug\"]").unwrap();
    for flags in [
        &["lighter.dev/engine=command"][..],
        &["lighter.dev/engine=http"],
        &["lighter.dev/engine=debug"],
        &["lighter.dev/engine=metered", "lighter.dev/fuel=100000000"],
    ] {
        let annotations = flags.iter().flat_map(|flag| ["--annotation", flag]);
        let output = containerd
            .run(&image)
            .flags(["--runtime-config-path", options.to_str().unwrap()])
            .flags(annotations)
            .output();
        assert_eq!(output.ok(), "Hello from Wasm\n", "{flags:?}");
    }
}

/// An exec gets no options from containerd; it has those of its container.
#[test]
fn options_reach_an_exec() {
    let image = Image::wasm("sleep").guest("/sockets.wasm", "sockets");
    let containerd = containerd_with(&image);
    let network = Network::new();
    let options = containerd.folder().join("options.toml");
    fs::write(&options, "names = false").unwrap();
    let id = containerd
        .run(&image)
        .flags(network.flags())
        .flags(["--runtime-config-path", options.to_str().unwrap()])
        .arguments(["/sleep.wasm", "60"])
        .detach();
    let resolved = containerd
        .ctr([
            "tasks",
            "exec",
            "--exec-id",
            "x",
            &id,
            "/sockets.wasm",
            "resolve",
            "localhost",
        ])
        .output();
    resolved.fails_with(&["permanent-resolver-failure"]);
    containerd.remove(&id);
}
