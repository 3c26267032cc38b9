//! `delete`: removes what a container has left, without a shim.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use lighter_container::{ContainerLocation, remove};

use crate::arguments::Arguments;
use crate::socket;
use crate::workload::records;

/// containerd calls this when it cannot reach the shim, and after every normal delete. The
/// bundle is the working directory or `-bundle`. stdout carries the response only.
pub(crate) fn delete(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (namespace, id) = arguments.container()?;
    let bundle = match &arguments.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir()?,
    };
    let location = ContainerLocation {
        namespace,
        id,
        bundle: bundle.clone(),
    };
    remove(&location)?;
    records::settle(&location);
    remove_socket(&bundle);

    let mut response = DeleteResponse::new();
    // How it really ended nobody knows any more: the shim would have.
    response.exit_status = 137;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut exited_at = Timestamp::new();
    exited_at.seconds = now.as_secs().cast_signed();
    exited_at.nanos = now.subsec_nanos().cast_signed();
    response.exited_at = Some(exited_at).into();
    std::io::stdout().write_all(&response.write_to_bytes()?)?;
    Ok(())
}

/// A shim that was killed leaves its socket; another of the pod's containers may still be
/// served at it.
fn remove_socket(bundle: &Path) {
    let address = std::fs::read_to_string(bundle.join(socket::ADDRESS_FILE)).unwrap_or_default();
    if let Some(path) = address.strip_prefix("unix://").map(PathBuf::from) {
        socket::remove_stale(&path);
    }
}
