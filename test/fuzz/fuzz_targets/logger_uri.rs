//! URIs of loggers: any text, and any path that is encoded as containerd encodes it.
#![no_main]

use std::fmt::Write;

use libfuzzer_sys::fuzz_target;
use lighter_container::logger_command;
use lighter_fuzz::allocation::bounded;

fuzz_target!(|text: &str| {
    if let Ok((program, args)) = bounded(text.len(), 32, || logger_command(text)) {
        assert!(text.starts_with("binary://"));
        assert!(program.starts_with('/') && !program.contains('\0'));
        assert_eq!(args.first(), Some(&program));
        assert!(args.iter().all(|arg| !arg.contains('\0')));
    }
    if text.contains('\0') {
        return;
    }
    for encode in [escaped, escaped_as_little_as_can_be] {
        let uri = format!("binary:///{}?--file=x", encode(text));
        let (program, args) = logger_command(&uri).expect("it is well-formed");
        assert_eq!(program, format!("/{text}"), "{uri}");
        assert_eq!(args[1..], ["--file", "x"]);
    }
});

fn escaped(path: &str) -> String {
    path.bytes().fold(String::new(), |mut escaped, byte| {
        let _ = write!(escaped, "%{byte:02X}");
        escaped
    })
}

/// As Go's `URL.String` does it: RFC 3986 allows these characters in a path.
fn escaped_as_little_as_can_be(path: &str) -> String {
    path.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}
