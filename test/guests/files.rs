//! Does what its arguments say with files, one line of output for each, and always exits 0:
//!
//! `read PATH`, `write PATH TEXT`, `list PATH`, `stat PATH`, `mkdir PATH`, `remove PATH`
//!
//! A line is `COMMAND PATH: ok RESULT` or `COMMAND PATH: error KIND ERRNO`, with the kind as
//! Rust's `io::ErrorKind` names it and the errno as WASI numbers it (44 noent, 76 notcapable).

use std::fs;
use std::io::{Error, Result};

fn list(path: &str) -> Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}

fn stat(path: &str) -> Result<String> {
    let metadata = fs::symlink_metadata(path)?;
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => "directory",
        kind if kind.is_file() => "file",
        kind if kind.is_symlink() => "symlink",
        _ => "other",
    };
    Ok(format!("{} {}", kind, metadata.len()))
}

fn done(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

fn errno(error: &Error) -> String {
    error.raw_os_error().map_or_else(String::new, |number| format!(" {}", number))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    while let Some(command) = arguments.next() {
        let path = arguments.next().expect("a path follows each command");
        let result = match command.as_str() {
            "read" => fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            "write" => {
                let text = arguments.next().expect("a text follows the path of write");
                done(fs::write(&path, text))
            }
            "list" => list(&path),
            "stat" => stat(&path),
            "mkdir" => done(fs::create_dir(&path)),
            "remove" => done(fs::remove_file(&path)),
            _ => panic!("no such command: {}", command),
        };
        match result {
            Ok(text) => println!("{}", format!("{} {}: ok {}", command, path, text).trim_end()),
            Err(error) => println!("{} {}: error {:?}{}", command, path, error.kind(), errno(&error)),
        }
    }
}
