//! `-v` and `-info`.

use std::error::Error;
use std::io::Write;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::RuntimeInfo;

/// Type that containerd decodes the features as.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints name and version.
pub(crate) fn version() -> Result<(), Box<dyn Error>> {
    println!("containerd-shim-wasmtime-v1:");
    println!("  Version:  {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Writes a `RuntimeInfo`. Needs no namespace, no bundle and no containerd.
pub(crate) fn info() -> Result<(), Box<dyn Error>> {
    let mut info = RuntimeInfo::new();
    info.name = "io.containerd.wasmtime.v1".to_owned();
    info.version.mut_or_insert_default().version = env!("CARGO_PKG_VERSION").to_owned();
    let mut features = Any::new();
    features.type_url = FEATURES_TYPE.to_owned();
    features.value = serde_json::to_vec(&features_json())?;
    info.features = Some(features).into();
    std::io::stdout().write_all(&info.write_to_bytes()?)?;
    Ok(())
}

/// What the runtime supports (OCI runtime-spec, `features.md`).
fn features_json() -> serde_json::Value {
    serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": lighter_container::mount_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": { "v1": true, "v2": true, "systemd": true },
            "seccomp": { "enabled": true },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } }
        }
    })
}
