//! The shim without a containerd: started by hand, asked through its socket. This shows what
//! is between Create and Start, which no client of containerd lets one look at.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::cgroup::Driver;
use crate::guests::guest;
use crate::paths::shim_binary;
use crate::processes::Process;
use containerd_shim_protos::api;
use containerd_shim_protos::ttrpc::context::{Context, with_duration};
use containerd_shim_protos::{Client, TaskClient};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};

pub use caller::Caller;

mod caller;

/// How long any call may take, also on the emulated machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The capabilities that containerd and Docker give to a container.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Paths and URIs of a process's stdio.
#[derive(Default)]
pub struct Stdio {
    /// Path or URI of what it reads.
    pub stdin: String,
    /// Path or URI of its output.
    pub stdout: String,
    /// Path or URI of its errors.
    pub stderr: String,
    /// Whether they are a terminal.
    pub terminal: bool,
}

/// A shim of a pod of its own.
pub struct Shim {
    /// Process id of the shim.
    pub pid: i32,
    /// The containerd namespace.
    pub namespace: String,
    folder: PathBuf,
    client: TaskClient,
    log: File,
    /// How long any call may take.
    limit: Duration,
    /// Whether it ends with this value, with all that it has left.
    is_owned: bool,
}

impl Shim {
    /// Starts one, for containers whose rootfs is that of [`Shim::rootfs`].
    pub fn start() -> Self {
        Self::start_for(Path::new("/nowhere"))
    }

    /// The same for a containerd that takes its events at this socket.
    pub fn start_for(events: &Path) -> Self {
        Self::start_by(Command::new(shim_binary()), events)
    }

    /// The same with a shim of its own: the program at this path, with the compile worker beside it.
    pub fn start_from(program: &Path) -> Self {
        Self::start_by(Command::new(program), Path::new("/nowhere"))
    }

    /// The same, started by a process that ignores no signal. The processes that cargo starts ignore
    /// those of the C library, 32 and 33.
    pub fn start_with_default_signals() -> Self {
        let mut command = Command::new(guest("with-default-signals"));
        command.arg(shim_binary());
        Self::start_by(command, Path::new("/nowhere"))
    }

    /// The same on a node whose system bus is gone.
    pub fn start_without_bus() -> Self {
        let mut command = Command::new("unshare");
        let hide = "mount -t tmpfs tmpfs /run/dbus && exec \"$0\" \"$@\"";
        command
            .args(["--mount", "sh", "-c", hide])
            .arg(shim_binary());
        Self::start_by(command, Path::new("/nowhere"))
    }

    /// The same below a containerd that the kernel shall kill late for want of memory.
    pub fn start_with_oom_score(score: i32) -> Self {
        let mut command = Command::new("sh");
        let protect = format!("echo {score} > /proc/self/oom_score_adj && exec \"$0\" \"$@\"");
        command.args(["-c", &protect]).arg(shim_binary());
        Self::start_by(command, Path::new("/nowhere"))
    }

