//! What a private containerd is told.

use std::path::Path;

use crate::containerd::Version;
use crate::run::WASMTIME;

/// Plugins that the tests do not need: without them containerd starts in a fraction of the
/// time and touches nothing outside of its folder. Unknown names are ignored.
const DISABLED_PLUGINS: &[&str] = &[
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
];

/// The plugins of the CRI, by the names that they have in one version or another.
const CRI_PLUGINS: &[&str] = &[
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
];

/// The name of the image of pods' own containers.
pub(crate) const PAUSE: &str = "docker.io/lighter/pause:latest";

/// What is configured of the CRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CriPlugin {
    /// It is off.
    Off,
    /// It is on, with Lighter's handler.
    On,
    /// It is on, without one.
    Bare,
}

/// What follows the configuration of a daemon whose CRI is on. Tests' pods are in the host's
/// network, so that no network plugin is needed.
fn cri(place: &Path, version: Version, cri_plugin: CriPlugin) -> String {
    let place = place.display();
    // What a test may put there.
    let plugins = if version == Version::V2 {
        format!("bin_dirs = [\"{place}/cni-plugins\"]\n")
    } else {
        String::new()
    };
    // Up to 1.7 one plugin has it all.
    let (plugin, sandbox) = if version == Version::V2 {
        let table = r#"[plugins."io.containerd.cri.v1.images".pinned_images]"#;
        let sandbox = format!("{table}\nsandbox = \"{PAUSE}\"");
        ("io.containerd.cri.v1.runtime", sandbox)
    } else {
        let sandbox = format!("sandbox_image = \"{PAUSE}\"");
        ("io.containerd.grpc.v1.cri", sandbox)
    };
    let handler = match cri_plugin {
        CriPlugin::Off | CriPlugin::Bare => String::new(),
        CriPlugin::On => format!(
            r#"[plugins."{plugin}".containerd]
default_runtime_name = "wasmtime"
[plugins."{plugin}".containerd.runtimes.wasmtime]
runtime_type = "{WASMTIME}"
pod_annotations = ["run.oci.handler", "module.wasm.image/*", "lighter.dev/*"]
"#
        ),
    };
    format!(
        r#"
[plugins."{plugin}"]
# Pods ask for a score below the daemon's own, which takes CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
{sandbox}
[plugins."{plugin}".cni]
conf_dir = "{place}/cni"
{plugins}{handler}"#
    )
}

/// The text of `config.toml` for a daemon in the folder `place`, with a log of this level.
pub(crate) fn configuration(
    place: &Path,
    version: Version,
    level: &str,
    plugin: CriPlugin,
) -> String {
    let mut disabled = DISABLED_PLUGINS.to_vec();
    let cri = if plugin == CriPlugin::Off {
        disabled.extend(CRI_PLUGINS);
        String::new()
    } else {
        cri(place, version, plugin)
    };
    let place = place.display();
    let format = if version == Version::V2 { 3 } else { 2 };
    format!(
        r#"version = {format}
root = "{place}/root"
state = "{place}/state"
temp = "{place}/temp"
oom_score = 0
disabled_plugins = {disabled:?}

[grpc]
address = "{place}/containerd.sock"

[ttrpc]
address = "{place}/containerd.sock.ttrpc"

[debug]
level = "{level}"

[plugins."io.containerd.internal.v1.opt"]
path = "{place}/opt"
{cri}"#
    )
}
