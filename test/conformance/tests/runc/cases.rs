//! The features, by subject. What a script prints has to be the same on each run.

use serde_json::{Value, json};

use crate::bundle::Case;

/// Prints options, type and parameters of the mount at `/m`.
const SHOW: &str = r"sed -n 's|^[^ ]* [^ ]* [^ ]* [^ ]* /m \([^ ]*\) .*- \([^ ]*\) [^ ]* \(.*\)$|\1 \2 \3|p' /proc/self/mountinfo";

/// Prints the propagation of the mount at `/m`, without the numbers of the peer groups.
const SHOW_PROPAGATION: &str =
    r"sed -n 's|^.* /m [^ ]* \(.*\)- .*|[\1]|p' /proc/self/mountinfo | tr -d 0-9";

pub(crate) fn processes() -> Vec<Case> {
    let user = |uid: u32| json!({ "uid": uid, "gid": uid });
    vec![
        Case::new("exit code", "exit 7"),
        Case::new("killed by a signal", "kill -9 $$"),
        Case::new("ended by a signal", "kill -15 $$"),
        Case::new("environment", "env | grep -v ^_ | grep -v SHLVL"),
        Case::new("environment with one name twice", "env | grep -c ^A=; echo $A")
            .set("/process/env", json!(["PATH=/bin", "A=1", "A=2"])),
        Case::new("no HOME, no passwd", "echo $HOME").set("/process/env", json!(["PATH=/bin"])),
        Case::new("no HOME, user of passwd", "echo $HOME")
            .set("/process/env", json!(["PATH=/bin"]))
            .set("/process/user", user(1000))
            .file("etc/passwd", "a:x:1000:1000::/home/a:/bin/sh\n", 0o644),
        Case::new("no HOME, user not of passwd", "echo $HOME")
            .set("/process/env", json!(["PATH=/bin"]))
            .set("/process/user", user(1001))
            .file("etc/passwd", "a:x:1000:1000::/home/a:/bin/sh\n", 0o644),
        Case::new("empty HOME", "echo $HOME")
            .set("/process/env", json!(["PATH=/bin", "HOME="]))
            .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644),
        Case::new("user and group", "id -u; id -g; id -G")
            .set("/process/user", json!({ "uid": 1000, "gid": 2000 })),
        Case::new("additional groups", "id -G").set(
            "/process/user",
            json!({ "uid": 1000, "gid": 2000, "additionalGids": [5, 6] }),
        ),
        Case::new("umask", "umask")
            .set("/process/user", json!({ "uid": 0, "gid": 0, "umask": 63 })),
        Case::new("working directory", "pwd").set("/process/cwd", json!("/etc")),
        Case::new("missing working directory", "pwd; stat -c '%u:%g %a' .")
            .set("/process/cwd", json!("/a/b")),
        Case::new("missing working directory of a user", "pwd; stat -c '%u:%g %a' .")
            .set("/process/cwd", json!("/a/b"))
            .set("/process/user", user(1000)),
        Case::new("missing working directory in a tmpfs", "pwd; stat -c '%u:%g %a' .")
            .mount("tmpfs", "/work", &[])
            .set("/process/cwd", json!("/work/sub"))
            .set("/process/user", user(1000)),
        Case::new("missing working directory in /dev/shm", "pwd; stat -c '%u:%g %a' .")
            .set("/process/cwd", json!("/dev/shm/sub")),
        Case::new("working directory is a file", "pwd")
            .set("/process/cwd", json!("/file"))
            .file("file", "", 0o644),
        Case::new("working directory is a link", "pwd -P")
            .set("/process/cwd", json!("/link"))
            .link("link", "/etc"),
        Case::new("relative working directory", "pwd").set("/process/cwd", json!("etc")),
        Case::new("working directory with ..", "pwd")
            .set("/process/cwd", json!("/etc/../../../tmp")),
        Case::new("limit of files", "ulimit -n; ulimit -Hn").set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 }]),
        ),
        Case::new("limit of core files", "ulimit -c; ulimit -Hc").set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }]),
        ),
        Case::new("unknown limit", "true").set(
            "/process/rlimits",
            json!([{ "type": "RLIMIT_OF_TOMORROW", "soft": 0, "hard": 0 }]),
        ),
        Case::new("OOM score", "cat /proc/self/oom_score_adj")
            .set("/process/oomScoreAdj", json!(500)),
        Case::new("no new privileges", "grep NoNewPrivs /proc/self/status")
            .set("/process/noNewPrivileges", json!(true)),
        Case::new("capabilities", "grep ^Cap /proc/self/status"),
        Case::new("few capabilities", "grep ^Cap /proc/self/status").set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"] }),
        ),
        Case::new("no capabilities", "grep ^Cap /proc/self/status")
            .set("/process/capabilities", json!({})),
        Case::new("capabilities of a user", "grep ^Cap /proc/self/status")
            .set("/process/user", user(1000)),
        Case::new("ambient capabilities", "grep ^Cap /proc/self/status")
            .set("/process/user", user(1000))
            .set("/process/capabilities", {
                let kill = json!(["CAP_KILL"]);
                json!({ "bounding": kill, "permitted": kill, "effective": kill, "inheritable": kill, "ambient": kill })
            }),
        Case::new("unknown capability", "grep CapBnd /proc/self/status").set(
            "/process/capabilities",
            json!({ "bounding": ["CAP_KILL", "CAP_OF_TOMORROW"] }),
        ),
        Case::new("program is missing", "").args(json!(["/bin/missing"])),
        Case::new("program is not executable", "")
            .args(json!(["/file"]))
            .file("file", "x", 0o644),
        Case::new("program is a directory", "").args(json!(["/etc"])),
        Case::new("program of PATH", "").args(json!(["true"])),
        Case::new("program below the working directory", "")
            .args(json!(["./a"]))
            .set("/process/cwd", json!("/opt"))
            .link("opt/a", "/bin/true"),
        Case::new("no arguments", "").args(json!([])),
        Case::new("script", "").args(json!(["/script", "a", "b"])).file(
            "script",
            "#!/bin/sh\necho $0 $*\n",
            0o755,
        ),
        Case::new("personality", "uname -m")
            .set("/linux/personality", json!({ "domain": "LINUX32" })),
        Case::new("niceness of input and output", "ionice").set(
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 }),
        ),
        Case::new("session keyring", "grep -c 'keyring *_ses[.]' /proc/keys > /dev/null && echo has"),
    ]
}

