//! `lighter debug`: what was recorded of containers that asked for it.

mod core_dump;
mod profile;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use lighter_wasm::debugging::{DebugFolder, Recorded, Subject, Tool};
use serde::Serialize;

use crate::arguments::{DebugArguments, DebugTask};
use crate::text::{age, size, table};

pub fn run(arguments: DebugArguments) -> Result<(), String> {
    let folder = DebugFolder::new(arguments.records);
    let list = folder.list().map_err(|error| error.to_string())?;
    match arguments.task {
        DebugTask::Ls { json: true } => println!("{}", as_json(&list)?),
        DebugTask::Ls { json: false } => print!("{}", as_table(&list)),
        DebugTask::Show { container } => {
            for recorded in chosen(&list, &container)? {
                print!("{}", shown(recorded)?);
            }
        }
        DebugTask::Rm { containers } => {
            for container in &containers {
                for recorded in chosen(&list, container)? {
                    folder.remove(recorded).map_err(|error| error.to_string())?;
                    println!("removed {}", recorded.folder.display());
                }
            }
        }
    }
    Ok(())
}

/// The records of the only container whose id begins so, the newest first.
fn chosen<'a>(list: &'a [Recorded], prefix: &str) -> Result<Vec<&'a Recorded>, String> {
    let full = |recorded: &Recorded| {
        let Subject { namespace, id, .. } = &recorded.subject;
        format!("{namespace}/{id}")
    };
    let begins = |recorded: &&Recorded| {
        recorded.subject.id.starts_with(prefix) || full(recorded).starts_with(prefix)
    };
    let exact = |recorded: &&Recorded| recorded.subject.id == prefix || full(recorded) == prefix;
    let mut found: Vec<&Recorded> = list.iter().filter(exact).collect();
    if found.is_empty() {
        found = list.iter().filter(begins).collect();
    }
    let Some(first) = found.first() else {
        return Err(format!(
            "nothing was recorded of a container {prefix}: `lighter debug ls` lists what was"
        ));
    };
    match found.iter().find(|each| full(each) != full(first)) {
        None => Ok(found),
        Some(other) => Err(format!(
            "{prefix} is not one container: there are {} and {}",
            full(first),
            full(other)
        )),
    }
}

fn as_table(list: &[Recorded]) -> String {
    let title = ["CONTAINER", "POD", "BEGUN", "RUNS", "RECORDED"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for recorded in list {
        let files: Vec<String> = recorded
            .files
            .iter()
            .map(|(tool, bytes)| format!("{tool} ({})", size(*bytes)))
            .collect();
        let id = &recorded.subject.id;
        rows.push(vec![
            id.get(..13).unwrap_or(id).to_owned(),
            recorded
                .subject
                .pod
                .clone()
                .unwrap_or_else(|| "-".to_owned()),
            age(recorded.begun),
            if recorded.in_use { "yes" } else { "no" }.to_owned(),
            files.join(", "),
        ]);
    }
    table(&rows)
}

/// A record for programs.
#[derive(Serialize)]
struct Row<'a> {
    namespace: &'a str,
    id: &'a str,
    pod: Option<&'a str>,
    program: &'a str,
    running: bool,
    coredump: Option<PathBuf>,
    profile: Option<PathBuf>,
}

fn as_json(list: &[Recorded]) -> Result<String, String> {
    let rows: Vec<Row<'_>> = list
        .iter()
        .map(|recorded| Row {
            namespace: &recorded.subject.namespace,
            id: &recorded.subject.id,
            pod: recorded.subject.pod.as_deref(),
            program: &recorded.subject.program,
            running: recorded.in_use,
            coredump: recorded.path(Tool::CoreDump),
            profile: recorded.path(Tool::Profile),
        })
        .collect();
    serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())
}

/// All of a file, which its guest may have made as long as it liked: at most `most` bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > most {
        return Err(format!(
            "it is longer than any that Lighter writes, {}",
            size(most)
        ));
    }
    Ok(bytes)
}

fn shown(recorded: &Recorded) -> Result<String, String> {
    let subject = &recorded.subject;
    let pod = subject.pod.as_deref().unwrap_or("no pod");
    let mut text = format!(
        "{} ({pod}), {}, begun {}\n",
        subject.id,
        subject.program,
        age(recorded.begun)
    );
    for (tool, bytes) in &recorded.files {
        let path = recorded.folder.join(tool.file());
        text.push_str(&format!("{tool}: {}, {}\n", path.display(), size(*bytes)));
        let summary = match tool {
            Tool::CoreDump => read(&path, core_dump::MAX_BYTES).and_then(|bytes| {
                core_dump::summary(&bytes)
                    .map_err(|error| format!("it is no whole core dump: {error}"))
            }),
            Tool::Profile => read(&path, profile::MAX_BYTES)
                .map(|bytes| profile::summary(&String::from_utf8_lossy(&bytes))),
        };
        let summary = summary.map_err(|error| format!("{}: {error}", path.display()))?;
        // Names in it are the guest's: none may steer the terminal.
        for line in summary.lines() {
            let line = line.replace(char::is_control, "_");
            text.push_str(&format!("    {line}\n"));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap(), [7; 100]);
        assert!(read(&path, 99).unwrap_err().contains("longer than any"));
    }
}
