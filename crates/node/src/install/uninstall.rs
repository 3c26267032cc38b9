//! `lighter uninstall`: takes back what `lighter install` has done.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::arguments::UninstallArguments;

use super::binaries::Owned;
use super::change::without;
use super::containerd::Containerd;
use super::effective::Handler;
use super::record::{Change, Kind, Record};
use super::{HANDLER, binaries, files, host, require_root, restart, running};

/// Uninstalls, and tells what was done.
pub fn run(arguments: &UninstallArguments) -> Result<(), String> {
    host::enter(&arguments.node, Path::new("/"))?;
    require_root()?;
    let state = &arguments.node.state;
    let _alone = files::lock(state)?;
    let Some(mut record) = Record::load(state)? else {
        println!("nothing to do: Lighter is not installed");
        return Ok(());
    };
    let pods = running::pods(&record.prefix);
    if !pods.is_empty() && !arguments.force {
        return Err(format!(
            "these still run on {HANDLER}: {}; remove them first, or use --force: then nothing new can start, and the programs stay until they have ended, as containerd needs the shim to remove them",
            pods.join(", ")
        ));
    }
    if let Some(change) = record.change.clone() {
        revert(arguments, &record, &change)?;
        record.change = None;
        record.save(state)?;
        println!(
            "removed the handler {HANDLER} from {}",
            change.file.display()
        );
    }
    // What has ended meanwhile needs them no longer.
    let pods = running::pods(&record.prefix);
    let folder = binaries::folder(&record.prefix);
    if !pods.is_empty() {
        println!(
            "left the programs in {}, which {} still need: `lighter uninstall` again when they have ended",
            folder.display(),
            pods.join(", ")
        );
        return Ok(());
    }
    let removed = binaries::remove(&record.prefix, Owned::Recorded(&record.programs))?;
    println!("removed the programs from {}", folder.display());
    for line in removed.lines() {
        println!("{line}");
    }
    Record::remove(state)?;
    binaries::remove_folders(&record.folders);
    Ok(())
}

/// Takes the change back and has containerd read that; or leaves all as it is.
fn revert(arguments: &UninstallArguments, record: &Record, change: &Change) -> Result<(), String> {
    let config = arguments.node.config.as_deref().unwrap_or(&record.config);
    let containerd = Containerd::find(Some(config));
    let now = files::read(&change.file)?;
    let now_text = now.clone().unwrap_or_default();
    let rest = without(change, &now_text).map_err(|error| {
        let file = change.file.display();
        format!("{file}: {error}: repair it, and uninstall again")
    })?;
    // Somebody has taken the file away already, and with it our part of it.
    let rest = rest.filter(|_| now.is_some());
    let put = |text: Option<&String>| match text {
        Some(text) => files::replace(&files::target(&change.file), text.as_bytes(), 0o644),
        None => files::remove(&change.file),
    };
    put(rest.as_ref())?;
    let done = match &containerd {
        // Without a containerd there is nobody to tell.
        Err(_) => Ok(()),
        Ok(containerd) => tell(arguments, containerd, change),
    };
    if let Err(error) = done {
        put(now.as_ref())?;
        let after = match &containerd {
            Ok(containerd) => tell_again(arguments, containerd),
            Err(_) => Ok(()),
        };
        let after = after.map_or_else(
            |error| format!("and still: {error}"),
            |()| "and containerd answers".to_owned(),
        );
        return Err(format!(
            "{error}; the configuration is as it was before, {after}"
        ));
    }
    if let Some(backup) = &change.backup {
        files::remove(backup)?;
    }
    if change.kind == Kind::DropIn {
        let folder = change.file.parent().unwrap_or(Path::new("/"));
        // Only if it was made for the drop-in, and only if it is empty.
        if record.folders.iter().any(|made| made == folder) {
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(())
}

fn tell(
    arguments: &UninstallArguments,
    containerd: &Containerd,
    change: &Change,
) -> Result<(), String> {
    let effective = containerd.effective()?;
    if arguments.node.no_restart || containerd.process.is_none() {
        return Ok(());
    }
    let limit = Duration::from_secs(arguments.node.timeout);
    // One that was there before stays, and k3s writes one as long as it finds the shim.
    let stays = change.previous.is_some() || effective.handler().is_some();
    let right = |handler: Option<&Handler>| match handler {
        Some(_) if !stays => Err(format!("containerd still knows the handler {HANDLER}")),
        _ => Ok(()),
    };
    restart::restart(containerd, &effective.socket(), limit, &right)
}

fn tell_again(arguments: &UninstallArguments, containerd: &Containerd) -> Result<(), String> {
    if arguments.node.no_restart || containerd.process.is_none() {
        return Ok(());
    }
    let limit = Duration::from_secs(arguments.node.timeout);
    let socket = containerd.effective()?.socket();
    restart::restart(containerd, &socket, limit, &|_| Ok(()))
}
