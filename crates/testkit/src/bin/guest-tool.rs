//! Makes Wasm binaries for the guests that no compiler of the distribution makes.
//!
//! - `guest-tool wat IN OUT`: text to binary.
//! - `guest-tool component IN OUT`: a core module of WASI preview 1 to a component of the
//!   world `wasi:cli/command` 0.2, with the command adapter.

use std::error::Error;
use std::fs;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wit_component::ComponentEncoder;

fn component(module: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let bytes = ComponentEncoder::default()
        .module(module)?
        .adapter(
            WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
            WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        )?
        .validate(true)
        .encode()?;
    Ok(bytes)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, input, output] = arguments.as_slice() else {
        return Err("usage: guest-tool wat|component IN OUT".into());
    };
    let source = fs::read(input).map_err(|error| format!("cannot read {input}: {error}"))?;
    let binary = match command.as_str() {
        "wat" => wat::parse_bytes(&source)
            .map_err(|error| format!("{input} is not valid text: {error}"))?
            .into_owned(),
        "component" => component(&source)
            .map_err(|error| format!("{input} cannot become a component: {error:?}"))?,
        other => return Err(format!("no command {other}: it is wat or component").into()),
    };
    fs::write(output, binary).map_err(|error| format!("cannot write {output}: {error}"))?;
    Ok(())
}
