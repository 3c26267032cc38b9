//! Who is told that a container was killed for memory: always who was, and nobody else. systemd removes
//! a scope as soon as its last process has ended, before or after the shim has looked into it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use containerd_shim_protos::ttrpc::Server;
use lighter_testkit::{Driver, Process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::memory::filling;
use crate::events::{Taken, listen};
use lighter_testkit::shim::{Shim, eventually};

/// A shim whose events are noted.
struct Told {
    shim: Shim,
    taken: Taken,
    server: Server,
    _folder: tempfile::TempDir,
}

impl Told {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("events.sock");
        let taken = Taken::default();
        Self {
            server: listen(&socket, 0, &Arc::clone(&taken)),
            shim: Shim::start_for(&socket),
            taken,
            _folder: folder,
        }
    }

    /// Starts a container. Answers its init.
    fn run(&self, id: &str, spec: &serde_json::Value) -> i32 {
        let init = self.shim.create(id, spec).unwrap();
        self.shim.start_task(id).unwrap();
        init
    }

    /// Lets `end` end the container while the shim stands still, until the kernel, and systemd
    /// where it made the cgroup, have done their part.
    fn end_unseen(&self, id: &str, init: i32, end: impl FnOnce()) {
        let shim = Pid::from_raw(self.shim.pid);
        kill(shim, Signal::SIGSTOP).unwrap();
        end();
        eventually("its end", || {
            Process::read(init).is_none_or(|process| process.state == 'Z')
                && (Driver::of_tests() == Driver::Cgroupfs || self.cgroups(id).is_empty())
        });
        kill(shim, Signal::SIGCONT).unwrap();
        assert_eq!(self.shim.wait(id), 137);
        self.shim.delete(id).unwrap();
    }

    fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        let mut folders = self.shim.cgroups(id);
        folders.retain(|folder| folder.is_dir());
        folders
    }

    /// Freezes a container or lets it go on, without the shim.
    fn freeze(&self, id: &str, frozen: bool) {
        for folder in self.cgroups(id) {
            let (legacy, unified) = match frozen {
                true => ("FROZEN", "1"),
                false => ("THAWED", "0"),
            };
            for (name, value) in [("freezer.state", legacy), ("cgroup.freeze", unified)] {
                let file = folder.join(name);
                if file.exists() {
                    fs::write(file, value).unwrap();
                }
            }
        }
    }

    /// The containers of which `topic` has told, in its order, once `id` has ended. One kill may be
    /// told twice: cgroup v1 gives notice more than once.
    fn told(&self, topic: &str, id: &str) -> Vec<String> {
        let of = |topic: &str| -> Vec<String> {
            let taken = self.taken.lock().unwrap();
            let those = taken.iter().filter(|(_, this, _)| this == topic);
            those.map(|(_, _, container)| container.clone()).collect()
        };
        eventually("the event of its end", || {
            of("/tasks/exit").iter().any(|ended| ended == id)
        });
        let mut told = of(topic);
        told.dedup();
        told
    }
}

#[test]
fn a_kill_is_told_when_the_shim_comes_too_late() {
    let told = Told::start();
    let init = told.shim.create("a", &filling(&told.shim, "a", "64"));
    told.freeze("a", true);
    told.shim.start_task("a").unwrap();
    told.end_unseen("a", init.unwrap(), || told.freeze("a", false));
    assert_eq!(told.told("/tasks/oom", "a"), ["a"]);
    assert_eq!(told.shim.leftovers(), Vec::<PathBuf>::new());
    told.server.shutdown();
}

/// Containers of a pod are in one slice, which counts the kills of all of them.
#[test]
fn a_kill_of_another_container_is_not_taken_for_this_ones() {
    let told = Told::start();
    let spec = told.shim.spec("b", &["/sleep.wasm", "100"]);
    let other = told.run("b", &spec);
    told.run("a", &filling(&told.shim, "a", "64"));
    assert_eq!(told.shim.wait("a"), 137);
    told.end_unseen("b", other, || {
        kill(Pid::from_raw(other), Signal::SIGKILL).unwrap();
    });
    assert_eq!(told.told("/tasks/oom", "b"), ["a"]);
    told.shim.delete("a").unwrap();
    assert_eq!(told.shim.leftovers(), Vec::<PathBuf>::new());
    told.server.shutdown();
}

#[test]
fn each_kill_of_many_is_told() {
    let told = Told::start();
    let ids: Vec<String> = (0..10).map(|round| format!("a{round}")).collect();
    for id in &ids {
        told.run(id, &filling(&told.shim, id, "64"));
        assert_eq!(told.shim.wait(id), 137);
        told.shim.delete(id).unwrap();
    }
    assert_eq!(told.told("/tasks/oom", ids.last().unwrap()), ids);
    told.server.shutdown();
}