pub(crate) fn file_systems() -> Vec<Case> {
    let root_propagation =
        r"sed -n 's|^.* / / [^ ]* \(.*\)- .*|[\1]|p' /proc/self/mountinfo | tr -d 0-9";
    let propagated = |name: &'static str, how: &str| {
        Case::new(name, root_propagation).set("/linux/rootfsPropagation", json!(how))
    };
    vec![
        Case::new("read-only root", "touch /a; echo $?").set("/root/readonly", json!(true)),
        Case::new("tmpfs on a read-only root", "touch /m/a && echo written")
            .mount("tmpfs", "/m", &[])
            .directory("m")
            .set("/root/readonly", json!(true)),
        propagated("private root", "private"),
        propagated("recursively private root", "rprivate"),
        propagated("recursively shared root", "rshared"),
        propagated("unknown propagation", "sideways"),
        Case::new("masked file", "wc -c < /secret; echo $?")
            .file("secret", "secret", 0o644)
            .set("/linux/maskedPaths", json!(["/secret"])),
        Case::new("masked directory", "ls -A /secret; touch /secret/a; echo $?")
            .file("secret/file", "secret", 0o644)
            .set("/linux/maskedPaths", json!(["/secret"])),
        Case::new("masked path is missing", "echo fine")
            .set("/linux/maskedPaths", json!(["/missing"])),
        Case::new("masked file of procfs", "cat /proc/version | wc -c")
            .set("/linux/maskedPaths", json!(["/proc/version"])),
        Case::new("read-only path", "touch /opt/a; echo $?")
            .directory("opt")
            .set("/linux/readonlyPaths", json!(["/opt"])),
        Case::new("program below a read-only path", "/opt/sh -c 'echo runs'")
            .file("opt/sh", "#!/bin/sh\necho runs\n", 0o755)
            .set("/linux/readonlyPaths", json!(["/opt"])),
        Case::new("read-only path is missing", "echo fine")
            .set("/linux/readonlyPaths", json!(["/missing"])),
        Case::new("read-only path of procfs", "echo 1 > /proc/sys/kernel/msgmax; echo $?")
            .set("/linux/readonlyPaths", json!(["/proc/sys"])),
        Case::new("device nodes", "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty"),
        Case::new("links of /dev", "cd /dev; for i in fd stdin stdout stderr ptmx; do echo $i $(readlink $i); done"),
        Case::new("device of the spec", "stat -c '%n %F %t:%T %a %u:%g' /dev/mine").set(
            "/linux/devices",
            json!([{ "path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 432, "uid": 5, "gid": 6 }]),
        ),
        Case::new("device in a directory", "stat -c '%n %F %t:%T' /dev/a/b").set(
            "/linux/devices",
            json!([{ "path": "/dev/a/b", "type": "c", "major": 1, "minor": 3 }]),
        ),
        Case::new("FIFO of the spec", "stat -c '%n %F %a' /dev/fifo").set(
            "/linux/devices",
            json!([{ "path": "/dev/fifo", "type": "p", "fileMode": 384 }]),
        ),
        Case::new("no mount at /dev", "echo x > /dev/null && readlink /dev/fd").set(
            "/mounts",
            json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]),
        ),
        Case::new("nothing of the host", "ls -A / | sort"),
    ]
}

