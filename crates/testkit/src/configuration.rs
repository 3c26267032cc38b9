//! What a private containerd is told.

use std::path::Path;

use crate::containerd::Version;

/// Plugins that the tests do not need: without them containerd starts in a fraction of the
/// time and touches nothing outside of its folder. Unknown names are ignored.
const DISABLED_PLUGINS: &[&str] = &[
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
];

/// The text of `config.toml` for a daemon in the folder `place`, with a log of this level.
pub(crate) fn configuration(place: &Path, version: Version, level: &str) -> String {
    let place = place.display();
    let format = if version == Version::V2 { 3 } else { 2 };
    format!(
        r#"version = {format}
root = "{place}/root"
state = "{place}/state"
temp = "{place}/temp"
oom_score = 0
disabled_plugins = {DISABLED_PLUGINS:?}

[grpc]
address = "{place}/containerd.sock"

[ttrpc]
address = "{place}/containerd.sock.ttrpc"

[debug]
level = "{level}"

[plugins."io.containerd.internal.v1.opt"]
path = "{place}/opt"
"#
    )
}
