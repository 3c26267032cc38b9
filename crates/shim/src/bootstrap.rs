//! What containerd says to `start` on stdin, and how it wants the answer.
//!
//! containerd 1.6 takes a plain address only; 1.7 and 2.0 to 2.2 take a plain address as task
//! API version 2, which the shim speaks too. So everybody before 2.3 gets the plain address.
//! 2.3 sends `BootstrapParams` and wants a `BootstrapResult`. Before 2.3 stdin is an `Any` with
//! the runtime's options; both decode as each other, so they are told apart by content.

use std::io::Read;
use std::path::PathBuf;

use containerd_shim_protos::TASK_API_VERSION;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};
use lighter_task::are_runtime_options;

/// Most of what is read from stdin, as in containerd.
const MAX_INPUT: u64 = 10 << 20;

/// How `start` was called.
#[derive(Debug, PartialEq)]
pub(crate) struct Call {
    /// containerd's ttrpc socket, for events.
    pub(crate) ttrpc_address: String,
    /// Folder in which the shim's socket has to be.
    pub(crate) socket_folder: Option<PathBuf>,
    /// The options of the runtime handler, and whatever else may be here.
    pub(crate) options: Option<Any>,
    /// Whether the answer is a `BootstrapResult`.
    is_bootstrap: bool,
}

impl Call {
    /// Reads stdin to its end. `id` and `namespace` are those of the command line.
    pub(crate) fn read(id: &str, namespace: &str) -> std::io::Result<Self> {
        let mut input = Vec::new();
        std::io::stdin().take(MAX_INPUT).read_to_end(&mut input)?;
        let from_environment = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
        Ok(Self::decode(&input, id, namespace, from_environment))
    }

    fn decode(input: &[u8], id: &str, namespace: &str, from_environment: String) -> Self {
        let params = BootstrapParams::parse_from_bytes(input)
            .ok()
            .filter(|params| params.instance_id == id && params.namespace == namespace);
        match params {
            Some(params) if !id.is_empty() => Self {
                ttrpc_address: params.containerd_ttrpc_address,
                socket_folder: params
                    .socket_dir
                    .filter(|folder| !folder.is_empty())
                    .map(PathBuf::from),
                options: options_in(params.extensions),
                is_bootstrap: true,
            },
            _ => Self {
                ttrpc_address: from_environment,
                socket_folder: None,
                options: Any::parse_from_bytes(input).ok(),
                is_bootstrap: false,
            },
        }
    }

    /// What `start` prints for a shim that listens at `address`.
    pub(crate) fn answer(&self, address: &str) -> Result<Vec<u8>, protobuf::Error> {
        if !self.is_bootstrap {
            return Ok(address.as_bytes().to_vec());
        }
        let mut result = BootstrapResult::new();
        result.version = TASK_API_VERSION;
        result.address = address.to_owned();
        result.protocol = "ttrpc".to_owned();
        result.write_to_bytes()
    }
}

fn options_in(extensions: Vec<Extension>) -> Option<Any> {
    let mut values = extensions
        .into_iter()
        .filter_map(|extension| extension.value.0);
    values
        .find(|value| are_runtime_options(value))
        .map(|value| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_older_versions_are_not_taken_for_params() {
        let mut any = Any::new();
        any.type_url = "runtimeoptions.v1.Options".to_owned();
        any.value = b"SystemdCgroup".to_vec();
        for input in [any.write_to_bytes().unwrap(), Vec::new()] {
            let call = Call::decode(&input, "a", "default", "/run/c.ttrpc".into());
            assert!(!call.is_bootstrap);
            assert_eq!(call.ttrpc_address, "/run/c.ttrpc");
            assert_eq!(call.answer("unix:///s").unwrap(), b"unix:///s");
            assert_eq!(
                call.options
                    .and_then(|options| options.write_to_bytes().ok()),
                Some(input)
            );
        }
    }

    #[test]
    fn what_is_no_message_is_no_options() {
        let call = Call::decode(b"\xff\xff", "a", "default", String::new());
        assert!(!call.is_bootstrap && call.options.is_none());
    }

    #[test]
    fn params_of_containerd_2_3_are_answered_in_kind() {
        let mut params = BootstrapParams::new();
        params.instance_id = "a".to_owned();
        params.namespace = "default".to_owned();
        params.containerd_ttrpc_address = "/run/new.ttrpc".to_owned();
        params.socket_dir = Some("/run/sockets".to_owned());
        let mut options = Any::new();
        options.type_url = "runtimeoptions.v1.Options".to_owned();
        for value in [Any::new(), options.clone()] {
            let mut extension = Extension::new();
            extension.value = Some(value).into();
            params.extensions.push(extension);
        }
        let input = params.write_to_bytes().unwrap();
        let call = Call::decode(&input, "a", "default", String::new());
        assert_eq!(call.ttrpc_address, "/run/new.ttrpc");
        assert_eq!(call.socket_folder, Some("/run/sockets".into()));
        assert_eq!(call.options, Some(options));
        let answer = BootstrapResult::parse_from_bytes(&call.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((answer.version, answer.address.as_str()), (3, "unix:///s"));
    }
}
