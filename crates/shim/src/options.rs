//! The options of a node and of a container, from where containerd puts them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use lighter_core::{ErrorClass, Failure, RuntimeOptions};
use lighter_task::runtime_options;
use lighter_trace::Settings;
use lighter_wasm::{NodeOptions, Options, Resources};
use oci_spec::runtime::Spec;

/// CRI's name for the container in its pod.
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

/// The kernel's default of `cpu.cfs_period_us`, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Longest file of options that is read.
const LONGEST: u64 = 1 << 20;

/// Where a container's bundle keeps the node's options as they were at its creation: an exec
/// gets none from containerd.
fn path(bundle: &Path) -> PathBuf {
    bundle.join("node-options.toml")
}

/// The node's options that came with a Create, which are kept for later.
pub(crate) fn keep(options: &RuntimeOptions, bundle: &Path) -> Result<NodeOptions, Failure> {
    let text = text_of(options).map_err(|error| {
        Failure::invalid(format!(
            "the runtime handler's ConfigPath {}: {error}",
            options.path
        ))
    })?;
    let parsed = parse(&text)?;
    if !text.is_empty() {
        let path = path(bundle);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::internal(format!("{}: {error}", path.display())))?;
    }
    Ok(parsed)
}

/// Whether and how the calls of this shim are traced, by the options that came with `start` and by
/// containerd's environment. Options that cannot be read are Create's to refuse.
pub(crate) fn tracing(options: Option<&Any>) -> Option<Settings> {
    let options = runtime_options(options).ok();
    let text = options.and_then(|options| text_of(&options).ok());
    let node = text.and_then(|text| NodeOptions::parse(&text).ok());
    let traces = node.and_then(|node| node.traces);
    Settings::choose(traces.as_ref(), |name| std::env::var(name).ok())
}

/// What [`keep`] has kept.
pub(crate) fn kept(bundle: &Path) -> Result<NodeOptions, Failure> {
    match read(&path(bundle)) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(NodeOptions::default()),
        Err(error) => Err(Failure::internal(format!(
            "{}: {error}",
            path(bundle).display()
        ))),
    }
}

/// What holds for the container of this spec, with its annotations.
pub(crate) fn for_container(node: &NodeOptions, spec: &Spec) -> Result<Options, Failure> {
    let annotations: Vec<(String, String)> = spec
        .annotations()
        .iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let container = annotations
        .iter()
        .find(|(name, _)| name == CONTAINER_NAME)
        .map(|(_, value)| value.as_str());
    let mut options = node
        .for_container(&annotations, container)
        .map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))?;
    options.resources = resources(spec);
    Ok(options)
}

/// The limits of the spec; what is not above zero is none.
fn resources(spec: &Spec) -> Resources {
    let limits = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let memory = limits.and_then(|limits| limits.memory().as_ref()?.limit());
    let cpu = limits.and_then(|limits| limits.cpu().as_ref());
    let quota = cpu.and_then(|cpu| cpu.quota()).and_then(positive);
    let period = cpu
        .and_then(|cpu| cpu.period())
        .filter(|period| *period > 0)
        .unwrap_or(CPU_PERIOD);
    Resources {
        memory_bytes: memory.and_then(positive),
        cpu_millis: quota.map(|quota| quota.saturating_mul(1000) / period),
        pids: limits
            .and_then(|limits| limits.pids().as_ref())
            .and_then(|pids| positive(pids.limit())),
    }
}

/// The options' TOML.
fn text_of(options: &RuntimeOptions) -> io::Result<String> {
    if options.path.is_empty() {
        Ok(options.body.clone())
    } else {
        read(Path::new(&options.path))
    }
}

fn parse(text: &str) -> Result<NodeOptions, Failure> {
    NodeOptions::parse(text)
        .map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_for_an_exec() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(kept(bundle.path()).unwrap(), NodeOptions::default());
        let options = RuntimeOptions {
            path: String::new(),
            body: "tcp = false".to_owned(),
        };
        let parsed = keep(&options, bundle.path()).unwrap();
        assert!(!parsed.tcp);
        assert_eq!(kept(bundle.path()).unwrap(), parsed);
    }

    #[test]
    fn a_missing_file_of_options_is_named() {
        let bundle = tempfile::tempdir().unwrap();
        let options = RuntimeOptions {
            path: "/nonexistent/options.toml".to_owned(),
            body: String::new(),
        };
        let error = keep(&options, bundle.path()).unwrap_err();
        assert!(
            error.message.contains("/nonexistent/options.toml"),
            "{error}"
        );
    }
}
