//! `lighter pack`: an image of a program, the same bytes each time.
//!
//! ```text
//! arguments --read files--> Recipe --image, pure--> Image --output--> archive or folder
//!                 program: what it is; layer: the tar of files
//! ```

mod arguments;
mod form;
mod image;
mod layer;
mod output;
mod path;
mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use lighter_wasm::World;
use oci_spec::distribution::Reference;

pub use arguments::PackArguments;

use crate::text::size;
use arguments::FileArgument;
use form::Form;
use image::Recipe;
use layer::Layer;
use program::{Native, Program, Wasm};

/// The last second of the year 9999: RFC 3339 has no later one.
const LATEST: u64 = 253_402_300_799;

/// Packs one image and says what it is.
pub fn run(arguments: &PackArguments) -> Result<(), String> {
    let file = &arguments.program;
    let of_program = |fault: &dyn std::fmt::Display| format!("{} {fault}", file.display());
    if arguments.aot {
        return Err(of_program(
            &"is not compiled ahead for an image: a node runs only code that it compiled itself, or a registry could \
             give it any native code. Pack the .wasm file, and run `lighter precompile` on the node",
        ));
    }
    let program = program(file, arguments.form)?;
    let recipe = Recipe {
        form: arguments.form,
        components: components(arguments, &program)?,
        architecture: arguments.architecture(&program)?,
        program,
        files: files(&arguments.files)?,
        name: arguments.name.as_deref().map(reference).transpose()?,
        process: arguments.process(),
        labels: arguments.labels.iter().cloned().collect(),
        annotations: arguments.annotations.iter().cloned().collect(),
        created: created(std::env::var_os("SOURCE_DATE_EPOCH"))?,
    };
    let image = image::image(&recipe)?;
    output::write(&image, &arguments.output)?;
    let name = recipe.name.as_ref().map(|name| format!(" {name},"));
    println!(
        "{}:{} {} for {}, {}, {}, {}",
        arguments.output.display(),
        name.unwrap_or_default(),
        recipe.form.title(),
        image.platform,
        recipe.program,
        size(image.bytes()),
        image.manifest_digest(),
    );
    let world = recipe.program.wasm().map(|wasm| wasm.world);
    if world == Some(World::Component) && !image.names_function {
        let path = recipe.program.path();
        eprintln!(
            "lighter: {} exports no command and no service; name the function to call: --entrypoint '{path}#NAME'",
            file.display()
        );
    }
    Ok(())
}

fn program(file: &Path, form: Form) -> Result<Program, String> {
    let bytes = read(file)?;
    match form {
        Form::Native => Native::new(file, bytes).map(Program::Native),
        _ => Wasm::new(file, bytes).map(Program::Wasm),
    }
}

/// What the program is composed with, on the node.
fn components(arguments: &PackArguments, program: &Program) -> Result<Vec<Wasm>, String> {
    let files = &arguments.components;
    let components = files.iter().map(|file| Wasm::new(file, read(file)?));
    let components: Vec<Wasm> = components.collect::<Result<_, _>>()?;
    let mut all = program.wasm().into_iter().chain(&components);
    let module = all.find(|wasm| wasm.world == World::Module);
    match module {
        Some(module) if !components.is_empty() => Err(format!(
            "{} is a core module, and only components can be composed: make a component of it (`wasm-tools component new`)",
            module.path.relative()
        )),
        _ => Ok(components),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// The files that are added to the program's.
fn files(arguments: &[FileArgument]) -> Result<Layer, String> {
    let mut layer = Layer::default();
    for FileArgument { source, path, mode } in arguments {
        let metadata = fs::metadata(source)
            .map_err(|error| format!("{} cannot be read: {error}", source.display()))?;
        if !metadata.is_file() {
            return Err(format!(
                "{} is no regular file: give each file with a --file of its own",
                source.display()
            ));
        }
        // The other bits depend on the umask of who made the file.
        let usual = if metadata.permissions().mode() & 0o100 == 0 {
            0o644
        } else {
            0o755
        };
        layer.file(path, mode.unwrap_or(usual), read(source)?)?;
    }
    Ok(layer)
}

fn reference(name: &str) -> Result<Reference, String> {
    let reference: Reference = name
        .parse()
        .map_err(|error| format!("--name {name}: {error}"))?;
    if reference.digest().is_some() {
        return Err(format!(
            "--name {name}: a digest follows from the contents; give a tag, or nothing"
        ));
    }
    Ok(reference)
}

/// The time in the image: the one that all reproducible builds take, else 1970.
fn created(epoch: Option<std::ffi::OsString>) -> Result<SystemTime, String> {
    let seconds = match epoch.filter(|text| !text.is_empty()) {
        None => 0,
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .filter(|seconds| *seconds <= LATEST)
            .ok_or_else(|| {
                format!(
                    "SOURCE_DATE_EPOCH is {}: it has to be seconds since 1970",
                    text.display()
                )
            })?,
    };
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        for (given, full) in [
            ("app", "docker.io/library/app:latest"),
            ("me/app:1", "docker.io/me/app:1"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
        ] {
            assert_eq!(reference(given).unwrap().to_string(), full);
        }
        let digest = format!("app@sha256:{}", "0".repeat(64));
        for wrong in ["", "App", "a b", &digest] {
            assert!(reference(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_time_is_that_of_the_source() {
        let at = |text: &str| created(Some(text.into()));
        assert_eq!(created(None), Ok(SystemTime::UNIX_EPOCH));
        assert_eq!(at(""), Ok(SystemTime::UNIX_EPOCH));
        let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(at("1"), Ok(second));
        assert!(at(&LATEST.to_string()).is_ok());
        for wrong in ["-1", "now", "253402300800"] {
            assert!(at(wrong).unwrap_err().contains(wrong));
        }
    }
}
