//! When a server first answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Where every server serves, in its own network namespace.
pub(crate) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// Between two attempts to connect: small beside what is measured, and no load.
const RETRY: Duration = Duration::from_millis(1);

/// Asks until a server answers. How long after `begin` its first byte came, or what was wrong.
pub(crate) fn first_byte(begin: Instant, limit: Duration) -> Result<Duration, String> {
    loop {
        match ask(begin, limit) {
            Ok(elapsed) => return Ok(elapsed),
            Err(Refused::ForGood(text)) => return Err(text),
            Err(Refused::Yet(text)) if begin.elapsed() > limit => {
                return Err(format!("no answer after {limit:?}: {text}"));
            }
            Err(Refused::Yet(_)) => thread::sleep(RETRY),
        }
    }
}

enum Refused {
    /// Nobody listens yet, or whoever did is gone.
    Yet(String),
    ForGood(String),
}

fn ask(begin: Instant, limit: Duration) -> Result<Duration, Refused> {
    let yet = |error: std::io::Error| Refused::Yet(error.to_string());
    let mut connection = TcpStream::connect(ADDRESS).map_err(yet)?;
    connection.set_read_timeout(Some(limit)).map_err(yet)?;
    connection
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(yet)?;
    let mut answer = vec![0];
    connection.read_exact(&mut answer).map_err(yet)?;
    let elapsed = begin.elapsed();
    connection.read_to_end(&mut answer).map_err(yet)?;
    let answer = String::from_utf8_lossy(&answer);
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(elapsed)
    } else {
        Err(Refused::ForGood(format!("the server answered {answer:?}")))
    }
}
