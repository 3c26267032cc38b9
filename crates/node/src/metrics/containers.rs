//! The guests' containers on this node, and what they have counted.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lighter_core::{
    COUNTERS_BYTES, COUNTERS_FILE, Count, ENDED_FOLDER, KEPT_FOR, ProcessTimes, STATE_FILE,
    Snapshot,
};
use serde::Deserialize;

/// Most of what is read of a state file, in bytes: it holds the container's annotations.
const MAX_STATE: u64 = 4 << 20;
/// Most characters of a label's value.
const MAX_VALUE: usize = 256;

/// A guest's container.
#[derive(Clone, Debug)]
pub struct Container {
    /// What it is called, by labels' names. Empty values are those that nobody gave.
    pub labels: Vec<(&'static str, String)>,
    pub counters: Snapshot,
    /// Whether its guest's process is there.
    pub runs: bool,
    /// What that process has used; `None` when it was killed and nobody knows any more.
    pub processor: Option<Duration>,
}

impl Container {
    pub fn get(&self, count: Count) -> u64 {
        self.counters.get(count)
    }
}

/// The part of libcontainer's state that is of use here.
#[derive(Deserialize)]
struct State {
    pid: Option<i32>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// All containers that have counters, in the order of their names.
///
/// # Errors
/// When the folder cannot be read. A container that goes meanwhile is left out, and there is
/// no folder before the first container.
pub fn all(root: &Path) -> io::Result<Vec<Container>> {
    let mut found = Vec::new();
    let mut present = HashSet::new();
    for (namespace, folder) in folders(root)? {
        for (id, folder) in folders(&folder)? {
            let page = read(&folder, COUNTERS_FILE, COUNTERS_BYTES as u64);
            let state = read(&folder, STATE_FILE, MAX_STATE);
            let Some((page, state)) = page.zip(state) else {
                continue;
            };
            found.extend(container(&namespace, &id, &page, &state));
            present.insert(format!("{namespace}:{id}"));
        }
    }
    // One that Docker has started again, say, is there with what it counts now.
    found.extend(ended(&root.join(ENDED_FOLDER), &present));
    Ok(found)
}

/// The labels of a container, if it is there or was a short time ago.
pub fn labels_of(root: &Path, namespace: &str, id: &str) -> Option<Vec<(&'static str, String)>> {
    let is_name = |name: &str| !name.contains('/') && !name.starts_with('.');
    if !is_name(namespace) || !is_name(id) {
        return None;
    }
    let present = read(&root.join(namespace).join(id), STATE_FILE, MAX_STATE);
    let state = present.or_else(|| {
        let ended = root.join(ENDED_FOLDER);
        let name = format!("{namespace}:{id}");
        let mut bytes = read(&ended, &name, COUNTERS_BYTES as u64 + MAX_STATE)?;
        (bytes.len() > COUNTERS_BYTES).then(|| bytes.split_off(COUNTERS_BYTES))
    })?;
    let state: State = serde_json::from_slice(&state).ok()?;
    Some(labels(namespace, id, &state.annotations))
}

/// Those that were removed a short time ago, but the ones that are there again.
fn ended(folder: &Path, present: &HashSet<String>) -> Vec<Container> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let modified = entry.metadata().and_then(|file| file.modified());
            modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < KEPT_FOR))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !present.contains(name))
        .collect();
    names.sort();
    let read = |name: &String| {
        let (namespace, id) = name.split_once(':')?;
        let bytes = read(folder, name, COUNTERS_BYTES as u64 + MAX_STATE)?;
        let (page, state) = bytes.split_at_checked(COUNTERS_BYTES)?;
        container(namespace, id, page, state)
    };
    names.iter().filter_map(read).collect()
}

/// The folders in a folder, with their names, but hidden ones.
fn folders(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut folders: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.path())
        })
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    folders.sort();
    Ok(folders)
}

fn container(namespace: &str, id: &str, page: &[u8], state: &[u8]) -> Option<Container> {
    let counters = Snapshot::of(page)?;
    let state: State = serde_json::from_slice(state).ok()?;
    let times = state
        .pid
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .and_then(|text| ProcessTimes::of_stat(&text))
        // Another process may have the number by now.
        .filter(|times| times.started == counters.get(Count::Started));
    let at_end = Duration::from_nanos(counters.get(Count::CpuAtEnd));
    Some(Container {
        labels: labels(namespace, id, &state.annotations),
        runs: times.is_some(),
        processor: times
            .map(|times| times.processor)
            .or((!at_end.is_zero()).then_some(at_end)),
        counters,
    })
}

