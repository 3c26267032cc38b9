//! What a guest leaves for whoever looks for a fault: backtraces, core dumps, profiles.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lighter_testkit::{Call, Containerd, Image, Output, node_tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use wasmparser::{Parser, Payload};

use crate::http::{Service, annotation};
use crate::process_model::contains;
use crate::{containerd_with, init, shims};
use lighter_testkit::shim::eventually;

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "correct-horse-battery";
/// Where `fault.c` traps.
const LINE: &str = "debug/fault.c:19";

/// Flags by which a pod asks for `tools` on a node whose owner allows `allowed`.
fn asking(containerd: &Containerd, allowed: &str, tools: &str) -> Vec<String> {
    let options = containerd.folder().join("options.toml");
    fs::write(&options, format!("debug = {allowed}")).unwrap();
    let path = options.display().to_string();
    let mut flags = vec!["--runtime-config-path".to_owned(), path];
    flags.extend(annotation(&format!("debug={tools}")));
    flags
}

const ALL: &str = r#"["coredump", "profile"]"#;

/// As containerd's CRI has it.
const POD: [&str; 6] = [
    "--annotation",
    "io.kubernetes.cri.sandbox-namespace=shop",
    "--annotation",
    "io.kubernetes.cri.sandbox-name=web",
    "--annotation",
    "io.kubernetes.cri.container-name=app",
];

fn fault() -> Image {
    Image::wasm("fault").guest("/component.wasm", "fault-component")
}

fn lighter<const N: usize>(arguments: [&str; N]) -> Call {
    Call::new(node_tool(), ["debug"].into_iter().chain(arguments))
}

fn full(containerd: &Containerd, id: &str) -> String {
    format!("{}/{id}", containerd.namespace())
}

/// What is recorded of the containers of a daemon.
fn records(containerd: &Containerd) -> Vec<Value> {
    let list: Vec<Value> = serde_json::from_str(&lighter(["ls", "--json"]).ok()).unwrap();
    let own = |row: &Value| row["namespace"] == containerd.namespace();
    list.into_iter().filter(own).collect()
}

/// The path of the only file that `tool` has written.
#[track_caller]
fn only(containerd: &Containerd, tool: &str) -> PathBuf {
    let records = records(containerd);
    assert_eq!(records.len(), 1, "{records:?}");
    let path = records[0][tool].as_str();
    PathBuf::from(path.unwrap_or_else(|| panic!("no {tool} in {records:?}")))
}

/// The custom sections of a core dump, and the bytes of its memory.
fn parse(path: &Path) -> (Vec<String>, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let (mut sections, mut memory) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            Payload::CustomSection(section) => sections.push(section.name().to_owned()),
            Payload::DataSection(section) => {
                for data in section {
                    memory.extend(data.unwrap().data);
                }
            }
            _ => {}
        }
    }
    (sections, memory)
}

#[test]
fn a_trap_names_the_line_of_the_source() {
    let image = fault();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    for path in ["/fault.wasm", "/component.wasm"] {
        let output = containerd
            .run(&image)
            .arguments([path, "trap", "x"])
            .output();
        output.exits(134).fails_with(&["faulty", LINE]);
        assert!(!output.stderr.contains("core dump"), "{}", output.stderr);
    }
    leaks.assert_none_since();
}

