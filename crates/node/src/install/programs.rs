//! `lighter programs`: the programs alone, below a prefix, as `make install` and packages put them.
//! containerd is left alone and nothing is remembered: what is Lighter's is seen by its mark.

use std::path::Path;

use nix::unistd::geteuid;

use crate::arguments::ProgramsTask;

use super::binaries::{self, OnForeign, Owned};
use super::record::Record;
use super::{files, own_folder};

/// Puts or removes them, and tells what was done.
pub fn run(task: &ProgramsTask) -> Result<(), String> {
    match task {
        ProgramsTask::Install {
            from,
            prefix,
            replace_foreign,
            state,
        } => {
            refuse_installed(prefix, state)?;
            let from = match from {
                Some(from) => from.clone(),
                None => own_folder()?,
            };
            files::make_folders(prefix)?;
            let _alone = files::lock_dir(prefix)?;
            let on_foreign = OnForeign::new(*replace_foreign);
            let installed = binaries::install(&from, prefix, &[], on_foreign)?;
            let folder = binaries::folder(prefix);
            for line in installed.lines() {
                println!("{line}");
            }
            if installed.changed.is_empty() {
                println!("nothing to do: they are in {}", folder.display());
            }
            Ok(())
        }
        ProgramsTask::Uninstall { prefix, state } => {
            refuse_installed(prefix, state)?;
            let folder = binaries::folder(prefix);
            if !folder.exists() {
                println!("nothing to do: there is no {}", folder.display());
                return Ok(());
            }
            let _alone = files::lock_dir(prefix)?;
            let removed = binaries::remove(prefix, Owned::Marked)?;
            println!("removed the programs from {}", folder.display());
            for line in removed.lines() {
                println!("{line}");
            }
            Ok(())
        }
    }
}

/// What `lighter install` has installed is its own to change: it remembers digests, and containerd has
/// the handler. Only root can have run it, and only root can read what it remembers.
fn refuse_installed(prefix: &Path, state: &Path) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    match Record::load(state)? {
        Some(record) if files::target(&record.prefix) == files::target(prefix) => Err(format!(
            "cannot change the programs below {}: `lighter install` has put them there; use `lighter install` and `lighter uninstall`",
            prefix.display()
        )),
        _ => Ok(()),
    }
}
