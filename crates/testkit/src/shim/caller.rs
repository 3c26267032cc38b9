//! Callers of a shim that do not stay until their call is answered.

use std::fs;
use std::net::Shutdown;
use std::ops::Deref;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use containerd_shim_protos::{Client, TaskClient};

use super::Shim;

/// One more client of a [`Shim`], with a connection and a deadline of its own.
pub struct Caller {
    shim: Shim,
    stream: UnixStream,
}

impl Caller {
    /// Closes the connection, whatever is under way on it.
    pub fn leave(&self) {
        // The shim may have gone.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Deref for Caller {
    type Target = Shim;

    fn deref(&self) -> &Shim {
        &self.shim
    }
}

impl Shim {
    /// A client of the same shim whose calls have to be answered within `limit`.
    pub fn caller(&self, limit: Duration) -> Caller {
        let address = fs::read_to_string(self.folder.join("address")).unwrap();
        let stream = UnixStream::connect(address.trim_start_matches("unix://")).unwrap();
        let client = Client::new(stream.try_clone().unwrap().into_raw_fd()).unwrap();
        let shim = Shim {
            pid: self.pid,
            namespace: self.namespace.clone(),
            folder: self.folder.clone(),
            client: TaskClient::new(client),
            log: self.log.try_clone().unwrap(),
            limit,
            is_owned: false,
        };
        Caller { shim, stream }
    }
}
