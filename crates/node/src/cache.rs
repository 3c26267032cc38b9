//! `lighter cache`: what this node has compiled.

use std::time::SystemTime;

use lighter_wasm::CacheLimits;
use lighter_wasm::cache::Entry;
use serde::Serialize;

use crate::arguments::CacheTask;
use crate::node::Node;
use crate::text::{age, size, table};

pub fn run(node: &Node, task: CacheTask) -> Result<(), String> {
    let cache = &node.cache;
    match task {
        CacheTask::Ls { json } => {
            let entries = cache.list().map_err(|error| error.to_string())?;
            print!(
                "{}",
                if json {
                    as_json(&entries)?
                } else {
                    as_table(&entries)
                }
            );
        }
        CacheTask::Rm { digests } => {
            for digest in digests {
                let removed = cache.remove(&digest).map_err(|error| error.to_string())?;
                say_removed(&removed);
            }
        }
        CacheTask::Prune { max_bytes } => {
            let limit = max_bytes.unwrap_or(CacheLimits::default().bytes);
            let pruned = cache.prune(limit).map_err(|error| error.to_string())?;
            say_removed(&pruned.removed);
            println!("{} left", size(pruned.bytes));
            if pruned.bytes > limit {
                println!(
                    "{} kept although that is too much: in use",
                    pruned.kept_in_use
                );
            }
        }
        CacheTask::Verify => {
            let damaged = cache.verify().map_err(|error| error.to_string())?;
            say_removed(&damaged);
            println!("{} damaged", damaged.len());
        }
    }
    Ok(())
}

fn say_removed(entries: &[Entry]) {
    for entry in entries {
        let bytes = size(entry.bytes);
        println!("removed {} {} ({bytes})", entry.source, entry.compilation);
    }
}

fn as_table(entries: &[Entry]) -> String {
    let title = ["SOURCE", "WORLD", "FOR", "SIZE", "LAST USED", "IN USE", ""];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for entry in entries {
        let note = match &entry.details {
            None => "damaged",
            Some(_) if !entry.usable => "of another release or processor",
            Some(_) => "",
        };
        let world = entry
            .details
            .as_ref()
            .map_or("?", |details| details.world.name());
        rows.push(vec![
            entry.source[..12].to_owned(),
            world.to_owned(),
            entry.compilation.to_string(),
            size(entry.bytes),
            age(entry.last_used),
            if entry.in_use { "yes" } else { "no" }.to_owned(),
            note.to_owned(),
        ]);
    }
    table(&rows)
}

/// An artifact for programs. Absent: it is damaged.
#[derive(Serialize)]
struct Row<'a> {
    source: &'a str,
    compilation: String,
    bytes: u64,
    /// Seconds since 1970.
    last_used: u64,
    in_use: bool,
    usable: bool,
    world: Option<&'static str>,
    source_bytes: Option<u64>,
    engine: Option<&'a str>,
    compiled_in_ms: Option<u64>,
}

fn as_json(entries: &[Entry]) -> Result<String, String> {
    let rows: Vec<Row<'_>> = entries
        .iter()
        .map(|entry| {
            let details = entry.details.as_ref();
            let last_used = entry.last_used.duration_since(SystemTime::UNIX_EPOCH);
            Row {
                source: &entry.source,
                compilation: entry.compilation.to_string(),
                bytes: entry.bytes,
                last_used: last_used.unwrap_or_default().as_secs(),
                in_use: entry.in_use,
                usable: entry.usable,
                world: details.map(|details| details.world.name()),
                source_bytes: details.map(|details| details.source_bytes),
                engine: details.map(|details| details.engine.as_str()),
                compiled_in_ms: details.map(|details| details.compiled_in.as_millis() as u64),
            }
        })
        .collect();
    serde_json::to_string_pretty(&rows)
        .map(|text| text + "\n")
        .map_err(|error| error.to_string())
}