pub(crate) fn mounts() -> Vec<Case> {
    let tmpfs =
        |name: &'static str, options: &[&str]| Case::new(name, SHOW).mount("tmpfs", "/m", options);
    let bind = |name: &'static str, options: &[&str]| {
        let show = format!("{SHOW}; cat /m/file");
        Case::new(name, &show).bind("volume", "/m", options)
    };
    let propagation = |name: &'static str, options: &[&str], root: Option<&str>| {
        let case = Case::new(name, SHOW_PROPAGATION).bind("volume", "/m", options);
        match root {
            Some(root) => case.set("/linux/rootfsPropagation", json!(root)),
            None => case,
        }
    };
    vec![
        tmpfs("tmpfs", &[]),
        tmpfs("tmpfs: ro", &["ro"]),
        tmpfs(
            "tmpfs: nosuid, nodev, noexec",
            &["nosuid", "nodev", "noexec"],
        ),
        tmpfs(
            "tmpfs: the last option counts",
            &["nosuid", "suid", "ro", "rw"],
        ),
        tmpfs("tmpfs: noatime", &["noatime"]),
        tmpfs("tmpfs: nodiratime", &["nodiratime"]),
        tmpfs("tmpfs: strictatime", &["strictatime"]),
        tmpfs("tmpfs: sync", &["sync"]),
        tmpfs("tmpfs: dirsync", &["dirsync"]),
        tmpfs(
            "tmpfs: parameters",
            &["mode=711", "uid=5", "gid=6", "size=1m", "nr_inodes=9"],
        ),
        tmpfs("tmpfs: unknown option", &["of-tomorrow=1"]),
        Case::new("tmpfs: mode", "stat -c '%a %u:%g' /m").mount(
            "tmpfs",
            "/m",
            &["mode=1750", "uid=5"],
        ),
        Case::new(
            "tmpfs: tmpcopyup",
            "cat /m/a; echo b > /m/b; ls /m; stat -c '%a' /m/a",
        )
        .mount("tmpfs", "/m", &["tmpcopyup"])
        .file("m/a", "of the image\n", 0o640),
        bind("bind", &["bind"]),
        bind("bind: ro", &["bind", "ro"]),
        bind(
            "bind: nosuid, nodev, noexec",
            &["rbind", "nosuid", "nodev", "noexec"],
        ),
        bind("bind: rro", &["rbind", "rro"]),
        bind("bind: noatime", &["bind", "noatime"]),
        Case::new(
            "bind: written by the container",
            "echo new > /m/file; cat /m/file",
        )
        .bind("volume", "/m", &["bind"]),
        Case::new("bind of a file", "cat /etc/single").bind(
            "single",
            "/etc/single",
            &["bind", "ro"],
        ),
        Case::new("bind of a file over a file", "cat /etc/single")
            .bind("single", "/etc/single", &["bind"])
            .file("etc/single", "of the image", 0o600),
        Case::new("bind of a directory over a file", "cat /m")
            .bind("volume", "/m", &["bind"])
            .file("m", "", 0o600),
        Case::new("bind of what is missing", "ls /m").bind("missing", "/m", &["bind"]),
        Case::new(
            "bind over a dangling link",
            "cat /etc/resolv.conf; readlink /etc/resolv.conf",
        )
        .bind("single", "/etc/resolv.conf", &["bind"])
        .link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
        Case::new("bind below a dangling link", "cat /a/b/file")
            .bind("volume", "/a/b", &["bind"])
            .link("a", "/nowhere"),
        Case::new("bind behind a link that climbs", "cat /climbed/file")
            .bind("volume", "/a", &["bind"])
            .link("a", "../../../../../../climbed"),
        Case::new("bind behind a loop of links", "true")
            .bind("volume", "/a/b", &["bind"])
            .link("a", "a"),
        Case::new("destination with ..", "cat /m/file").bind("volume", "/etc/../../m", &["bind"]),
        Case::new(
            "bind: nosymfollow",
            "cat /m/link; echo $?; ls -l /m/link | wc -l",
        )
        .bind("volume", "/m", &["bind", "nosymfollow"])
        .link("../volume/link", "file"),
        Case::new("two mounts at one place", "ls /m; cat /m/file")
            .mount("tmpfs", "/m", &[])
            .bind("volume", "/m", &["bind"]),
        Case::new("mount in a mount", "ls -A /m; cat /m/sub/file")
            .mount("tmpfs", "/m", &[])
            .bind("volume", "/m/sub", &["bind"]),
        propagation("propagation: none", &["rbind"], None),
        propagation("propagation: rprivate", &["rbind", "rprivate"], None),
        propagation("propagation: rslave", &["rbind", "rslave"], None),
        propagation("propagation: unbindable", &["bind", "unbindable"], None),
        propagation(
            "propagation: rshared",
            &["rbind", "rshared"],
            Some("rshared"),
        ),
        propagation(
            "propagation: rslave of the tree",
            &["rbind"],
            Some("rslave"),
        ),
        Case::new("mqueue", SHOW).mount("mqueue", "/m", &["nosuid", "noexec", "nodev"]),
        Case::new("sysfs", "ls -d /sys/class; touch /sys/a; echo $?").mount(
            "sysfs",
            "/sys",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        Case::new(
            "cgroup mount",
            "cd /sys/fs/cgroup; ls -d memory pids cpu; mkdir pids/a; echo $?",
        )
        .mount("sysfs", "/sys", &["ro"])
        .mount(
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
        Case::new("mount over /proc", "true").bind("volume", "/proc", &["bind"]),
        Case::new("mount below /proc", "true").bind("volume", "/proc/sys", &["bind"]),
        Case::new("file of lxcfs", "cat /proc/uptime").bind("single", "/proc/uptime", &["bind"]),
        Case::new("unknown file system", "true").mount("of-tomorrow", "/m", &[]),
    ]
}

pub(crate) fn namespaces_and_limits() -> Vec<Case> {
    let namespaces = |extra: Value| {
        let mut all = json!([
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
            { "type": "uts" }, { "type": "network" },
        ]);
        all.as_array_mut().unwrap().push(extra);
        all
    };
    let seccomp = |name: &'static str, script: &str, syscalls: Value| {
        Case::new(name, script).set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": syscalls }),
        )
    };
    let limit = |name: &'static str, file: &str, resources: Value| {
        let show = format!("cat /sys/fs/cgroup/{file}");
        Case::new(name, &show)
            .mount("sysfs", "/sys", &["ro"])
            .mount("cgroup", "/sys/fs/cgroup", &["ro"])
            .set("/linux/resources", resources)
    };
    vec![
        Case::new("PID namespace", "echo $$"),
        Case::new("UTS namespace", "hostname"),
        Case::new("domain name", "cat /proc/sys/kernel/domainname")
            .set("/domainname", json!("example")),
        Case::new("network namespace", "ifconfig -a | grep -c Link; ifconfig lo | grep UP"),
        Case::new("loopback", "nc -l -p 8080 -e echo heard & sleep 0.2; nc 127.0.0.1 8080 < /dev/null"),
        Case::new("namespace by path", "readlink /proc/self/ns/net").set(
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
                { "type": "network", "path": "/proc/1/ns/net" }]),
        ),
        Case::new("namespace by a path that is missing", "true").set(
            "/linux/namespaces",
            json!([{ "type": "pid" }, { "type": "mount" }, { "type": "network", "path": "/missing" }]),
        ),
        Case::new("namespace given twice", "true")
            .set("/linux/namespaces", namespaces(json!({ "type": "ipc" }))),
        Case::new("cgroup namespace", "cut -d : -f 2,3 /proc/self/cgroup | grep memory")
            .set("/linux/namespaces", namespaces(json!({ "type": "cgroup" }))),
        Case::new("user namespace", "cat /proc/self/uid_map; id -u; touch /tmp/a && stat -c %u /tmp/a")
            .set("/linux/namespaces", namespaces(json!({ "type": "user" })))
            .set("/linux/uidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]))
            .set("/linux/gidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 65536 }])),
        Case::new("user namespace of several ranges", "cat /proc/self/uid_map; id -u")
            .set("/linux/namespaces", namespaces(json!({ "type": "user" })))
            .set("/linux/uidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 1000 }, { "containerID": 1000, "hostID": 200_000, "size": 1000 }]))
            .set("/linux/gidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 1000 }, { "containerID": 1000, "hostID": 200_000, "size": 1000 }])),
        Case::new("sysctl of the network", "cat /proc/sys/net/ipv4/ip_forward")
            .set("/linux/sysctl", json!({ "net.ipv4.ip_forward": "1" })),
        Case::new("sysctl of messages", "cat /proc/sys/kernel/msgmax")
            .set("/linux/sysctl", json!({ "kernel.msgmax": "4096" })),
        Case::new("sysctl of the host", "true").set("/linux/sysctl", json!({ "vm.swappiness": "10" })),
        Case::new("SELinux label without SELinux", "true")
            .set("/process/selinuxLabel", json!("system_u:system_r:container_t:s0")),
        limit("memory limit", "memory/memory.limit_in_bytes", json!({ "memory": { "limit": 67_108_864 } })),
        limit("memory reservation", "memory/memory.soft_limit_in_bytes", json!({ "memory": { "limit": 67_108_864, "reservation": 33_554_432 } })),
        limit("limit of processes", "pids/pids.max", json!({ "pids": { "limit": 20 } })),
        limit("CPU shares", "cpu/cpu.shares", json!({ "cpu": { "shares": 512 } })),
        limit("CPU quota", "cpu/cpu.cfs_quota_us", json!({ "cpu": { "quota": 50_000, "period": 100_000 } })),
        limit("CPU set", "cpuset/cpuset.cpus", json!({ "cpu": { "cpus": "0" } })),
        Case::new("limit of processes is reached", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo all")
            .set("/linux/resources", json!({ "pids": { "limit": 4 } })),
        Case::new("device rule", "mknod /tmp/mem c 1 1; cat /tmp/mem > /dev/null; echo $?")
            .set("/linux/resources", json!({ "devices": [{ "allow": false, "access": "rwm" }] })),
        Case::new("negative limit is none", "echo fine")
            .set("/linux/resources", json!({ "memory": { "limit": -1 }, "pids": { "limit": -1 } })),
        seccomp("seccomp: errno", "mkdir /tmp/a; echo $?",
            json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }])),
        seccomp("seccomp: errno of choice", "mkdir /tmp/a; echo $?",
            json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }])),
        seccomp("seccomp: kill", "mkdir /tmp/a; echo $?",
            json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS" }])),
        seccomp("seccomp: unknown call", "echo fine",
            json!([{ "names": ["of_tomorrow"], "action": "SCMP_ACT_ERRNO" }])),
        seccomp("seccomp: arguments", "kill -0 $$; echo $?; kill -10 $$; echo $?",
            json!([{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 1, "value": 10, "op": "SCMP_CMP_EQ" }] }])),
        Case::new("intelRdt", "echo fine").set("/linux/intelRdt", json!({ "l3CacheSchema": "L3:0=f" })),
        Case::new("annotations", "echo fine").set("/annotations", json!({ "a": "b" })),
    ]
}

