//! Refuses specs that runc refuses and libcontainer takes: the container would lack what its author
//! asked for, and nobody would notice.

use std::path::Path;

use lighter_core::Failure;
use oci_spec::runtime::Spec;

/// # Errors
/// InvalidArgument, in runc's words.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    check_namespaces(spec)?;
    check_cwd(spec)?;
    let label = spec
        .process()
        .as_ref()
        .and_then(|process| process.selinux_label().as_deref());
    check_label(label, Path::new("/sys/fs/selinux/enforce").exists())
}

fn check_namespaces(spec: &Spec) -> Result<(), Failure> {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    for (index, namespace) in namespaces.iter().enumerate() {
        let earlier = &namespaces[..index];
        if earlier.iter().any(|other| other.typ() == namespace.typ()) {
            return Err(Failure::invalid(format!(
                "malformed spec file: duplicated ns \"{}\"",
                namespace.typ()
            )));
        }
    }
    Ok(())
}

fn check_cwd(spec: &Spec) -> Result<(), Failure> {
    match spec.process() {
        Some(process) if !process.cwd().is_absolute() => Err(Failure::invalid(format!(
            "cwd must be an absolute path, and {:?} is not",
            process.cwd()
        ))),
        _ => Ok(()),
    }
}

fn check_label(label: Option<&str>, has_selinux: bool) -> Result<(), Failure> {
    match label {
        Some(label) if !label.is_empty() && !has_selinux => Err(Failure::invalid(
            "selinux label is specified in config, but selinux is disabled or not supported",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, ProcessBuilder,
        SpecBuilder,
    };

    fn spec(kinds: &[LinuxNamespaceType]) -> Spec {
        let namespaces: Vec<LinuxNamespace> = kinds
            .iter()
            .map(|kind| LinuxNamespaceBuilder::default().typ(*kind).build().unwrap())
            .collect();
        let linux = LinuxBuilder::default()
            .namespaces(namespaces)
            .build()
            .unwrap();
        SpecBuilder::default().linux(linux).build().unwrap()
    }

    #[test]
    fn a_namespace_is_named_once() {
        use LinuxNamespaceType::{Mount, Pid};
        assert_eq!(check_namespaces(&spec(&[Mount, Pid])), Ok(()));
        let failure = check_namespaces(&spec(&[Mount, Pid, Mount])).unwrap_err();
        assert!(failure.message.contains("duplicated ns"), "{failure}");
    }

    #[test]
    fn a_working_directory_is_absolute() {
        let process = |cwd: &str| ProcessBuilder::default().cwd(cwd).build().unwrap();
        let spec = |cwd: &str| {
            SpecBuilder::default()
                .process(process(cwd))
                .build()
                .unwrap()
        };
        assert_eq!(check_cwd(&spec("/a")), Ok(()));
        assert!(check_cwd(&spec("a")).is_err());
    }

    #[test]
    fn a_label_needs_selinux() {
        assert!(check_label(Some("system_u:system_r:container_t:s0"), false).is_err());
        for (label, has_selinux) in [(Some("a:b:c"), true), (Some(""), false), (None, false)] {
            assert_eq!(check_label(label, has_selinux), Ok(()));
        }
    }
}
