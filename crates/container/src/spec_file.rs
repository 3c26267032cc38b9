//! Reads the specs that clients of containerd write.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::warnings;

/// Longest `config.json` that is read, in bytes. It is what clients of containerd asked for, and
/// containerd takes requests of 16 MiB, which are shorter than their JSON.
const MAX_SPEC: u64 = 32 << 20;
/// Longest description of a process that is read, in bytes.
const MAX_PROCESS: u64 = 4 << 20;

/// Reads the `config.json` of a bundle. Returns with it whether the file says something else: then
/// libcontainer, which reads the file on its own, must read another one.
///
/// # Errors
/// InvalidArgument if the file is missing, too long or malformed.
pub(crate) fn load_spec(bundle: &Path) -> Result<(Spec, bool), Failure> {
    let path = bundle.join("config.json");
    let failed = |cause: &dyn std::fmt::Display| {
        Failure::invalid(format!("cannot read {}: {cause}", path.display()))
    };
    let text = read(&path, MAX_SPEC).map_err(|error| failed(&error))?;
    if text.len() as u64 > MAX_SPEC {
        return Err(failed(&format!(
            "it has more than {MAX_SPEC} bytes; give the container fewer annotations, mounts or variables"
        )));
    }
    parse(&text, "/process/capabilities").map_err(|error| failed(&error))
}

/// Reads the description of a process: `process` of the OCI runtime specification.
///
/// # Errors
/// Internal if the file cannot be read, InvalidArgument if it is malformed.
pub(crate) fn load_process(path: &Path) -> Result<Process, Failure> {
    let text = read(path, MAX_PROCESS).map_err(|error| {
        Failure::new(ErrorClass::Internal, format!("{}: {error}", path.display()))
    })?;
    let (process, _) = parse(&text, "/capabilities").map_err(|error| {
        Failure::invalid(format!("the process's description is malformed: {error}"))
    })?;
    Ok(process)
}

/// One byte more than `max`, at most.
fn read(path: &Path, max: u64) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Parses JSON. Capabilities that do not exist are left out of the sets at `capabilities` (RFC 6901),
/// with a warning, as runc does: clients name those of newer kernels. oci-spec refuses the whole.
fn parse<T: DeserializeOwned>(text: &[u8], capabilities: &str) -> serde_json::Result<(T, bool)> {
    let error = match serde_json::from_slice(text) {
        Ok(parsed) => return Ok((parsed, false)),
        Err(error) => error,
    };
    // Only now: one that is well-formed, as nearly all are, is parsed once.
    let mut json: Value = serde_json::from_slice(text)?;
    let sets = json
        .pointer_mut(capabilities)
        .and_then(Value::as_object_mut);
    let mut unknown: Vec<String> = Vec::new();
    for names in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = names.as_array_mut() else {
            continue;
        };
        names.retain(|name| match name.as_str() {
            Some(name) if !is_capability(name) => {
                if unknown.iter().all(|known| known != name) {
                    unknown.push(name.to_owned());
                }
                false
            }
            _ => true,
        });
    }
    if unknown.is_empty() {
        return Err(error);
    }
    let parsed = serde_json::from_value(json)?;
    warnings::warn(format!(
        "ignoring unknown or unavailable capabilities: {}",
        unknown.join(", ")
    ));
    Ok((parsed, true))
}

fn is_capability(name: &str) -> bool {
    serde_json::from_value::<Capability>(name.into()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(config: &str) -> Result<(Spec, bool), Failure> {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), config).unwrap();
        load_spec(bundle.path())
    }

    const PROCESS: &str = r#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["a"], "capabilities": {
        "bounding": ["CAP_KILL", "CAP_OF_TOMORROW"], "effective": ["CAP_OF_TOMORROW"]}}"#;

    #[test]
    fn unknown_capabilities_are_left_out() {
        let (spec, differs) = load(&format!(
            r#"{{"ociVersion": "1.2.0", "process": {PROCESS}}}"#
        ))
        .unwrap();
        assert!(differs);
        let capabilities = spec
            .process()
            .as_ref()
            .unwrap()
            .capabilities()
            .clone()
            .unwrap();
        let bounding = capabilities.bounding().clone().unwrap();
        assert_eq!(bounding.into_iter().collect::<Vec<_>>(), [Capability::Kill]);
        assert!(capabilities.effective().clone().unwrap().is_empty());
    }

    #[test]
    fn unknown_capabilities_of_an_exec_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("process.json");
        std::fs::write(&path, PROCESS).unwrap();
        let process = load_process(&path).unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        assert_eq!(capabilities.bounding().clone().unwrap().len(), 1);
    }

    #[test]
    fn what_is_well_formed_is_taken_as_it_is() {
        assert!(!load(r#"{"ociVersion": "1.2.0"}"#).unwrap().1);
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for config in [
            "",
            r#"{"ociVersion": 1}"#,
            r#"{"ociVersion": "1.2.0", "process": 1}"#,
        ] {
            let failure = load(config).unwrap_err();
            assert_eq!(failure.class, ErrorClass::InvalidArgument, "{config}");
        }
        assert!(load_spec(Path::new("/nonexistent")).is_err());
    }
}