    fn start_by(mut command: Command, events: &Path) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("lighter-shim-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&namespace);
        fs::create_dir_all(folder.join("rootfs/bin")).unwrap();
        for folder_of_root in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(folder.join("rootfs").join(folder_of_root)).unwrap();
        }
        fs::copy("/bin/busybox", folder.join("rootfs/bin/sh")).unwrap();
        for name in ["hello", "sleep", "cat", "exit", "env-args"] {
            fs::copy(guest(name), folder.join(format!("rootfs/{name}.wasm"))).unwrap();
        }
        // What `start` reads before it forks the shim.
        let spec = json!({ "process": { "env": ["PASSWORD=secret-of-the-sandbox"] } });
        fs::write(folder.join("config.json"), spec.to_string()).unwrap();
        let log = folder.join("log");
        mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let log = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(log)
            .unwrap();
        let output = command
            .args([
                "-namespace",
                &namespace,
                "-id",
                "pod",
                "-address",
                "/nowhere",
                "start",
            ])
            .env("TTRPC_ADDRESS", events)
            .env("PROXY_PASSWORD", "secret-of-containerd")
            .stdin(std::process::Stdio::null())
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let address = String::from_utf8(output.stdout).unwrap();
        let client = TaskClient::new(Client::connect(&address).unwrap());
        let mut request = api::ConnectRequest::new();
        request.id = "pod".to_owned();
        let pid = client
            .connect(with_duration(LIMIT), &request)
            .unwrap()
            .shim_pid;
        Self {
            pid: pid.cast_signed(),
            namespace,
            folder,
            client,
            log,
            limit: LIMIT,
            is_owned: true,
        }
    }

    fn context(&self) -> Context {
        with_duration(self.limit)
    }

    /// What it has logged since this was asked last.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        // Ends with EAGAIN: the shim holds the FIFO open.
        let _ = (&self.log).read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    /// The directory that the containers of [`Shim::spec`] have as their root.
    pub fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// The spec of a container that runs `args`; tests change it before they use it.
    pub fn spec(&self, id: &str, args: &[&str]) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": args, "cwd": "/", "user": { "uid": 0, "gid": 0 },
                "env": ["PATH=/bin"],
            },
            "root": { "path": self.rootfs().to_str().unwrap() },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": {
                "cgroupsPath": Driver::of_tests().path(&self.namespace, id),
                "namespaces": [
                    { "type": "pid" }, { "type": "mount" }, { "type": "ipc" },
                    { "type": "uts" }, { "type": "network" },
                ],
            },
        })
    }

    /// Create; the error is the shim's.
    pub fn create(&self, id: &str, spec: &Value) -> Result<i32, String> {
        self.create_from(id, &spec.to_string())
    }

    /// Create of a bundle whose `config.json` is this text.
    pub fn create_from(&self, id: &str, config: &str) -> Result<i32, String> {
        let request = self.request(id, config);
        self.send(&request)
    }

    /// Create with a terminal.
    pub fn create_with_terminal(&self, id: &str, spec: &Value) -> Result<i32, String> {
        let mut request = self.request(id, &spec.to_string());
        request.terminal = true;
        self.send(&request)
    }

    /// Create of any id with a bundle that need not be named after it.
    pub fn create_in(&self, bundle: &Path, id: &str, config: &str) -> Result<i32, String> {
        self.send(&request(bundle, id, config))
    }

    fn request(&self, id: &str, config: &str) -> api::CreateTaskRequest {
        request(&self.bundle(id), id, config)
    }

    fn send(&self, request: &api::CreateTaskRequest) -> Result<i32, String> {
        self.client
            .create(self.context(), request)
            .map(|response| response.pid.cast_signed())
            .map_err(|error| error.to_string())
    }

    /// The bundle of a container.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Start of a task.
    pub fn start_task(&self, id: &str) -> Result<(), String> {
        let mut request = api::StartRequest::new();
        request.id = id.to_owned();
        let started = self.client.start(self.context(), &request);
        started.map(drop).map_err(|error| error.to_string())
    }

    /// Exec of `process` (as of the OCI runtime specification) with the FIFOs or files that
    /// `stdio` names.
    pub fn exec(&self, id: &str, exec: &str, process: &Value, stdio: Stdio) -> Result<(), String> {
        let mut request = api::ExecProcessRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        request.stdin = stdio.stdin;
        request.stdout = stdio.stdout;
        request.stderr = stdio.stderr;
        request.terminal = stdio.terminal;
        request.spec.mut_or_insert_default().value = process.to_string().into_bytes();
        let added = self.client.exec(self.context(), &request);
        added.map(drop).map_err(|error| error.to_string())
    }

    /// The description of a process that runs `args`.
    pub fn process(&self, args: &[&str]) -> Value {
        self.spec("x", args)["process"].clone()
    }

    /// Start of an exec.
    pub fn start_exec(&self, id: &str, exec: &str) -> Result<i32, String> {
        let mut request = api::StartRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        let started = self.client.start(self.context(), &request);
        started
            .map(|response| response.pid.cast_signed())
            .map_err(|error| error.to_string())
    }

    /// Runs an exec to its end and deletes it. Answers its status.
    pub fn run_exec(&self, id: &str, exec: &str, process: &Value) -> Result<u32, String> {
        self.exec(id, exec, process, Stdio::default())?;
        let started = self.start_exec(id, exec);
        if started.is_ok() {
            self.wait_for(id, exec)?;
        }
        let status = self.delete_exec(id, exec)?;
        started.map(|_| status)
    }

    /// Waits for the end of an exec and answers its status.
    pub fn wait_for(&self, id: &str, exec: &str) -> Result<u32, String> {
        let mut request = api::WaitRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        let ended = self.client.wait(self.context(), &request);
        ended
            .map(|response| response.exit_status)
            .map_err(|error| error.to_string())
    }

    /// Deletes an exec and returns its status.
    pub fn delete_exec(&self, id: &str, exec: &str) -> Result<u32, String> {
        let mut request = api::DeleteRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        let deleted = self.client.delete(self.context(), &request);
        deleted
            .map(|response| response.exit_status)
            .map_err(|error| error.to_string())
    }

    /// State of an exec, or of a task where `exec` is empty.
    pub fn state(&self, id: &str, exec: &str) -> Result<api::StateResponse, String> {
        let mut request = api::StateRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        let state = self.client.state(self.context(), &request);
        state.map_err(|error| error.to_string())
    }

    /// Resizes a terminal.
    pub fn resize(&self, id: &str, exec: &str, height: u32, width: u32) -> Result<(), String> {
        let mut request = api::ResizePtyRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        (request.height, request.width) = (height, width);
        let resized = self.client.resize_pty(self.context(), &request);
        resized.map(drop).map_err(|error| error.to_string())
    }

    /// Closes stdin.
    pub fn close_stdin(&self, id: &str, exec: &str) {
        let mut request = api::CloseIORequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        request.stdin = true;
        self.client.close_io(self.context(), &request).unwrap();
    }

    /// Pauses a task.
    pub fn pause(&self, id: &str) -> Result<(), String> {
        let mut request = api::PauseRequest::new();
        request.id = id.to_owned();
        let paused = self.client.pause(self.context(), &request);
        paused.map(drop).map_err(|error| error.to_string())
    }

    /// Resumes a task.
    pub fn resume(&self, id: &str) -> Result<(), String> {
        let mut request = api::ResumeRequest::new();
        request.id = id.to_owned();
        let resumed = self.client.resume(self.context(), &request);
        resumed.map(drop).map_err(|error| error.to_string())
    }

    /// Update to `resources` (`linux.resources` of the OCI runtime specification).
    pub fn update(&self, id: &str, resources: &Value) -> Result<(), String> {
        let mut request = api::UpdateTaskRequest::new();
        request.id = id.to_owned();
        request.resources.mut_or_insert_default().value = resources.to_string().into_bytes();
        let updated = self.client.update(self.context(), &request);
        updated.map(drop).map_err(|error| error.to_string())
    }

    /// Asks for a checkpoint.
    pub fn checkpoint(&self, id: &str) -> Result<(), String> {
        let mut request = api::CheckpointTaskRequest::new();
        request.id = id.to_owned();
        let done = self.client.checkpoint(self.context(), &request);
        done.map(drop).map_err(|error| error.to_string())
    }

    /// Asks for a task's counters.
    pub fn statistics(&self, id: &str) -> Result<(), String> {
        let mut request = api::StatsRequest::new();
        request.id = id.to_owned();
        let counted = self.client.stats(self.context(), &request);
        counted.map(drop).map_err(|error| error.to_string())
    }

    /// The processes of a task.
    pub fn pids(&self, id: &str) -> Vec<i32> {
        let mut request = api::PidsRequest::new();
        request.id = id.to_owned();
        let pids = self
            .client
            .pids(self.context(), &request)
            .unwrap()
            .processes;
        pids.iter().map(|info| info.pid.cast_signed()).collect()
    }

    /// A FIFO in the bundle of `id`.
    pub fn fifo(&self, id: &str, name: &str) -> PathBuf {
        fs::create_dir_all(self.bundle(id)).unwrap();
        let path = self.bundle(id).join(name);
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        path
    }

    /// Signals an exec, or a task where `exec` is empty, by number, whether there is such a signal or
    /// not.
    pub fn kill_number(&self, id: &str, exec: &str, signal: u32) -> Result<(), String> {
        let mut request = api::KillRequest::new();
        request.id = id.to_owned();
        request.exec_id = exec.to_owned();
        request.signal = signal;
        let killed = self.client.kill(self.context(), &request);
        killed.map(drop).map_err(|error| error.to_string())
    }

    /// Signals a task.
    pub fn kill(&self, id: &str, signal: Signal) -> Result<(), String> {
        let mut request = api::KillRequest::new();
        request.id = id.to_owned();
        request.signal = signal as u32;
        let killed = self.client.kill(self.context(), &request);
        killed.map(drop).map_err(|error| error.to_string())
    }

    /// Signals all processes of a task.
    pub fn kill_all(&self, id: &str, signal: Signal) -> Result<(), String> {
        let mut request = api::KillRequest::new();
        request.id = id.to_owned();
        request.signal = signal as u32;
        request.all = true;
        let killed = self.client.kill(self.context(), &request);
        killed.map(drop).map_err(|error| error.to_string())
    }

    /// Waits for the end and answers the status.
    pub fn wait(&self, id: &str) -> u32 {
        let mut request = api::WaitRequest::new();
        request.id = id.to_owned();
        self.client
            .wait(self.context(), &request)
            .unwrap()
            .exit_status
    }

    /// Deletes a task and returns its status.
    pub fn delete(&self, id: &str) -> Result<u32, String> {
        let mut request = api::DeleteRequest::new();
        request.id = id.to_owned();
        let deleted = self.client.delete(self.context(), &request);
        deleted
            .map(|response| response.exit_status)
            .map_err(|error| error.to_string())
    }

    /// Kills, waits for and deletes a task.
    pub fn remove(&self, id: &str) {
        let _ = self.kill(id, Signal::SIGKILL);
        self.wait(id);
        self.delete(id).unwrap();
    }

    /// Ends the shim, as containerd does once there are no tasks.
    pub fn shutdown(&self) {
        self.try_shutdown().unwrap();
    }

    /// Asks the shim to end.
    pub fn try_shutdown(&self) -> Result<(), String> {
        let request = api::ShutdownRequest::new();
        let asked = self.client.shutdown(self.context(), &request);
        asked.map(drop).map_err(|error| error.to_string())
    }

    /// Processes whose parent is the shim.
    pub fn children(&self) -> Vec<Process> {
        let mut processes = Process::all();
        processes.retain(|process| process.parent == self.pid);
        processes
    }

    /// Whether the shim runs.
    pub fn is_running(&self) -> bool {
        Process::read(self.pid).is_some_and(|process| process.state != 'Z')
    }

    /// The folders that a container's cgroup has or would have, on cgroup v1 and v2.
    pub fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        let folder = Driver::of_tests().folder(&self.namespace, id);
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).unwrap().flatten();
        hierarchies
            .map(|entry| entry.path().join(&folder))
            .chain([root.join(&folder)])
            .collect()
    }

    /// What is left of containers: cgroups and state.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let cgroups = self.cgroups("any").into_iter();
        let mut roots: Vec<PathBuf> = cgroups
            .filter_map(|folder| Some(folder.parent()?.to_owned()))
            .collect();
        roots.push(Path::new("/run/lighter").join(&self.namespace));
        let folders = roots
            .iter()
            .filter_map(|root| fs::read_dir(root).ok())
            .flatten()
            .flatten();
        folders
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if !self.is_owned {
            return;
        }
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let address = fs::read_to_string(self.folder.join("address")).unwrap_or_default();
        let _ = fs::remove_file(address.trim_start_matches("unix://"));
        for child in self.children() {
            let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().join("config.json").exists() {
                let _ = Command::new(shim_binary())
                    .args([
                        "-namespace",
                        &self.namespace,
                        "-id",
                        entry.file_name().to_str().unwrap(),
                        "delete",
                    ])
                    .current_dir(entry.path())
                    .output();
            }
        }
        Driver::of_tests().remove_top(&self.namespace);
        let _ = fs::remove_dir(Path::new("/run/lighter").join(&self.namespace));
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn request(bundle: &Path, id: &str, config: &str) -> api::CreateTaskRequest {
    fs::create_dir_all(bundle).unwrap();
    fs::write(bundle.join("config.json"), config).unwrap();
    let mut request = api::CreateTaskRequest::new();
    request.id = id.to_owned();
    request.bundle = bundle.to_str().unwrap().to_owned();
    for (name, field) in [
        ("stdin", &mut request.stdin),
        ("stdout", &mut request.stdout),
        ("stderr", &mut request.stderr),
    ] {
        let path = bundle.join(name);
        if path.exists() {
            *field = path.to_str().unwrap().to_owned();
        }
    }
    request
}

/// Waits until `condition` holds, also on the emulated machine beside other work.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
