//! The command line, as containerd writes it (containerd `docs/runtime-v2.md`, "Flags").

use std::path::PathBuf;

use lighter_core::{ContainerId, InvalidContainerId};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Delete,
    /// What `start` executes: the shim itself.
    Serve,
    Info,
    Version,
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) action: Action,
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) address: String,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) debug: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error(
        "unknown flag {0}; usage: containerd-shim-wasmtime-v1 -namespace NAMESPACE -id ID [-address ADDRESS] [-bundle PATH] [-debug] start|delete, or -v, or -info"
    )]
    UnknownFlag(String),
    #[error("flag -{0} needs a value")]
    NoValue(String),
    #[error(
        "no action: this program is started by containerd (start, delete, -info) and prints its version with -v"
    )]
    NoAction,
    #[error("unknown action {0:?}: start and delete are known")]
    UnknownAction(String),
}

impl Arguments {
    /// Parses Go's flag syntax: `-flag value`, `-flag=value`, one or two dashes.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, ArgumentError> {
        let mut parsed = Self {
            action: Action::Start,
            id: String::new(),
            namespace: String::new(),
            address: String::new(),
            bundle: None,
            debug: false,
        };
        let mut action = None;
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let Some(flag) = argument.strip_prefix('-') else {
                action = Some(match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    "serve" => Action::Serve,
                    _ => return Err(ArgumentError::UnknownAction(argument)),
                });
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "v" | "version" => action = Some(Action::Version),
                "info" => action = Some(Action::Info),
                "debug" => parsed.debug = inline.as_deref() != Some("false"),
                "id" | "namespace" | "address" | "bundle" | "publish-binary" | "socket" => {
                    let value = inline
                        .or_else(|| arguments.next())
                        .ok_or_else(|| ArgumentError::NoValue(name.to_owned()))?;
                    match name {
                        "id" => parsed.id = value,
                        "namespace" => parsed.namespace = value,
                        "address" => parsed.address = value,
                        "bundle" => parsed.bundle = Some(value.into()),
                        _ => {}
                    }
                }
                _ => return Err(ArgumentError::UnknownFlag(argument)),
            }
        }
        parsed.action = action.ok_or(ArgumentError::NoAction)?;
        Ok(parsed)
    }

    /// Namespace and id, fit to be file names.
    pub(crate) fn container(&self) -> Result<(ContainerId, ContainerId), InvalidContainerId> {
        Ok((
            ContainerId::parse(&self.namespace)?,
            ContainerId::parse(&self.id)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_lines_of_containerd_are_understood() {
        let start = parse(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id a -debug start",
        )
        .unwrap();
        assert_eq!(start.action, Action::Start);
        assert_eq!(
            (start.id.as_str(), start.namespace.as_str()),
            ("a", "default")
        );
        assert!(start.debug);
        let delete = parse("--namespace=k8s.io --id=b -bundle /run/b delete").unwrap();
        assert_eq!(delete.action, Action::Delete);
        assert_eq!(delete.bundle, Some("/run/b".into()));
        let serve = parse("-namespace default -id a -address /run/c.sock serve").unwrap();
        assert_eq!(serve.action, Action::Serve);
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        assert_eq!(parse("-info").unwrap().action, Action::Info);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(matches!(parse(""), Err(ArgumentError::NoAction)));
        assert!(matches!(parse("-id"), Err(ArgumentError::NoValue(_))));
        assert!(matches!(
            parse("restart"),
            Err(ArgumentError::UnknownAction(_))
        ));
        assert!(matches!(
            parse("-frobnicate start"),
            Err(ArgumentError::UnknownFlag(_))
        ));
    }

    #[test]
    fn an_id_that_is_a_path_is_refused() {
        assert!(
            parse("-namespace default -id ../../etc delete")
                .unwrap()
                .container()
                .is_err()
        );
    }
}
