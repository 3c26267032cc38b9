//! A client of HTTP/2 that does what no library would (RFC 9113, RFC 7541).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection that has sent its settings, and reads nothing until it is asked to.
pub(super) struct Http2 {
    stream: TcpStream,
    failed: bool,
}

impl Http2 {
    pub(super) fn new(mut stream: TcpStream) -> Option<Self> {
        stream.write_all(PREFACE).ok()?;
        let mut client = Self {
            stream,
            failed: false,
        };
        client.frame(SETTINGS, 0, 0, &[]);
        Some(client)
    }

    /// Whether something could not be sent: the service has gone or reads nothing more.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Sends a frame, unless sending has failed before.
    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        if self.failed {
            return;
        }
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.failed = self.stream.write_all(&frame).is_err();
    }

    /// Sends a head. `number` counts the streams of this connection from zero.
    pub(super) fn request(&mut self, number: u32, method: &str, path: &str, is_whole: bool) {
        let mut flags = END_HEADERS;
        if is_whole {
            flags |= END_STREAM;
        }
        self.frame(HEADERS, flags, id(number), &head(method, path));
    }

    /// Sends a head that goes on in continuations.
    pub(super) fn unfinished_request(&mut self, stream: u32) {
        self.frame(HEADERS, 0, stream, &head("GET", "/"));
    }

    /// Sends a part of a body.
    pub(super) fn data(&mut self, number: u32, payload: &[u8]) {
        self.frame(DATA, 0, id(number), payload);
    }

    /// Takes a stream back.
    pub(super) fn reset(&mut self, number: u32) {
        const CANCEL: [u8; 4] = [0, 0, 0, 8];
        self.frame(RST_STREAM, 0, id(number), &CANCEL);
    }

    /// Sends a head in which one header is there fifteen times, by its index in the table. The first stream puts
    /// it there.
    pub(super) fn bomb(&mut self, number: u32, path: &str) {
        const HEADER: usize = 3900;
        let mut block = head("GET", path);
        if number == 0 {
            // Literal with incremental indexing, new name.
            block.push(0x40);
            block.extend(string("x"));
            block.extend(string(&"v".repeat(HEADER)));
        }
        // The first entry after the static table.
        block.extend([0x80 | 62; 14]);
        self.frame(HEADERS, END_HEADERS, id(number), &block);
    }

    /// Kind and payload of all frames until the connection is closed.
    pub(super) fn frames_until_closed(mut self) -> Vec<(u8, Vec<u8>)> {
        let limit = Some(Duration::from_secs(5));
        self.stream.set_read_timeout(limit).unwrap();
        let mut frames = Vec::new();
        let mut header = [0; 9];
        while self.stream.read_exact(&mut header).is_ok() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            if self.stream.read_exact(&mut payload).is_err() {
                break;
            }
            frames.push((header[3], payload));
        }
        frames
    }
}

fn id(number: u32) -> u32 {
    2 * number + 1
}

/// The header block of a request, without the dynamic table.
fn head(method: &str, path: &str) -> Vec<u8> {
    // `:method: GET` or POST, and `:scheme: http` are in the static table.
    let mut block = vec![if method == "GET" { 0x82 } else { 0x83 }, 0x86];
    // Literals without indexing, by the index of their names: `:path` and `:authority`.
    block.push(0x04);
    block.extend(string(path));
    block.push(0x01);
    block.extend(string("a"));
    block
}

/// A string without compression; its length is an integer with a prefix of seven bits.
fn string(text: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    let length = text.len();
    if length < 127 {
        encoded.push(length as u8);
    } else {
        encoded.push(127);
        let mut rest = length - 127;
        while rest >= 128 {
            encoded.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        encoded.push(rest as u8);
    }
    encoded.extend(text.as_bytes());
    encoded
}
