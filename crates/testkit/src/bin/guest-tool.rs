//! Makes Wasm binaries for the guests that no compiler of the distribution makes.
//!
//! - `guest-tool wat IN OUT`: text to binary.
//! - `guest-tool component IN OUT`: a core module of WASI preview 1 to a component of the
//!   world `wasi:cli/command` 0.2, with the command adapter.
//! - `guest-tool bindings WIT WORLD OUT`: C bindings of a world of the folder `WIT`, into the
//!   folder `OUT`: `guest.h`, `guest.c` and `guest_component_type.o`.
//! - `guest-tool reactor IN OUT`: a core module with such bindings to a component of their
//!   world, with the reactor adapter if it imports preview 1 too.

use std::error::Error;
use std::fs;
use std::path::Path;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_bindgen_core::{Files, wit_parser::Resolve};
use wit_component::ComponentEncoder;

fn component(module: &[u8], adapter: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = ComponentEncoder::default()
        .module(module)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?
        .validate(true)
        .encode()?;
    Ok(bytes)
}

fn bindings(wit: &str, world: &str, output: &str) -> Result<(), Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    let options = wit_bindgen_c::Opts {
        rename_world: Some("guest".into()),
        ..Default::default()
    };
    options.build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(output)?;
    for (name, contents) in files.iter() {
        fs::write(Path::new(output).join(name), contents)?;
    }
    Ok(())
}

fn convert(command: &str, input: &str, output: &str) -> Result<(), Box<dyn Error>> {
    let source = fs::read(input).map_err(|error| format!("cannot read {input}: {error}"))?;
    let wrap = |adapter| {
        component(&source, adapter)
            .map_err(|error| format!("{input} cannot become a component: {error:?}"))
    };
    let binary = match command {
        "wat" => wat::parse_bytes(&source)
            .map_err(|error| format!("{input} is not valid text: {error}"))?
            .into_owned(),
        "component" => wrap(WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?,
        "reactor" => wrap(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?,
        other => {
            return Err(
                format!("no command {other}: it is wat, component, reactor or bindings").into(),
            );
        }
    };
    fs::write(output, binary).map_err(|error| format!("cannot write {output}: {error}"))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["bindings", wit, world, output] => bindings(wit, world, output)
            .map_err(|error| format!("no bindings of {world} of {wit}: {error:?}").into()),
        [command, input, output] => convert(command, input, output),
        _ => {
            Err("usage: guest-tool wat|component|reactor IN OUT, or bindings WIT WORLD OUT".into())
        }
    }
}
