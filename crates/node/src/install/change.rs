//! A change of a configuration: planned, checked by containerd, made, and undone.

use std::fs;
use std::path::{Path, PathBuf};

use super::effective::Effective;
use super::files::{self, digest};
use super::layout::Place;
use super::record::{Change, Kind};
use super::section::{
    Kept, Syntax, remove_from_template, remove_handler, set_handler, set_in_template,
};
use super::{HANDLER, Survey, binaries};

/// A change that is to be made.
#[derive(Debug)]
pub struct Pending {
    file: PathBuf,
    kind: Kind,
    /// The file as it is.
    now: Option<String>,
    /// As it was without us; nothing when there was none.
    before: Option<String>,
    /// As it shall be.
    new: String,
    syntax: Syntax,
    previous: Option<String>,
    kept: Vec<String>,
}

/// A change that was made.
pub struct Applied {
    file: PathBuf,
    now: Option<String>,
    backup: Option<PathBuf>,
    /// Whether this has made the backup.
    new_backup: bool,
    /// Folders that were made, the deepest first.
    pub folders: Vec<PathBuf>,
}

/// What has to be changed; nothing when all is as it has to be. `old` is what was changed before.
pub fn plan(survey: &Survey, old: Option<&Change>) -> Result<Option<Pending>, String> {
    let file = survey.place.file();
    let old = old.filter(|old| old.file == file);
    let now = files::read(file)?;
    let pending = match &survey.place {
        Place::DropIn(_) => {
            let handler = survey.effective.handler();
            let complete =
                handler.is_some_and(|handler| survey.section.missing(&handler).is_empty());
            if now.is_none() && complete {
                return Ok(None);
            }
            Pending {
                new: survey.section.drop_in(survey.syntax),
                // A file of this name is ours.
                before: None,
                ..Pending::new(survey, Kind::DropIn, now)
            }
        }
        Place::Template(_) => Pending {
            new: set_in_template(
                now.as_deref().unwrap_or_default(),
                &survey.section,
                survey.syntax,
            ),
            before: now.as_deref().map(remove_from_template).filter(|_| {
                // One that we have made ourselves is to go.
                old.is_none_or(|old| old.backup.is_some())
            }),
            ..Pending::new(survey, Kind::Template, now)
        },
        Place::Edit(_) | Place::EditSource(_) => edit(survey, old, now)
            .map_err(|error| format!("{}: {error}; it was left as it is", file.display()))?,
    };
    Ok((pending.now.as_deref() != Some(&pending.new)).then_some(pending))
}

/// The edit of a TOML file, tried out beside it.
fn edit(survey: &Survey, old: Option<&Change>, now: Option<String>) -> Result<Pending, String> {
    let file = survey.place.file();
    let text = now.clone().unwrap_or_default();
    let mut pending = Pending {
        kept: old.map(|old| old.kept.clone()).unwrap_or_default(),
        previous: old.and_then(|old| old.previous.clone()),
        ..Pending::new(survey, Kind::Edit, now)
    };
    let section = &survey.section;
    let same = set_handler(&text, survey.syntax, section, &[])?;
    if same.text == text {
        pending.new = text;
        return Ok(pending);
    }
    let base = match old {
        None => text.clone(),
        Some(old) => without(old, &text)?.unwrap_or_default(),
    };
    let first = set_handler(&base, survey.syntax, section, &[])?;
    let lost = lost(&survey.effective, &try_out(survey, file, &first.text)?);
    let edited = if lost.is_empty() {
        first
    } else {
        set_handler(&base, survey.syntax, section, &lost)?
    };
    let after = try_out(survey, file, &edited.text)?;
    // A file that others are made of need not be what containerd reads now.
    let differences = if survey.place.is_source() {
        Vec::new()
    } else {
        after.differences(&survey.effective)
    };
    if !differences.is_empty() {
        return Err(format!(
            "the edit would also change {}: add the handler {HANDLER} by hand",
            differences.join(", ")
        ));
    }
    pending.kept = lost.into_iter().map(|kept| kept.name).collect();
    pending.previous = edited.previous;
    pending.before = pending.now.is_some().then_some(base);
    pending.new = edited.text;
    Ok(pending)
}

/// Handlers that a configuration would not have any more.
fn lost(before: &Effective, after: &Effective) -> Vec<Kept> {
    let after = after.handlers();
    let names = before.handlers().into_keys();
    names
        .filter(|name| name != HANDLER && !after.contains_key(name))
        .map(|name| Kept {
            table: before.spelled_out(&name),
            name,
        })
        .collect()
}

/// What containerd makes of a text in the place of this file.
fn try_out(survey: &Survey, file: &Path, text: &str) -> Result<Effective, String> {
    // Relative imports are those of the same folder.
    let made = files::make_folders(file.parent().unwrap_or(Path::new("/")))?;
    let tried = files::prepare(file, text.as_bytes(), 0o600).and_then(|prepared| {
        let tried = survey.containerd.dump(prepared.path());
        tried.map_err(|error| format!("containerd refuses the edit: {error}"))
    });
    binaries::remove_folders(&made);
    tried
}