#[test]
fn who_may_not_ask_is_told_so() {
    let image = Image::wasm("hello").guest("/unknown.wasm", "imports-unknown");
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let run = |allowed: &str, tools: &str| -> Output {
        let flags = asking(&containerd, allowed, tools);
        containerd.run(&image).flags(flags).output()
    };
    run("[]", "coredump").fails_with(&["lighter.dev/debug", "owner does not allow", "coredump"]);
    run(r#"["profile"]"#, "profile,coredump").fails_with(&["owner does not allow"]);
    run(ALL, "everything").fails_with(&["coredump, profile or both"]);
    run(r#"["core"]"#, "").fails_with(&["debug", "coredump and profile"]);
    // Who is allowed and does not trap leaves nothing.
    run(ALL, "coredump").exits(0);
    run(ALL, "").exits(0);
    // Nor who cannot be created.
    containerd
        .run(&image)
        .flags(asking(&containerd, ALL, "coredump,profile"))
        .arguments(["/unknown.wasm"])
        .output()
        .fails_with(&["frobnicate"]);
    leaks.assert_none_since();
}

/// Memory, stack and modules of a trap, found after the container has gone, and nowhere else.
#[test]
fn a_trap_leaves_a_core_dump() {
    let image = fault();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let secret = format!("SECRET={SECRET}");
    for (path, user) in [
        ("/fault.wasm", "0"),
        ("/fault.wasm", "65534"),
        ("/component.wasm", "1"),
    ] {
        let id = containerd.next_id();
        let output = containerd
            .run(&image)
            .id(&id)
            .flags(asking(&containerd, ALL, "coredump,profile"))
            .flags(["--env", &secret, "--user", user, "--read-only"])
            .flags(POD)
            .arguments([path, "trap", "word-of-the-guest"])
            .output();
        output.exits(134).fails_with(&[LINE, "wrote a core dump"]);

        let file = only(&containerd, "coredump");
        assert!(
            output.stderr.contains(file.to_str().unwrap()),
            "{}",
            output.stderr
        );
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        for folder in file.ancestors().skip(1).take(4) {
            assert_eq!(fs::metadata(folder).unwrap().mode() & 0o7777, 0o700);
        }
        let (sections, memory) = parse(&file);
        for section in ["core", "coremodules", "coreinstances", "corestack"] {
            assert!(
                sections.iter().any(|name| name == section),
                "{path}: {sections:?}"
            );
        }
        for text in ["word-of-the-guest", SECRET] {
            assert!(contains(&memory, text), "{path}: no {text}");
        }
        let shown = lighter(["show", &full(&containerd, &id)]).ok();
        assert!(shown.contains("shop/web/app"), "{shown}");
        for text in [LINE, path, "faulty", "1 modules"]
            .iter()
            .take(if user == "1" { 3 } else { 4 })
        {
            assert!(shown.contains(text), "no {text} in {shown}");
        }
        let beside = fs::read_dir(file.parent().unwrap()).unwrap().flatten();
        for other in beside.filter(|entry| entry.path() != file) {
            let bytes = fs::read(other.path()).unwrap();
            assert!(!contains(&bytes, SECRET), "{}", other.path().display());
        }
        assert!(!shown.contains(SECRET) && !containerd.log().contains(SECRET));
        lighter(["rm", &full(&containerd, &id)]).ok();
    }
    leaks.assert_none_since();
}

/// A dump takes memory, which must not turn a trap into a kill.
#[test]
fn a_limited_container_ends_as_it_would_without_a_core_dump() {
    let image = fault();
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let limit = (64 << 20).to_string();
    let run = |mebibytes: &str| {
        containerd
            .run(&image)
            .flags(asking(&containerd, ALL, "coredump"))
            .flags(["--memory-limit", &limit])
            .arguments(["/fault.wasm", "trap", "x", mebibytes])
            .output()
    };
    run("40")
        .exits(134)
        .fails_with(&[LINE, "no core dump", "limit leaves"]);
    leaks.assert_none_since();
    run("16")
        .exits(134)
        .fails_with(&[LINE, "wrote a core dump"]);
    let dump = only(&containerd, "coredump");
    assert!(fs::metadata(dump).unwrap().len() > 16 << 20);
}

#[test]
fn the_first_trap_of_a_service_is_dumped_and_it_serves_on() {
    let options = tempfile::NamedTempFile::new().unwrap();
    fs::write(&options, format!("debug = {ALL}")).unwrap();
    let [flag, asked] = annotation("debug=coredump,profile");
    let path = options.path().to_str().unwrap();
    let service = Service::start(
        "http-hello",
        &["--runtime-config-path", path, &flag, &asked],
    );
    assert_eq!(service.answer("/trap").1, 500);
    assert_eq!(service.answer("/trap").1, 500);
    assert_eq!(service.answer("/").1, 200);
    let log = service.log();
    assert_eq!(log.matches("wrote a core dump").count(), 1, "{log}");
    assert_eq!(log.matches("trapped: ").count(), 2, "{log}");
    let dump = log
        .split(": ")
        .find(|part| part.starts_with("/var/lib/lighter/debug/"));
    let (sections, memory) = parse(Path::new(dump.unwrap().lines().next().unwrap()));
    assert!(sections.contains(&"corestack".to_owned()));
    assert!(!memory.is_empty());
}

/// Samples of a profile in which `function` was at work, and all.
fn samples(profile: &str, function: &str) -> (u64, u64) {
    let counts = profile.lines().map(|line| {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        let innermost = stack.rsplit(';').next().unwrap();
        let count: u64 = count.parse().unwrap();
        (innermost.contains(function), count)
    });
    counts.fold((0, 0), |(own, all), (is_own, count)| {
        (own + if is_own { count } else { 0 }, all + count)
    })
}

#[test]
fn a_profile_names_the_function_that_is_busy() {
    let image = fault();
    let containerd = containerd_with(&image);
    for path in ["/fault.wasm", "/component.wasm"] {
        let id = containerd.next_id();
        containerd
            .run(&image)
            .id(&id)
            .flags(asking(&containerd, ALL, "profile"))
            .flags(["--user", "65534"])
            .arguments([path, "busy", "2"])
            .output()
            .exits(0);
        let profile = fs::read_to_string(only(&containerd, "profile")).unwrap();
        let (busy, all) = samples(&profile, "busy_function");
        // Two seconds at 200 samples each, less what other tests take of the processor.
        assert!(
            all >= 30 && busy * 10 >= all * 8,
            "{busy} of {all}: {profile}"
        );
        assert!(profile.contains("caller;busy_function "), "{profile}");
        let shown = lighter(["show", &full(&containerd, &id)]).ok();
        assert!(shown.contains("busy_function"), "{shown}");
        lighter(["rm", &full(&containerd, &id)]).ok();
    }
}

/// Also when nobody could write it at the end.
#[test]
fn a_killed_guest_leaves_its_profile() {
    let image = fault().entrypoint(["/fault.wasm", "busy", "100"]);
    let containerd = containerd_with(&image);
    let id = containerd
        .run(&image)
        .flags(asking(&containerd, ALL, "profile"))
        .detach();
    eventually("a profile is written", || {
        records(&containerd)
            .iter()
            .any(|row| row["profile"].is_string())
    });
    containerd.remove(&id);
    let profile = fs::read_to_string(only(&containerd, "profile")).unwrap();
    assert!(profile.contains("busy_function"), "{profile}");
}

/// Each request computes for less than a tick, and the service waits in between.
#[test]
fn a_profile_of_a_service_is_of_its_requests() {
    let options = tempfile::NamedTempFile::new().unwrap();
    fs::write(&options, format!("debug = {ALL}")).unwrap();
    let [flag, asked] = annotation("debug=profile");
    let path = options.path().to_str().unwrap();
    let service = Service::start(
        "http-python",
        &["--runtime-config-path", path, &flag, &asked],
    );
    let requests = ["--rate", "100/s", "http://127.0.0.1:8080/?[1-400]"];
    service.network.curl(requests).ok();
    eventually("the profile is written", || {
        let list: Vec<Value> = serde_json::from_str(&lighter(["ls", "--json"]).ok()).unwrap();
        list.iter()
            .filter(|row| row["program"] == "/http-python.wasm")
            .filter_map(|row| row["profile"].as_str())
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|text| samples(&text, "").1 >= 8 && text.contains("PyObject_Call"))
    });
}

/// `perf` reads the names of a guest's functions from the compiled code, of any container.
#[test]
fn perf_names_the_functions_of_a_guest() {
    let image = fault();
    let containerd = containerd_with(&image);
    let profile = containerd.folder().join("perf.data");
    let profile = profile.to_str().unwrap();
    for path in ["/fault.wasm", "/component.wasm"] {
        let id = containerd
            .run(&image)
            .arguments([path, "busy", "100"])
            .detach();
        let pid = init(&containerd, &id).to_string();
        let record = [
            "record", "-g", "-p", &pid, "-o", profile, "--", "sleep", "1",
        ];
        Call::new("perf", record).ok();
        // As docs/guides/debugging.md has it, while the container runs.
        let report = "--pid --fork --mount-proc perf report --stdio --no-children -g caller --symfs /var/lib/lighter/artifacts/code -i";
        let report = Call::new("unshare", report.split(' ').chain([profile])).ok();
        for function in ["::busy_function", "::caller"] {
            assert!(
                report.contains(function),
                "{path}: no {function} in {report}"
            );
        }
        containerd.remove(&id);
    }
}

/// containerd calls the delete binary then.
#[test]
fn a_killed_shim_leaves_no_empty_record() {
    let image = Image::wasm("sleep").entrypoint(["/sleep.wasm", "100"]);
    let containerd = containerd_with(&image);
    let leaks = containerd.leaks();
    let id = containerd
        .run(&image)
        .flags(asking(&containerd, ALL, "coredump,profile"))
        .detach();
    let running = records(&containerd);
    assert!(running[0]["running"] == true, "{running:?}");
    for shim in shims(&containerd) {
        kill(Pid::from_raw(shim.pid), Signal::SIGKILL).unwrap();
    }
    eventually("containerd forgets the task", || {
        containerd.status(&id).is_none()
    });
    let delete = ["containers", "delete", &id];
    containerd.ctr(delete).output().exits(0);
    leaks.assert_none_since();
}

/// There may be endlessly many execs of a container.
#[test]
fn an_exec_is_not_recorded() {
    let image = fault().entrypoint(["/fault.wasm", "busy", "100"]);
    let containerd = containerd_with(&image);
    let id = containerd
        .run(&image)
        .flags(asking(&containerd, ALL, "coredump"))
        .detach();
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "x",
        &id,
        "/fault.wasm",
        "trap",
        "x",
    ];
    let output = containerd.ctr(exec).limit(LIMIT).output();
    output.exits(134).fails_with(&[LINE]);
    assert!(!output.stderr.contains("core dump"), "{}", output.stderr);
    containerd.remove(&id);
    assert_eq!(records(&containerd), Vec::<Value>::new());
}
