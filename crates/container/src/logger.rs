//! Loggers: programs of the node that take a container's output (`binary://`, containerd
//! `docs/runtime-v2.md`, "Logging plugins").

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use lighter_core::Failure;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use percent_encoding::percent_decode_str;

use crate::fork::{fork_sibling, place_descriptors};
use crate::init::reset_signals;
use crate::manage::ContainerLocation;

/// A logger that runs, and what to write to it.
pub(crate) struct Logger {
    pub(crate) pidfd: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Starts the logger that `uri` names, and waits until it says that it is ready.
///
/// It becomes a child of the shim. Its descriptors are 3 for stdout, 4 for stderr and 5 to
/// close when it is ready; its environment is `CONTAINER_ID` and `CONTAINER_NAMESPACE`; its
/// arguments are the URI's query.
pub(crate) fn start(uri: &str, location: &ContainerLocation) -> Result<Logger, Failure> {
    let (program, args) = command(uri)?;
    let environment = [
        format!("CONTAINER_ID={}", location.id),
        format!("CONTAINER_NAMESPACE={}", location.namespace),
    ];
    let failed =
        |error: io::Error| Failure::internal(format!("cannot start the logger {program}: {error}"));
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()));
    let (stdout_reader, stdout) = pipe()?;
    let (stderr_reader, stderr) = pipe()?;
    let (ready, ready_writer) = pipe()?;
    let (trouble, trouble_writer) = pipe()?;
    let strings = |list: &[String]| -> io::Result<Vec<CString>> {
        let strings = list.iter().map(|text| CString::new(text.as_str()));
        strings
            .collect::<Result<_, _>>()
            .map_err(|_| io::ErrorKind::InvalidInput.into())
    };
    let path = CString::new(program.as_str()).map_err(|error| failed(error.into()))?;
    let args = strings(&args).map_err(failed)?;
    let environment = strings(&environment).map_err(failed)?;
    let (_, pidfd) = fork_sibling(|| {
        let _ = nix::unistd::setsid();
        reset_signals();
        let placed = place_descriptors(
            &[
                stdout_reader.as_raw_fd(),
                stderr_reader.as_raw_fd(),
                ready_writer.as_raw_fd(),
            ],
            trouble_writer.as_raw_fd(),
        );
        if let Ok(mut trouble) = placed {
            let Err(error) = nix::unistd::execve(&path, &args, &environment);
            let _ = write!(trouble, "{}", io::Error::from(error));
        }
        1
    })
    .map_err(failed)?;
    drop((stdout_reader, stderr_reader, ready_writer, trouble_writer));
    let mut why = String::new();
    File::from(trouble)
        .read_to_string(&mut why)
        .map_err(failed)?;
    if !why.is_empty() {
        return Err(failed(io::Error::other(why)));
    }
    // A byte or the end of file says that it is ready.
    let _ = File::from(ready).read(&mut [0]).map_err(failed)?;
    Ok(Logger {
        pidfd,
        stdout,
        stderr,
    })
}

/// The program in a `binary://` URI, and its arguments, itself first.
///
/// # Errors
/// The URI does not name a file by its absolute path.
pub fn command(uri: &str) -> Result<(String, Vec<String>), Failure> {
    let malformed = || {
        Failure::invalid(format!(
            "the logger's URI {uri:?} is malformed: it has to be binary:///PATH"
        ))
    };
    let rest = uri.strip_prefix("binary://").ok_or_else(malformed)?;
    let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A path is no form: `&`, `=` and `+` stand for themselves (RFC 3986, section 3.3).
    let program = percent_decode_str(path).decode_utf8();
    let program = program.map_err(|_| malformed())?.into_owned();
    if !program.starts_with('/') {
        return Err(malformed());
    }
    let mut args = vec![program.clone()];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        args.push(name.into_owned());
        if !value.is_empty() {
            args.push(value.into_owned());
        }
    }
    // execve takes none.
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(malformed());
    }
    Ok((program, args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_becomes_arguments() {
        let (program, args) = command("binary:///opt/a%20b+c?--file=/tmp/x%3Dy&--quiet").unwrap();
        assert_eq!(program, "/opt/a b+c");
        assert_eq!(args, ["/opt/a b+c", "--file", "/tmp/x=y", "--quiet"]);
    }

    #[test]
    fn a_path_is_no_form() {
        for (uri, path) in [
            ("binary:///opt/a&b", "/opt/a&b"),
            ("binary:///opt/a=b?c", "/opt/a=b"),
            ("binary:///opt/%26%23%3F#fragment", "/opt/&#?"),
        ] {
            assert_eq!(command(uri).unwrap().0, path);
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for uri in [
            "binary://host/path",
            "binary:logger",
            "binary://",
            "binary:///a%00b",
            "binary:///a?b=%00",
            "binary:///a%FF",
        ] {
            assert!(command(uri).is_err(), "{uri}");
        }
    }
}
