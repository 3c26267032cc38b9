//! Network namespaces with nothing but their loopback, one for each server: all of them serve
//! at the same port, and the load generator reaches a container as its neighbours in a pod do.

use std::fs::File;
use std::thread;
use std::time::Duration;

use lighter_testkit::{Call, Running};
use nix::sched::{CloneFlags, setns};

/// A network namespace that is gone when this is dropped.
pub(crate) struct Network {
    holder: Running,
}

impl Network {
    /// Makes one, held by a process that ends with this one, however that ends.
    pub(crate) fn new() -> Self {
        let hold =
            "ip link set lo up && echo ready && exec setpriv --pdeathsig KILL sleep infinity";
        let mut holder = Call::new("unshare", ["--net", "sh", "-c", hold]).spawn();
        holder.await_stdout("ready", Duration::from_secs(10));
        Self { holder }
    }

    /// The file that names the namespace.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.pid())
    }

    /// A call of a program inside.
    pub(crate) fn inside<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Call {
        let mut all = vec![format!("--net={}", self.path())];
        all.extend(arguments.into_iter().map(str::to_owned));
        Call::new("nsenter", all)
    }

    /// Does something inside, on a thread: a namespace is entered by threads one by one.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = File::open(self.path()).expect("the holder of the namespace runs");
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            work()
        })
    }
}
