//! A node's containerd as the doctor looks at it.

use std::path::{Path, PathBuf};

use super::conflict::is_foreign;
use super::containerd::Containerd;
use super::effective::Handler;
use super::layout::Version;
use super::section::Section;
use super::{HANDLER, SHIM, cri};

/// What is there.
#[derive(Debug)]
pub struct Inspection {
    /// The version, and the configuration.
    pub daemon: String,
    /// What the configuration lacks of the handler.
    pub missing: Vec<String>,
    /// Whether the running containerd knows all of the handler.
    pub known: Result<(), String>,
    /// The shim that containerd would start.
    pub shim: Option<PathBuf>,
    /// Whether that is Lighter's.
    pub is_own: bool,
    /// Where it has looked for that.
    pub searched: Vec<PathBuf>,
    /// Whether runc's handlers use systemd's cgroup driver.
    pub others_use_systemd: bool,
    /// Whether our handler does.
    pub uses_systemd: bool,
    pub snapshotter: Option<String>,
}

/// Looks at the containerd with this configuration, or at the one that runs.
pub fn inspect(config: Option<&Path>) -> Result<Inspection, String> {
    let containerd = Containerd::find(config)?;
    let version = containerd.version;
    let config = containerd.config.display();
    if version < Version::OLDEST {
        return Err(format!(
            "{version} is too old: Lighter needs {} or later",
            Version::OLDEST
        ));
    }
    let effective = containerd.effective()?;
    if !effective.has_cri() {
        return Err(format!(
            "its CRI is off, which Kubernetes needs: take it out of disabled_plugins in {config}"
        ));
    }
    let Some(process) = &containerd.process else {
        return Err(format!("{version} does not run: start it"));
    };
    let section = Section {
        systemd: effective.others_use_systemd(),
        ..Section::default()
    };
    let lacks = |handler: Option<&Handler>| match handler {
        None => vec![format!("there is no handler {HANDLER}")],
        Some(handler) => section.missing(handler),
    };
    let handler = effective.handler();
    let known = cri::handler(&effective.socket()).and_then(|handler| {
        let missing = lacks(handler.as_ref());
        missing
            .is_empty()
            .then_some(())
            .ok_or_else(|| missing.join("; "))
    });
    let (shim, searched) = find_shim(&containerd, handler.as_ref());
    Ok(Inspection {
        daemon: format!("{version}, process {}, {config}", process.pid),
        missing: lacks(handler.as_ref()),
        known,
        is_own: shim.as_deref().is_some_and(|shim| !is_foreign(shim)),
        shim,
        searched,
        others_use_systemd: effective.others_use_systemd(),
        uses_systemd: handler.is_some_and(|handler| handler.systemd_cgroup),
        snapshotter: effective.snapshotter().map(str::to_owned),
    })
}

/// Where the shim of a handler is, and where it might have been.
pub(super) fn find_shim(
    containerd: &Containerd,
    handler: Option<&Handler>,
) -> (Option<PathBuf>, Vec<PathBuf>) {
    let path = handler.map(|handler| handler.runtime_path.as_str());
    let searched: Vec<PathBuf> = match path {
        Some(path) if !path.is_empty() => vec![path.into()],
        _ => containerd
            .search_path()
            .map(|folder| folder.join(SHIM))
            .collect(),
    };
    let found = searched.iter().find(|file| file.is_file()).cloned();
    (found, searched)
}
