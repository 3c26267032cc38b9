//! What kubectl does with a pod that runs.

use std::fs;
use std::time::Duration;

use lighter_kubernetes::{BUSYBOX, LIMIT, Space, get, linux, pod, until, wasm};
use serde_json::json;

const LINE: Duration = Duration::from_secs(30);

fn address(pod: &serde_json::Value) -> String {
    pod["status"]["podIP"]
        .as_str()
        .expect("a pod that runs has an address")
        .to_owned()
}

#[test]
fn logs_have_both_outputs_and_follow() {
    let space = Space::new("logs");
    let seen = space.start(&pod("hello", &[wasm("hello", &["/http-hello.wasm"])]));
    let mut follow = space.kubectl(["logs", "-f", "hello"]).spawn();
    let address = address(&seen);
    let print = |text: &str| {
        until("it prints", LINE, || {
            get(&address, 8080, &format!("/print?{text}"))
        })
    };
    print("one");
    follow.await_stdout("out: one\n", LINE);
    follow.await_stdout("err: one\n", LINE);
    print("two");
    follow.await_stdout("out: two\n", LINE);
    let text = space.kubectl(["logs", "hello"]).ok();
    for line in ["out: one", "err: one", "out: two"] {
        assert!(text.lines().any(|seen| seen == line), "no {line} in {text}");
    }
    space.kubectl(["delete", "pod", "hello"]).ok();
    follow.wait(LINE).exits(0);
}

#[test]
fn logs_of_a_guest_that_has_ended() {
    let space = Space::new("logs-ended");
    let mut ended = pod("hello", &[wasm("hello", &["/hello.wasm"])]);
    ended["spec"]["restartPolicy"] = json!("Never");
    space.apply(&ended);
    space.await_value("pod/hello", "/status/phase", &json!("Succeeded"));
    assert_eq!(space.kubectl(["logs", "hello"]).ok(), "Hello from Wasm\n");
}

#[test]
fn exec_runs_a_guest_with_arguments_input_and_exit_code() {
    let space = Space::new("exec");
    let mut sleep = wasm("sleep", &["/sleep.wasm", "1000"]);
    sleep["env"] = json!([{ "name": "GREETING", "value": "hello" }]);
    space.start(&pod("sleep", &[sleep]));
    let text = space.exec("sleep", ["/env-args.wasm", "a", "b c"]).ok();
    for line in ["arg: a", "arg: b c", "env: GREETING=hello"] {
        assert!(text.lines().any(|seen| seen == line), "no {line} in {text}");
    }
    let output = space
        .kubectl(["exec", "-i", "sleep", "--", "/cat.wasm"])
        .stdin("six\nby\n")
        .output();
    assert_eq!(output.exits(0).stdout, "six\nby\n");
    assert!(
        output.stderr.contains("end of file after 7 bytes"),
        "{}",
        output.stderr
    );
    space.exec("sleep", ["/exit.wasm", "7"]).exits(7);
    space
        .exec("sleep", ["/absent.wasm"])
        .fails_with(&["/absent.wasm"]);
}

#[test]
fn exec_on_a_terminal() {
    let space = Space::new("exec-terminal");
    space.start(&pod("sleep", &[wasm("sleep", &["/sleep.wasm", "1000"])]));
    let mut cat = space
        .kubectl(["exec", "-it", "sleep", "--", "/cat.wasm"])
        .on_terminal(99, 33)
        .spawn();
    cat.write("typed\n");
    // Once by the terminal's echo, once by the guest.
    until("the guest's line", LINE, || {
        let text = cat.stdout();
        if text.matches("typed").count() >= 2 {
            Ok(())
        } else {
            Err(text)
        }
    });
    cat.write([4]);
    let output = cat.wait(LINE);
    assert!(
        output.exits(0).stdout.contains("end of file after 6 bytes"),
        "{}",
        output.stdout
    );

    let mut sleep = space
        .kubectl(["exec", "-it", "sleep", "--", "/sleep.wasm", "1000"])
        .on_terminal(99, 33)
        .spawn();
    sleep.await_stdout("ready", LINE);
    // Ctrl-C.
    sleep.write([3]);
    assert_eq!(sleep.wait(LINE).code(), 130);
}

#[test]
fn attach_reaches_input_and_output_of_a_guest() {
    let space = Space::new("attach");
    let mut cat = wasm("cat", &["/cat.wasm"]);
    cat["stdin"] = json!(true);
    cat["stdinOnce"] = json!(true);
    let mut once = pod("cat", &[cat]);
    once["spec"]["restartPolicy"] = json!("Never");
    space.start(&once);
    let mut attach = space.kubectl(["attach", "-i", "cat"]).spawn();
    attach.write("through kubectl\n");
    attach.await_stdout("through kubectl\n", LINE);
    attach.close_stdin();
    attach.wait(LINE).exits(0);
    space.await_value("pod/cat", "/status/phase", &json!("Succeeded"));
    assert!(
        space
            .kubectl(["logs", "cat"])
            .ok()
            .contains("end of file after 16 bytes")
    );
}