/// A hook that writes a word.
fn says(word: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("echo {word} >> $DIR/trace")] })
}

/// A hook that writes the state it is given.
fn shows_state() -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", "cat >> $DIR/trace; echo >> $DIR/trace"], "env": ["PATH=/bin:/usr/bin"] })
}

fn fails() -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", "exit 3"] })
}

/// libcontainer takes the directory of the spec that it reads for the bundle, and gives a createContainer
/// hook no process id. Worth a patch upstream: an `as_init` that is told the bundle.
const OTHER_STATE: &str =
    "the bundle in a hook's state is the directory of the spec that libcontainer reads";

pub(crate) fn hooks() -> Vec<Case> {
    let with = |name: &'static str, hooks: Value| Case::new(name, "echo runs").set("/hooks", hooks);
    vec![
        with(
            "hooks in their order",
            json!({
                "prestart": [says("prestart")], "createRuntime": [says("createRuntime")],
                "createContainer": [says("createContainer")],
                "poststart": [says("poststart")], "poststop": [says("poststop")],
            }),
        ),
        with(
            "several hooks",
            json!({ "createRuntime": [says("one"), says("two")] }),
        ),
        with(
            "environment of a hook",
            json!({ "createRuntime": [
            { "path": "/bin/sh", "args": ["sh", "-c", "echo $A >> $DIR/trace"], "env": ["A=b"] },
        ] }),
        ),
        with(
            "state of createRuntime",
            json!({ "createRuntime": [shows_state()] }),
        )
        .differs(OTHER_STATE)
        .set("/annotations", json!({ "a": "b" })),
        with(
            "state of createContainer",
            json!({ "createContainer": [shows_state()] }),
        )
        .differs(OTHER_STATE),
        with(
            "state of poststart",
            json!({ "poststart": [shows_state()] }),
        )
        .differs(OTHER_STATE),
        with("state of poststop", json!({ "poststop": [shows_state()] })).differs(OTHER_STATE),
        with(
            "prestart fails",
            json!({ "prestart": [fails()], "poststop": [says("poststop")] }),
        ),
        with(
            "createRuntime fails",
            json!({ "createRuntime": [fails()], "poststop": [says("poststop")] }),
        ),
        with(
            "createContainer fails",
            json!({ "createContainer": [fails()], "poststop": [says("poststop")] }),
        ),
        with(
            "poststop fails",
            json!({ "poststop": [fails(), says("second")] }),
        ),
        with(
            "hook in the container",
            json!({ "startContainer": [
            { "path": "/bin/sh", "args": ["sh", "-c", "echo startContainer > /tmp/hook"] },
        ] }),
        ),
        with(
            "hook is missing",
            json!({ "createRuntime": [{ "path": "/missing" }] }),
        ),
        with(
            "hook takes too long",
            json!({ "createRuntime": [
            { "path": "/bin/sh", "args": ["sh", "-c", "sleep 5"], "timeout": 1 },
        ] }),
        ),
    ]
}
