//! Linux images of the same programs, with what they need to run and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lighter_testkit::{Call, Image};

/// The source of the Wasm guest, linked statically.
pub(crate) fn rust(place: &Path) -> Image {
    let program = place.join("hello-rust");
    let source = source("hello.rs");
    // Debian's compiler, as for the guest.
    let flags = [
        "-O",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
        "-o",
    ];
    let files = [program.as_os_str(), source.as_os_str()];
    let arguments = flags.iter().map(AsRef::as_ref).chain(files);
    Call::new("/usr/bin/rustc", arguments).ok();
    of_program("linux-rust", &program)
}

/// The same; Go links statically without cgo.
pub(crate) fn go(place: &Path) -> Image {
    let program = place.join("hello-go");
    let source = source("go/hello-go.go");
    let flags = ["build", "-trimpath", "-ldflags=-s -w", "-o"];
    let files = [program.as_os_str(), source.as_os_str()];
    let arguments = flags.iter().map(AsRef::as_ref).chain(files);
    Call::new("go", arguments)
        .env("CGO_ENABLED", "0")
        .limit(super::LIMIT)
        .ok();
    of_program("linux-go", &program)
}

/// This machine's node with its libraries.
pub(crate) fn node() -> Image {
    let program = Call::new("sh", ["-c", "readlink -f \"$(command -v node)\""]).ok();
    let program = program.trim();
    with_libraries(Image::new("linux-node"), &[program.into()])
        .file("/hello.js", "console.log('Hello from JavaScript')\n", 0o644)
        .entrypoint([program, "/hello.js"])
}

/// Debian's Python with its standard library.
pub(crate) fn python() -> Image {
    let program = fs::canonicalize("/usr/bin/python3").expect("Debian has a python3");
    let version = program
        .file_name()
        .expect("it is a file")
        .to_string_lossy()
        .into_owned();
    let packages = ["minimal", "stdlib"].map(|part| format!("lib{version}-{part}"));
    let list = Call::new("dpkg", ["-L".to_owned()].iter().chain(&packages)).ok();
    let library = format!("/usr/lib/{version}/");
    let mut image = Image::new("linux-python");
    let mut objects = vec![program.clone()];
    for path in list.lines().filter(|path| path.starts_with(&library)) {
        if !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        if path.ends_with(".so") {
            objects.push(path.into());
        } else {
            image = image.file(path, read(Path::new(path)), 0o644);
        }
    }
    let program = program.display().to_string();
    let script = "print('Hello from Python')";
    with_libraries(image, &objects).entrypoint([&program, "-c", script])
}

/// The programs and libraries `objects`, and what the loader will look for.
fn with_libraries(mut image: Image, objects: &[PathBuf]) -> Image {
    let printed = Call::new("ldd", objects).ok();
    let mut files: BTreeSet<PathBuf> = objects.iter().cloned().collect();
    // `name => path (address)`, the loader without an arrow; other objects' names end in a colon.
    let words = printed.lines().filter_map(|line| {
        let line = line.trim().rsplit("=> ").next()?;
        line.split_once(" (").map(|(path, _)| path)
    });
    files.extend(
        words
            .filter(|path| path.starts_with('/'))
            .map(PathBuf::from),
    );
    for file in files {
        image = image.file(&file.display().to_string(), read(&file), 0o755);
    }
    image
}

fn of_program(name: &str, program: &Path) -> Image {
    let mode = fs::metadata(program)
        .expect("it was built")
        .permissions()
        .mode();
    let image = Image::new(name).file("/hello", read(program), mode & 0o777);
    image.entrypoint(["/hello"])
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../guests")
        .join(name)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}
