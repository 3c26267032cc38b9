//! Images that docker builds from a Dockerfile, for a platform that is no Linux.

use std::fs;

use lighter_testkit::{Call, Docker, Registry, WASMTIME, guest};

const FILE: &str = r#"FROM scratch
COPY hello.wasm /app/
WORKDIR /app
ENV COLOUR=blue
ENTRYPOINT ["/app/hello.wasm"]
"#;

/// A build with these flags.
fn build(docker: &Docker, tag: &str, flags: &[&str]) -> Call {
    let context = docker.folder().join(tag.rsplit(['/', ':']).nth(1).unwrap());
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), FILE).unwrap();
    fs::copy(guest("hello"), context.join("hello.wasm")).unwrap();
    let folder = context.display().to_string();
    let build = ["build", "--tag", tag, &folder];
    docker.docker(build.iter().chain(flags))
}

fn run(docker: &Docker, tag: &str, platform: &str) {
    let runtime = format!("--runtime={WASMTIME}");
    let run = ["run", "--rm", "--network=none", "--platform"];
    let output = docker
        .docker(run.iter().chain(&[platform, &runtime, tag]))
        .output();
    assert_eq!(output.ok(), "Hello from Wasm\n", "{tag}");
}

#[test]
fn docker_builds_for_wasi_and_runs_it() {
    const WASI: &str = "wasi/wasm";
    let docker = Docker::start();
    let registry = Registry::start_inside(&docker);
    // With an attestation beside the image, and without.
    for attestation in ["--provenance=true", "--provenance=false"] {
        let tag = registry.reference(&format!("{}:1", attestation.trim_start_matches('-')));
        let tag = tag.replace('=', "-");
        build(&docker, &tag, &["--platform", WASI, attestation]).ok();
        run(&docker, &tag, WASI);
        docker.docker(["push", &tag]).ok();
        docker.docker(["rmi", "--force", &tag]).ok();
        docker.docker(["pull", "--platform", WASI, &tag]).ok();
        run(&docker, &tag, WASI);
    }
}

/// The builder that docker had before buildx, and that is used where there is no buildx.
#[test]
fn the_classic_builder_knows_linux_only() {
    const LINUX: &str = "linux/amd64";
    let docker = Docker::start();
    let classic = |name: &str, flags: &[&str]| {
        let build = build(&docker, &format!("lighter/{name}:1"), flags);
        build.env("DOCKER_BUILDKIT", "0").output()
    };
    classic("wasi", &["--platform", "wasi/wasm"])
        .fails_with(&["operating system is not supported"]);
    classic("linux", &[]).exits(0);
    run(&docker, "lighter/linux:1", LINUX);
}

#[test]
fn no_builder_knows_wasi_without_containerds_image_store() {
    let docker = Docker::start_with_graph_driver();
    let wasi = build(&docker, "lighter/wasi:1", &["--platform", "wasi/wasm"]).output();
    wasi.fails_with(&["operating system is not supported"]);
}