fn read(folder: &Path, name: &str, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(folder.join(name)).ok()?;
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The names that Kubernetes has for a container, which CRI puts into its annotations; with
/// Docker and ctr it has an id only.
fn labels(
    namespace: &str,
    id: &str,
    annotations: &HashMap<String, String>,
) -> Vec<(&'static str, String)> {
    let named = |name: &str| {
        let value = annotations.get(&format!("io.kubernetes.cri.{name}"));
        value.map(String::as_str).unwrap_or_default()
    };
    [
        ("namespace", named("sandbox-namespace")),
        ("pod", named("sandbox-name")),
        ("container", named("container-name")),
        ("image", named("image-name")),
        ("containerd_namespace", namespace),
        ("id", id),
        ("runtime", "wasmtime"),
    ]
    .map(|(name, value)| (name, value.chars().take(MAX_VALUE).collect()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, bytes: &[u8]) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn what_is_no_guests_container_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let none = root.path().join("none");
        assert!(all(&none).unwrap().is_empty());
        let folder = |name: &str| root.path().join("default").join(name);
        file(&folder("native"), STATE_FILE, b"{}");
        file(&folder("half"), COUNTERS_FILE, &[0; 7]);
        file(&folder("broken"), COUNTERS_FILE, &[0; COUNTERS_BYTES]);
        file(&folder("broken"), STATE_FILE, b"{");
        file(&folder("good"), COUNTERS_FILE, &[0; COUNTERS_BYTES]);
        file(&folder("good"), STATE_FILE, br#"{"pid": 1}"#);
        file(root.path(), "a file", b"");
        let found = all(root.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].labels.contains(&("id", "good".to_owned())));
        assert!(!found[0].runs, "process 1 has not been started at 0");
        assert_eq!(found[0].processor, None);
    }

    #[test]
    fn those_that_were_removed_are_there_for_a_while() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(ENDED_FOLDER);
        let bytes = [&[0; COUNTERS_BYTES], br#"{"pid": 1}"#.as_slice()].concat();
        file(&folder, "default:now", &bytes);
        file(&folder, "default:long-ago", &bytes);
        file(&folder, "default:cut", &bytes[..COUNTERS_BYTES - 1]);
        file(&folder, "no name", &bytes);
        let old = File::options()
            .write(true)
            .open(folder.join("default:long-ago"));
        let time = std::time::SystemTime::now() - KEPT_FOR;
        old.unwrap().set_modified(time).unwrap();
        let found = all(root.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].labels.contains(&("id", "now".to_owned())));
        assert_eq!(
            labels_of(root.path(), "default", "now").as_ref(),
            Some(&found[0].labels)
        );
        assert_eq!(labels_of(root.path(), "default", "cut"), None);
        assert_eq!(labels_of(root.path(), "..", "default"), None);
        assert!(!found[0].runs);
        let again = root.path().join("default").join("now");
        file(&again, COUNTERS_FILE, &[0; COUNTERS_BYTES]);
        file(&again, STATE_FILE, br#"{"pid": 1}"#);
        assert_eq!(all(root.path()).unwrap().len(), 1, "it was started again");
    }

    #[test]
    fn a_process_that_runs_is_told_by_its_start() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("default").join("this");
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let started = ProcessTimes::of_stat(&stat).unwrap().started;
        let mut page = vec![0; COUNTERS_BYTES];
        let field = Count::Started as usize * 8;
        page[field..field + 8].copy_from_slice(&started.to_ne_bytes());
        file(&folder, COUNTERS_FILE, &page);
        let state = format!(r#"{{"pid": {}}}"#, std::process::id());
        file(&folder, STATE_FILE, state.as_bytes());
        let found = all(root.path()).unwrap();
        assert!(found[0].runs && found[0].processor.is_some());
    }

    #[test]
    fn labels_are_those_of_the_pod_and_short() {
        let annotations = [
            ("io.kubernetes.cri.sandbox-name", "shop-1".to_owned()),
            ("io.kubernetes.cri.image-name", "i".repeat(9999)),
        ];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value));
        let labels = labels("k8s.io", "c", &annotations.into());
        let value = |name| {
            let label = labels.iter().find(|(label, _)| *label == name);
            label.map(|(_, value)| value.as_str()).unwrap()
        };
        assert_eq!(value("pod"), "shop-1");
        assert_eq!(value("namespace"), "");
        assert_eq!(value("containerd_namespace"), "k8s.io");
        assert_eq!(value("image").len(), MAX_VALUE);
    }
}