/// A file without us. Its own bytes if nobody has changed it since; nothing if there was none.
pub fn without(change: &Change, now: &str) -> Result<Option<String>, String> {
    let unchanged = digest(now.as_bytes()) == change.written;
    if unchanged || change.kind == Kind::DropIn {
        let Some(backup) = &change.backup else {
            return Ok(None);
        };
        if let Some(text) = files::read(backup)? {
            return Ok(Some(text));
        }
    }
    let syntax = if change.syntax == 3 {
        Syntax::V3
    } else {
        Syntax::V2
    };
    let rest = match change.kind {
        Kind::Edit => remove_handler(now, syntax, change.previous.as_deref(), &change.kept)?,
        Kind::DropIn | Kind::Template => remove_from_template(now),
    };
    Ok(Some(rest))
}

/// Beside the file, and without `.toml` at its end: nothing reads it.
fn backup_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".before-lighter");
    name.into()
}

impl Pending {
    fn new(survey: &Survey, kind: Kind, now: Option<String>) -> Self {
        Self {
            file: survey.place.file().to_owned(),
            kind,
            before: now.clone(),
            now,
            new: String::new(),
            syntax: survey.syntax,
            previous: None,
            kept: Vec::new(),
        }
    }

    /// What is to be remembered of it.
    pub fn change(&self) -> Change {
        Change {
            file: self.file.clone(),
            kind: self.kind,
            backup: self.before.as_ref().map(|_| backup_of(&self.file)),
            written: digest(self.new.as_bytes()),
            syntax: if self.syntax == Syntax::V3 { 3 } else { 2 },
            previous: self.previous.clone(),
            kept: self.kept.clone(),
        }
    }

    /// Makes it, and has containerd check what it reads from now on.
    pub fn apply(&self, survey: &Survey) -> Result<Applied, String> {
        if self.kind == Kind::Template {
            self.check_template(survey)?;
        }
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let mut applied = Applied {
            file: self.file.clone(),
            now: self.now.clone(),
            backup: None,
            new_backup: false,
            folders: files::make_folders(folder)?,
        };
        let written = self.write(&mut applied).and_then(|()| match self.kind {
            Kind::DropIn => check_drop_in(survey),
            Kind::Edit | Kind::Template => Ok(()),
        });
        match written {
            Ok(()) => Ok(applied),
            Err(error) => {
                applied.undo()?;
                Err(error)
            }
        }
    }

    fn write(&self, applied: &mut Applied) -> Result<(), String> {
        if let Some(before) = &self.before {
            let backup = backup_of(&self.file);
            applied.new_backup = !backup.exists();
            let mode = fs::metadata(&self.file).map(|file| file.permissions());
            files::replace(&backup, before.as_bytes(), 0o600)?;
            if let Ok(mode) = mode {
                let _ = fs::set_permissions(&backup, mode);
            }
            applied.backup = Some(backup);
        }
        files::replace(&files::target(&self.file), self.new.as_bytes(), 0o644)
    }

    /// A template is Go's: what it was made into, with the new section, is what can be checked.
    fn check_template(&self, survey: &Survey) -> Result<(), String> {
        let config = &survey.containerd.config;
        let Some(made) = files::read(config)? else {
            return Ok(());
        };
        let rest = remove_from_template(&made);
        let text = set_in_template(&rest, &survey.section, survey.syntax);
        let after = try_out(survey, config, &text).map_err(|error| {
            format!("{error}: if k3s or RKE2 write a handler {HANDLER} themselves, it is for a shim that they have found in their PATH: remove that")
        })?;
        refuse_differences(&after.differences(&survey.effective))
    }
}

fn check_drop_in(survey: &Survey) -> Result<(), String> {
    let after = survey.containerd.effective()?;
    refuse_differences(&after.differences(&survey.effective))?;
    let handler = after.handler().unwrap_or_default();
    let missing = survey.section.missing(&handler);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "another file of containerd's configuration overrides the handler {HANDLER}: {}",
        missing.join("; ")
    ))
}

fn refuse_differences(differences: &[String]) -> Result<(), String> {
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the change would also change {}",
        differences.join(", ")
    ))
}

impl Applied {
    /// Puts the file back as it was.
    pub fn undo(&self) -> Result<(), String> {
        match &self.now {
            Some(text) => files::replace(&files::target(&self.file), text.as_bytes(), 0o644)?,
            None => files::remove(&self.file)?,
        }
        if let Some(backup) = self.backup.as_ref().filter(|_| self.new_backup) {
            files::remove(backup)?;
        }
        binaries::remove_folders(&self.folders);
        Ok(())
    }
}
