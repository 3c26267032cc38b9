//! Lighter as its users have it: on a real containerd and a real Docker Engine, each in a
//! private folder.

mod bad_input;
mod bundles;
mod command_line;
mod composition;
mod debugging;
mod devices;
mod docker;
mod dockerfile;
mod endings;
mod events;
mod exec;
mod http;
mod http_end;
mod http_messages;
mod idle;
mod images;
mod installation;
mod languages;
mod limits;
mod linux;
mod logs;
mod metrics;
mod network;
mod nothing_left;
mod options;
mod overhead;
mod process_model;
mod random;
mod registry;
mod release;
mod stdio;
mod task_api;
mod terminal;
mod traces;
mod user_namespaces;
mod versions;
mod wasm;
mod worlds;

use lighter_testkit::{Containerd, Image, Process, Version};

/// containerd 2 with `image` in it.
fn containerd_with(image: &Image) -> Containerd {
    let containerd = Containerd::start(Version::V2);
    containerd.import(image);
    containerd
}

/// The shims of a daemon. Processes of containers have names of their own.
fn shims(containerd: &Containerd) -> Vec<Process> {
    let mut processes = containerd.scope().processes();
    processes.retain(|process| process.comm == "containerd-shim");
    processes
}

/// The process that runs in a container, from `ctr tasks list`.
fn init(containerd: &Containerd, id: &str) -> i32 {
    let list = containerd.ctr(["tasks", "list"]).ok();
    let line = list
        .lines()
        .find(|line| line.split_whitespace().next() == Some(id));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_else(|| panic!("no task {id} in {list}"))
}