#[test]
fn a_port_is_forwarded() {
    let space = Space::new("port-forward");
    let mut hello = wasm("hello", &["/http-hello.wasm"]);
    hello["readinessProbe"] = json!({ "httpGet": { "port": 8080 }, "periodSeconds": 1 });
    space.start(&pod("hello", &[hello]));
    let mut forward = space
        .kubectl(["port-forward", "pod/hello", ":8080"])
        .spawn();
    forward.await_stdout("Forwarding from 127.0.0.1:", LINE);
    let text = forward.stdout();
    let port = text
        .split_once("127.0.0.1:")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no port in {text}"));
    for _ in 0..3 {
        let answer = get("127.0.0.1", port, "/").expect("it answers through kubectl");
        assert_eq!(answer.body, "Hello from Wasm\n");
    }
}

#[test]
fn files_are_copied_by_way_of_a_sidecar() {
    let space = Space::new("cp");
    let mut containers = [
        wasm("hello", &["/http-hello.wasm"]),
        linux("tools", "exec sleep 1d"),
    ];
    for container in &mut containers {
        container["volumeMounts"] = json!([{ "name": "shared", "mountPath": "/shared" }]);
    }
    let mut shared = pod("hello", &containers);
    shared["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    let seen = space.start(&shared);
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    fs::write(&there, "brought by kubectl").expect("write a temporary file");
    let [there, back] = [there, back].map(|path| path.display().to_string());
    space
        .kubectl(["cp", "-c", "tools", &there, "hello:/shared/file"])
        .ok();
    let answer = until("it answers", LINE, || {
        get(&address(&seen), 8080, "/read?/shared/file")
    });
    assert_eq!(answer.body, "brought by kubectl");
    space
        .exec(
            "hello",
            ["/files.wasm", "write", "/shared/answer", "by the guest"],
        )
        .ok();
    space
        .kubectl(["cp", "-c", "tools", "hello:/shared/answer", &back])
        .ok();
    assert_eq!(
        fs::read_to_string(back).expect("the copy is there"),
        "by the guest"
    );
}

#[test]
fn an_ephemeral_container_debugs_a_guest() {
    let space = Space::new("debug");
    space.start(&pod("hello", &[wasm("hello", &["/http-hello.wasm"])]));
    let script = "wget -qO- http://127.0.0.1:8080/ && ps";
    let image = format!("--image={BUSYBOX}");
    let arguments = [
        "debug",
        "hello",
        &image,
        "--image-pull-policy=Never",
        "--target=hello",
        "--container=debugger",
        "--profile=general",
        "--",
        "sh",
        "-c",
        script,
    ];
    space.kubectl(arguments).ok();
    let text = until("the debugger's output", LIMIT, || {
        let output = space.kubectl(["logs", "hello", "-c", "debugger"]).output();
        if output.stdout.contains("PID") {
            Ok(output.stdout)
        } else {
            Err(output.stdout + &output.stderr)
        }
    });
    assert!(text.contains("Hello from Wasm"), "{text}");
    // It shares the process namespace of its target.
    assert!(
        text.contains("http-hello.wasm"),
        "the debugger does not see the guest: {text}"
    );
}

#[test]
fn top_shows_what_guests_use() {
    let space = Space::new("top");
    let mut busy = wasm("busy", &["/busy.wasm"]);
    busy["resources"] = json!({ "limits": { "cpu": "200m", "memory": "64Mi" } });
    space.apply(&pod("busy", &[busy]));
    space.apply(&pod("grow", &[wasm("grow", &["/grow.wasm", "40", "1000"])]));
    // CONTAINER NAME CPU MEMORY of a pod, in thousandths of a processor and MiB.
    let top = |name: &str| {
        let output = space.kubectl(["top", "pod", name, "--no-headers"]).output();
        let fields: Vec<&str> = output.stdout.split_whitespace().collect();
        let number = |text: &str, unit: &str| {
            text.strip_suffix(unit)
                .and_then(|text| text.parse::<u32>().ok())
        };
        match fields[..] {
            [_, cpu, memory] => number(cpu, "m").zip(number(memory, "Mi")),
            _ => None,
        }
        .ok_or(output.stdout + &output.stderr)
    };
    let check = |name: &'static str, is: fn(u32, u32) -> bool| {
        until(&format!("figures of {name}"), LIMIT, || {
            let (cpu, memory) = top(name)?;
            if is(cpu, memory) {
                Ok(())
            } else {
                Err(format!("{cpu}m {memory}Mi"))
            }
        });
    };
    check("busy", |cpu, memory| {
        (150..=250).contains(&cpu) && memory < 40
    });
    check("grow", |cpu, memory| cpu < 50 && (40..60).contains(&memory));
}
