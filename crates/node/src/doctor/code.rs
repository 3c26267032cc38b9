//! Whether this node can compile, keep and run code.

use std::process::Command;

use lighter_wasm::engine::VERSION;

use super::Finding;
use crate::node::Node;
use crate::text::size;

pub fn folder(node: &Node) -> Finding {
    node.cache.check().map_err(|error| error.to_string())?;
    let entries = node.cache.list().map_err(|error| error.to_string())?;
    let bytes = entries.iter().map(|entry| entry.bytes).sum();
    Ok(format!(
        "{}, {} artifacts, {}",
        node.folder.display(),
        entries.len(),
        size(bytes)
    ))
}

pub fn worker(node: &Node) -> Finding {
    let path = node.compiler.display();
    let output = Command::new(&node.compiler)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|error| {
            format!("{path}: {error}: install lighter-compiler of this release beside lighter")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().unwrap_or_default();
    let expected = format!("lighter-compiler ({VERSION})");
    if version == expected {
        Ok(format!("{path}, {VERSION}"))
    } else {
        Err(format!(
            "{path} says `{version}` and not `{expected}`: install the one of this release"
        ))
    }
}

pub fn compiling(node: &Node) -> Finding {
    match node.cache.try_out() {
        Ok(()) => Ok("a module was compiled and mapped".to_owned()),
        Err(error) => Err(format!("an empty module {error}")),
    }
}
