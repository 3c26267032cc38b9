//! Which file `process.args[0]` names, and what kind of file that is.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use crate::view::ContainerView;

/// The search path of a container that sets none, as runc has it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the first bytes of a program say. They prove nothing about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// WebAssembly, a module or a component.
    Wasm,
    /// An ELF file: a native program, or code that Wasmtime compiled.
    Elf,
    /// A script that names its interpreter.
    Script,
    /// Nothing that can be run.
    Unknown,
}

impl Format {
    fn of(head: &[u8]) -> Self {
        match head {
            [0, b'a', b's', b'm', ..] => Self::Wasm,
            [0x7f, b'E', b'L', b'F', ..] => Self::Elf,
            [b'#', b'!', ..] => Self::Script,
            _ => Self::Unknown,
        }
    }
}

/// The program of a container.
#[derive(Debug)]
pub struct Entrypoint {
    /// Path in the container, without links.
    pub path: PathBuf,
    /// The export that `path#export` asks for.
    pub export: Option<String>,
    /// The file, open for reading at its start.
    pub file: File,
    /// What its first bytes say.
    pub format: Format,
    /// Device and inode.
    pub identity: (u64, u64),
}

/// Why there is no program. The wording follows runc's, because `docker run` derives its exit
/// codes 126 and 127 from it.
#[derive(Debug, thiserror::Error)]
pub enum EntrypointError {
    /// The spec has no process or no arguments.
    #[error("the container has no entrypoint: process.args is empty")]
    NoArgs,
    /// A name without a slash that no folder of `PATH` has.
    #[error("exec: {name:?}: executable file not found in $PATH")]
    NotInPath {
        /// The name as it was given.
        name: String,
    },
    /// The path does not lead to a file.
    #[error("exec: {name:?}: stat {}: no such file or directory", path.display())]
    Missing {
        /// The name as it was given.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The path leads to a folder, a device, a FIFO or a socket.
    #[error("exec: {name:?}: permission denied: {} is not a regular file", path.display())]
    NotAFile {
        /// The name as it was given.
        name: String,
        /// What was found.
        path: PathBuf,
    },
    /// Anything else that open or read say.
    #[error("exec: {name:?}: cannot open {}: {source}", path.display())]
    Unreadable {
        /// The name as it was given.
        name: String,
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Finds the program of the container that `spec` describes, on the mounted `rootfs`.
///
/// A name without a slash is searched in the container's `PATH` and then, because images of a
/// single module are often written so, in its working directory if it is Wasm there. `path#export` names a
/// function of a module, unless a file has that very name.
pub fn find_entrypoint(spec: &Spec, rootfs: &Path) -> Result<Entrypoint, EntrypointError> {
    let process = spec.process().as_ref().ok_or(EntrypointError::NoArgs)?;
    let name = process
        .args()
        .iter()
        .flatten()
        .next()
        .filter(|name| !name.is_empty())
        .ok_or(EntrypointError::NoArgs)?;
    find_program(spec, rootfs, name)
}

/// Finds the program `name` as [`find_entrypoint`] does.
pub fn find_program(spec: &Spec, rootfs: &Path, name: &str) -> Result<Entrypoint, EntrypointError> {
    let process = spec.process().as_ref().ok_or(EntrypointError::NoArgs)?;
    let view = ContainerView::new(spec, rootfs);
    let whole = find(&view, process, name);
    match (whole, name.rsplit_once('#')) {
        (Err(error), Some((path, export))) if !path.is_empty() && !export.is_empty() => {
            match find(&view, process, path) {
                Ok(found) if found.format == Format::Wasm => Ok(Entrypoint {
                    export: Some(export.to_owned()),
                    ..found
                }),
                Err(split_error) => Err(split_error),
                Ok(_) => Err(error),
            }
        }
        (whole, _) => whole,
    }
}

fn find(
    view: &ContainerView,
    process: &Process,
    name: &str,
) -> Result<Entrypoint, EntrypointError> {
    let cwd = Path::new("/").join(process.cwd());
    if name.contains('/') {
        return open(view, name, &cwd.join(name));
    }
    for folder in search_path(process) {
        if let Ok(found) = open(view, name, &cwd.join(folder).join(name)) {
            return Ok(found);
        }
    }
    open(view, name, &cwd.join(name))
        .ok()
        .filter(|found| found.format == Format::Wasm)
        .ok_or_else(|| EntrypointError::NotInPath {
            name: name.to_owned(),
        })
}

fn search_path(process: &Process) -> Vec<String> {
    let lines = process.env().iter().flatten();
    let path = lines
        .filter_map(|line| line.strip_prefix("PATH="))
        .next_back();
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(str::to_owned)
        .collect()
}

fn open(view: &ContainerView, name: &str, path: &Path) -> Result<Entrypoint, EntrypointError> {
    let explain = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => EntrypointError::Missing {
            name: name.to_owned(),
            path: path.to_owned(),
        },
        _ => EntrypointError::Unreadable {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        },
    };
    let (file, path) = view.open(path).map_err(explain)?;
    let Some(mut file) = file else {
        return Err(EntrypointError::NotAFile {
            name: name.to_owned(),
            path,
        });
    };
    let metadata = file.metadata().map_err(explain)?;
    let mut head = Vec::new();
    (&file).take(4).read_to_end(&mut head).map_err(explain)?;
    file.rewind().map_err(explain)?;
    Ok(Entrypoint {
        format: Format::of(&head),
        export: None,
        identity: (metadata.dev(), metadata.ino()),
        file,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{ProcessBuilder, SpecBuilder};

    const WASM: &[u8] = b"\0asm\x01\0\0\0";

    fn rootfs() -> tempfile::TempDir {
        let rootfs = tempfile::tempdir().unwrap();
        let write = |path: &str, bytes: &[u8]| {
            let path = rootfs.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        write("app.wasm", WASM);
        write("odd#name.wasm", WASM);
        write("bin/tool", b"\x7fELF");
        write("work/local.wasm", WASM);
        write("work/notes", b"text");
        write("script", b"#!/bin/sh\n");
        write("empty", b"");
        rootfs
    }

    fn entrypoint(args: &[&str], env: &[&str]) -> Result<Entrypoint, EntrypointError> {
        let rootfs = rootfs();
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let process = ProcessBuilder::default()
            .args(strings(args))
            .env(strings(env))
            .cwd("/work")
            .build()
            .unwrap();
        find_entrypoint(
            &SpecBuilder::default().process(process).build().unwrap(),
            rootfs.path(),
        )
    }

    fn message(args: &[&str]) -> String {
        entrypoint(args, &[]).unwrap_err().to_string()
    }

    #[test]
    fn formats_are_told_apart_by_the_first_bytes() {
        for (name, format) in [
            ("/app.wasm", Format::Wasm),
            ("/bin/tool", Format::Elf),
            ("/script", Format::Script),
            ("/work/notes", Format::Unknown),
            ("/empty", Format::Unknown),
        ] {
            assert_eq!(entrypoint(&[name], &[]).unwrap().format, format, "{name}");
        }
    }

    #[test]
    fn names_are_searched_in_the_containers_path_then_its_folder() {
        assert_eq!(
            entrypoint(&["tool"], &[]).unwrap().path,
            Path::new("/bin/tool")
        );
        assert!(entrypoint(&["tool"], &["PATH=/nowhere"]).is_err());
        assert_eq!(
            entrypoint(&["local.wasm"], &[]).unwrap().path,
            Path::new("/work/local.wasm")
        );
        assert!(
            entrypoint(&["notes"], &[]).is_err(),
            "only Wasm is taken from the folder"
        );
        assert_eq!(
            entrypoint(&["./local.wasm"], &[]).unwrap().path,
            Path::new("/work/local.wasm")
        );
    }

    #[test]
    fn an_export_follows_a_hash() {
        let found = entrypoint(&["/app.wasm#run"], &[]).unwrap();
        assert_eq!(
            (found.path.as_path(), found.export.as_deref()),
            (Path::new("/app.wasm"), Some("run"))
        );
        assert_eq!(entrypoint(&["/odd#name.wasm"], &[]).unwrap().export, None);
        assert_eq!(
            entrypoint(&["/odd#name.wasm#x"], &[])
                .unwrap()
                .export
                .as_deref(),
            Some("x")
        );
    }

    #[test]
    fn the_wording_is_the_one_docker_reads() {
        assert_eq!(
            message(&[]),
            "the container has no entrypoint: process.args is empty"
        );
        assert_eq!(
            message(&["/no.wasm"]),
            "exec: \"/no.wasm\": stat /no.wasm: no such file or directory"
        );
        assert_eq!(
            message(&["/no.wasm#f"]),
            "exec: \"/no.wasm\": stat /no.wasm: no such file or directory"
        );
        assert_eq!(
            message(&["nope"]),
            "exec: \"nope\": executable file not found in $PATH"
        );
        assert_eq!(
            message(&["/work"]),
            "exec: \"/work\": permission denied: /work is not a regular file"
        );
    }
}
