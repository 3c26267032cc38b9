//! What of another runtime an installation would take the place of, beside the files of the same name:
//! containerd finds a shim by its name, and a handler has one runtime.

use std::path::{Path, PathBuf};

use super::containerd::Containerd;
use super::effective::Handler;
use super::program::{Found, look_at};
use super::{HANDLER, RUNTIME_TYPE, SHIM, files};

/// Why an installation is refused unless it is to replace what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The handler starts something else.
    #[error(
        "the handler {HANDLER} of this containerd runs {runtime}, which is not Lighter's; give that handler another name (docs/guides/runwasi.md), or take its name until Lighter is uninstalled by --replace-foreign"
    )]
    Handler { runtime: String },
    /// Our shim would be found in the place of another.
    #[error("containerd would find Lighter's shim in the place of {}; install by --prefix /opt/lighter, where it does not look, or take its name until Lighter is uninstalled by --replace-foreign", shim.display())]
    Hides { shim: PathBuf },
}

/// Other runtimes' shims of our name that containerd finds, in the order in which it looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Before ours.
    pub first: Vec<PathBuf>,
    /// After ours, or without any of ours in its PATH.
    pub later: Vec<PathBuf>,
}

impl Others {
    /// Looks at the PATH of a containerd. `folder` is where ours goes.
    pub fn of(containerd: &Containerd, folder: &Path) -> Self {
        let own = files::target(folder);
        let mut seen = Vec::new();
        let mut others = Self::default();
        let mut is_later = !containerd.searches(folder);
        for searched in containerd.search_path() {
            let searched = files::target(&searched);
            if searched == own {
                is_later = true;
            } else if !seen.contains(&searched) && is_foreign(&searched.join(SHIM)) {
                let list = if is_later {
                    &mut others.later
                } else {
                    &mut others.first
                };
                list.push(searched.join(SHIM));
            }
            seen.push(searched);
        }
        others
    }
}

/// Whether there is a shim of this name that is not Lighter's. A link is what it leads to: containerd
/// executes that.
pub fn is_foreign(shim: &Path) -> bool {
    match look_at(&files::target(shim), None) {
        Ok(Found::Foreign(_)) | Err(_) => true,
        Ok(Found::Own { .. } | Found::Nothing) => false,
    }
}

/// What the first installation would take the place of. `handler` is the one of our name that is there,
/// and `shim` the file that it starts, with whether that is another's.
pub fn find(
    handler: Option<&Handler>,
    shim: Option<(&Path, bool)>,
    is_searched: bool,
    others: &Others,
) -> Option<Conflict> {
    if let Some(handler) = handler {
        let runtime = match shim {
            _ if ![RUNTIME_TYPE, ""].contains(&handler.runtime_type.as_str()) => {
                Some(handler.runtime_type.clone())
            }
            Some((shim, true)) => Some(shim.display().to_string()),
            _ => None,
        };
        if let Some(runtime) = runtime {
            return Some(Conflict::Handler { runtime });
        }
    }
    let hidden = others.later.first().filter(|_| is_searched);
    hidden.map(|shim| Conflict::Hides { shim: shim.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(runtime_type: &str) -> Handler {
        Handler {
            runtime_type: runtime_type.to_owned(),
            ..Handler::default()
        }
    }

    #[test]
    fn a_handler_of_another_runtime_is_a_conflict() {
        let others = Others::default();
        let own = handler(RUNTIME_TYPE);
        let shim = Path::new("/usr/bin/shim");
        for (handler, shim, conflict) in [
            (None, None, None),
            (Some(&own), None, None),
            (Some(&own), Some((shim, false)), None),
            (Some(&own), Some((shim, true)), Some("/usr/bin/shim")),
            (Some(&handler("")), None, None),
            (
                Some(&handler("io.containerd.runc.v2")),
                None,
                Some("io.containerd.runc.v2"),
            ),
        ] {
            let runtime = conflict.map(str::to_owned);
            let conflict = runtime.map(|runtime| Conflict::Handler { runtime });
            assert_eq!(find(handler, shim, true, &others), conflict);
        }
    }

    #[test]
    fn a_shim_that_ours_would_hide_is_a_conflict() {
        let shim = PathBuf::from("/usr/bin/shim");
        let later = Others {
            later: vec![shim.clone()],
            ..Others::default()
        };
        let hides = Some(Conflict::Hides { shim: shim.clone() });
        assert_eq!(find(None, None, true, &later), hides);
        // Ours is where containerd does not look, or behind theirs: the handler names its path.
        assert_eq!(find(None, None, false, &later), None);
        let first = Others {
            first: vec![shim],
            ..Others::default()
        };
        assert_eq!(find(None, None, true, &first), None);
    }
}
