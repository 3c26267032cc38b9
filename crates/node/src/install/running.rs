//! Pods that run on the installed shim.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use lighter_core::{STATE_FILE, STATE_ROOT};
use serde::Deserialize;

use super::SHIM;
use super::{binaries, files};

/// The part of a container's state that names it.
#[derive(Deserialize)]
struct State {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// What runs on the shim below this prefix: a name for each shim, `namespace/pod` where there is one.
pub fn pods(prefix: &Path) -> Vec<String> {
    let shim = files::target(&binaries::folder(prefix)).join(SHIM);
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut names: Vec<String> = folders
        .filter_map(|folder| {
            let line = fs::read_to_string(folder.path().join("cmdline")).ok()?;
            let words: Vec<&str> = line.split('\0').collect();
            // Its program has no path (decision 0023), but it is called by the one that it had.
            // Containers' processes have titles of their own.
            if Path::new(words.first()?) != shim {
                return None;
            }
            let after = |flag: &str| {
                let place = words
                    .iter()
                    .position(|word| word.trim_start_matches('-') == flag)?;
                words.get(place + 1).copied()
            };
            words.contains(&"serve").then_some(())?;
            Some(name(after("namespace")?, after("id")?))
        })
        .collect();
    names.sort();
    names
}

/// The processes that run this file, or the one that was there before.
pub fn processes(program: &Path) -> Vec<i32> {
    let dir = files::target(program.parent().unwrap_or(Path::new("/")));
    let program = dir.join(program.file_name().unwrap_or_default());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (executable(&entry.path())? == program).then_some(pid)
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// The file that a process runs. After an upgrade it has no name any more.
fn executable(process: &Path) -> Option<PathBuf> {
    let program = fs::read_link(process.join("exe")).ok()?;
    let name = program.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).into())
}

fn name(namespace: &str, id: &str) -> String {
    let file = Path::new(STATE_ROOT)
        .join(namespace)
        .join(id)
        .join(STATE_FILE);
    let state = fs::read(file).ok();
    let state: Option<State> = state.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let annotation = |key: &str| {
        let state = state.as_ref()?;
        state
            .annotations
            .get(&format!("io.kubernetes.cri.{key}"))
            .cloned()
    };
    match (annotation("sandbox-namespace"), annotation("sandbox-name")) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => format!("{namespace}/{id}"),
    }
}
