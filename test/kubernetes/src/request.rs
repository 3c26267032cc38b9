//! HTTP requests from the node.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lighter_testkit::Call;

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status: 200.
    pub status: u16,
    /// Its body.
    pub body: String,
}

/// Asks for a path, on a connection of its own.
///
/// # Errors
/// What curl says, if there was no whole response.
pub fn get(address: &str, port: u16, path: &str) -> Result<Answer, String> {
    get_with(address, port, path, &[])
}

/// The same with headers: `Name: value`.
///
/// # Errors
/// What curl says, if there was no whole response.
pub fn get_with(address: &str, port: u16, path: &str, headers: &[&str]) -> Result<Answer, String> {
    let host = match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => address.to_owned(),
    };
    let url = format!("http://{host}:{port}{path}");
    let options = ["-gsS", "--connect-timeout", "5", "--max-time", "30"];
    let arguments = ["--write-out", "\n%{http_code}", &url];
    let headers = headers.iter().flat_map(|header| ["--header", header]);
    let arguments = options.into_iter().chain(headers).chain(arguments);
    let output = Call::new("curl", arguments).output();
    if !output.status.success() {
        return Err(output.stderr);
    }
    let (body, status) = output
        .stdout
        .rsplit_once('\n')
        .expect("curl writes the status last");
    Ok(Answer {
        status: status.parse().expect("a status is a number"),
        body: body.to_owned(),
    })
}

/// Requests one after the other, until it is stopped.
pub struct Load {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Result<Answer, String>>>,
}

impl Load {
    /// Begins.
    pub fn start(address: &str, port: u16, path: &str) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (stop, address, path) = (Arc::clone(&end), address.to_owned(), path.to_owned());
        let thread = thread::spawn(move || {
            let mut answers = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                answers.push(get(&address, port, &path));
                // Some tens of requests a second: enough to meet each moment of a replacement.
                thread::sleep(Duration::from_millis(15));
            }
            answers
        });
        Self { end, thread }
    }

    /// Ends, and answers what each request got.
    pub fn stop(self) -> Vec<Result<Answer, String>> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not panic")
    }
}
