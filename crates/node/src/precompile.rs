//! `lighter precompile`: what the first start would do, before it.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lighter_wasm::{Compilation, Variant, World};

use crate::node::Node;
use crate::text::size;

/// Silence up to here; then it says that it is at work.
const LONG: Duration = Duration::from_secs(2);

/// Compiles each file. The failure of one does not keep the others from it.
pub fn run(node: &Node, files: &[PathBuf], variant: Option<Variant>) -> Result<ExitCode, String> {
    let mut status = ExitCode::SUCCESS;
    for file in files {
        match precompile(node, file, variant) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("lighter: {} {error}", file.display());
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

fn precompile(node: &Node, path: &Path, variant: Option<Variant>) -> Result<String, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let began = Instant::now();
    let (entry, is_new) = while_saying(path, || {
        node.cache
            .precompile(file, &|world| Ok(compilation(world, variant)))
    })
    .map_err(|error| error.to_string())?;
    let world = entry
        .details
        .as_ref()
        .map_or("", |details| details.world.name());
    let done = if is_new {
        format!("compiled in {:.1} s", began.elapsed().as_secs_f64())
    } else {
        "was compiled before".to_owned()
    };
    Ok(format!(
        "{}: {world}, {done} for {}, {}, sha256 {}",
        path.display(),
        entry.compilation,
        size(entry.bytes),
        entry.source
    ))
}

/// What a container would be compiled for, unless its options say otherwise.
fn compilation(world: World, variant: Option<Variant>) -> Compilation {
    let usual = if world.is_service() {
        Variant::Http
    } else {
        Variant::Command
    };
    Compilation {
        variant: variant.unwrap_or(usual),
        preview3: world.needs_preview3(),
    }
}

/// Says on a terminal that `work` goes on, if it takes long.
fn while_saying<T>(path: &Path, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    std::thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            let began = Instant::now();
            while wait
                .recv_timeout(LONG)
                .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                let seconds = began.elapsed().as_secs();
                eprintln!("{}: compiling for {seconds} s", path.display());
            }
        });
        let result = work();
        drop(done);
        result
    })
}
