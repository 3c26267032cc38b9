//! `lighter install`, `uninstall` and `status`: the runtime handler in this node's containerd.
//!
//! ```text
//! containerd (the process, its version, its configuration in effect)
//!   -> layout   which file is to be changed
//!   -> section  what it has to say
//!   -> change   written, checked by containerd, taken back if that refuses it
//!   -> restart  containerd reads it, and is asked by cri whether it knows the handler
//! ```
//!
//! `program` tells Lighter's programs from others of the same name, and `conflict` what else of another
//! runtime an installation would take the place of. `record` remembers what was done. Containers live through all of it: programs are replaced by
//! renames, and containerd's restart does not end them.

mod binaries;
mod change;
mod conflict;
mod containerd;
mod cri;
mod effective;
mod files;
mod host;
mod inspection;
mod layout;
mod program;
mod programs;
mod record;
mod restart;
mod running;
mod section;
mod status;
mod uninstall;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::arguments::{InstallArguments, NodeArguments};

use self::binaries::{Installed, OnForeign};
use self::change::Pending;
use self::conflict::Others;
use self::containerd::Containerd;
use self::effective::{Effective, Handler};
use self::layout::{Place, Version, place};
use self::record::Record;
use self::section::{Section, Syntax};

pub use self::inspection::{Inspection, inspect};
pub use self::programs::run as programs;
pub use self::status::run as status;
pub use self::uninstall::run as uninstall;

/// The handler's name, which RuntimeClasses name.
pub const HANDLER: &str = "wasmtime";
/// What containerd finds the shim by.
pub const RUNTIME_TYPE: &str = "io.containerd.wasmtime.v1";
/// Annotations that the shim reads.
pub const ANNOTATIONS: &str = "lighter.dev/*";
/// The shim's file.
pub const SHIM: &str = "containerd-shim-wasmtime-v1";

/// The node's options, which the handler names if they are there.
const OPTIONS: &str = "/etc/lighter.toml";
const PREFIX: &str = "/usr/local";
/// Where k3s and RKE2 do not look for shims: what they find they write a handler for themselves, and a
/// template cannot have another of the same name.
const PREFIX_OF_TEMPLATES: &str = "/opt/lighter";

/// A containerd, and what it needs for the handler.
struct Survey {
    containerd: Containerd,
    effective: Effective,
    place: Place,
    syntax: Syntax,
    section: Section,
    prefix: PathBuf,
    /// Whether containerd finds our shim by its name, if no other comes first.
    is_searched: bool,
    /// Other runtimes' shims of our name.
    others: Others,
}

impl Survey {
    /// Looks at the node. `prefix` is that of the command line, else that of an installation.
    fn new(arguments: &NodeArguments, prefix: Option<&Path>) -> Result<Self, String> {
        let containerd = Containerd::find(arguments.config.as_deref())?;
        if containerd.version < Version::OLDEST {
            return Err(format!(
                "containerd {} is too old: Lighter needs {} or later",
                containerd.version,
                Version::OLDEST
            ));
        }
        let effective = containerd.effective()?;
        if !effective.has_cri() {
            return Err(format!(
                "the CRI of this containerd is off, so Kubernetes cannot use it: take it out of disabled_plugins in {} and restart containerd",
                containerd.config.display()
            ));
        }
        let text = files::read(&containerd.config)?.unwrap_or_default();
        let syntax = Syntax::of(&text, containerd.version.syntax())
            .map_err(|error| format!("{}: {error}", containerd.config.display()))?;
        let imports = effective.imports();
        let exists = |path: &Path| path.exists();
        let place = place(
            containerd.version,
            &containerd.config,
            syntax,
            &imports,
            &exists,
        );
        let default = match place {
            Place::Template(_) if containerd.version >= Version::KNOWS_PATHS => PREFIX_OF_TEMPLATES,
            _ => PREFIX,
        };
        let prefix = prefix.unwrap_or(Path::new(default)).to_owned();
        let folder = binaries::folder(&prefix);
        let is_searched = containerd.searches(&folder);
        let others = Others::of(&containerd, &folder);
        let handler = effective.handler();
        let knows_paths = containerd.version >= Version::KNOWS_PATHS;
        if !is_searched && !knows_paths {
            return Err(format!(
                "containerd {} finds a shim in its PATH only, and {} is not in that: choose another --prefix",
                containerd.version,
                folder.display()
            ));
        }
        if let Some(first) = others.first.first().filter(|_| !knows_paths) {
            return Err(format!(
                "containerd {} finds a shim by its name only, and {}, which is not Lighter's, comes first in its PATH: choose another --prefix",
                containerd.version,
                first.display()
            ));
        }
        // A path that the handler has already would stay in effect.
        let has_path = handler.is_some_and(|handler| !handler.runtime_path.is_empty());
        let needs_path = !is_searched || !others.first.is_empty() || (has_path && knows_paths);
        let section = Section {
            runtime_path: needs_path.then(|| folder.join(SHIM)),
            options: Some(PathBuf::from(OPTIONS)).filter(|path| path.exists()),
            systemd: effective.others_use_systemd(),
        };
        Ok(Self {
            containerd,
            effective,
            place,
            syntax,
            section,
            prefix,
            is_searched,
            others,
        })
    }

    /// Refuses to take the place of another runtime.
    fn refuse_conflict(&self) -> Result<(), String> {
        let handler = self.effective.handler();
        let shim = handler.as_ref().and_then(|handler| {
            let (shim, _) = inspection::find_shim(&self.containerd, Some(handler));
            let shim = shim?;
            let is_foreign = conflict::is_foreign(&shim);
            Some((shim, is_foreign))
        });
        let shim = shim
            .as_ref()
            .map(|(shim, is_foreign)| (shim.as_path(), *is_foreign));
        match conflict::find(handler.as_ref(), shim, self.is_searched, &self.others) {
            Some(conflict) => Err(format!("cannot install: {conflict}")),
            None => Ok(()),
        }
    }

    /// What the running containerd lacks; an error when it does not answer.
    fn judge(&self, handler: Option<&Handler>) -> Result<(), String> {
        let handler = handler.ok_or_else(|| {
            format!("containerd answers, but does not know the handler {HANDLER}")
        })?;
        let missing = self.section.missing(handler);
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("of the handler {HANDLER}, {}", missing.join("; ")))
    }

    /// Whether the running containerd knows all of the handler.
    fn is_known(&self) -> Result<(), String> {
        cri::handler(&self.effective.socket()).and_then(|handler| self.judge(handler.as_ref()))
    }
}

/// Installs, and tells what was done.
pub fn run(arguments: &InstallArguments) -> Result<(), String> {
    let from = match &arguments.from {
        Some(from) => from.clone(),
        None => own_folder()?,
    };
    let from = host::enter(&arguments.node, &from)?;
    require_root()?;
    let state = &arguments.node.state;
    let _alone = files::lock(state)?;
    let mut old = Record::load(state)?;
    let prefix = arguments.prefix.as_deref();
    let survey = Survey::new(
        &arguments.node,
        prefix.or(old.as_ref().map(|old| old.prefix.as_path())),
    )?;
    if let Some(old) = &old
        && old.prefix != survey.prefix
    {
        let old = old.prefix.display();
        return Err(format!(
            "Lighter is installed below {old}: `lighter uninstall` first"
        ));
    }

    let on_foreign = OnForeign::new(arguments.replace_foreign);
    if old.is_none() && on_foreign == OnForeign::Refuse {
        survey.refuse_conflict()?;
    }
    let recorded = old.as_ref().map_or(&[][..], |old| &old.programs);
    let installed = binaries::install(&from, &survey.prefix, recorded, on_foreign)?;
    if let Some(old) = old.as_mut().filter(|_| !installed.changed.is_empty()) {
        // Uninstalling removes what was recorded, also if the rest of this fails.
        old.programs = digests(&survey.prefix);
        old.save(state)?;
    }
    let mut folders = installed.folders.clone();
    folders.extend(old.iter().flat_map(|old| old.folders.clone()));
    let undo = |error: String| {
        installed.undo();
        error
    };
    let pending =
        change::plan(&survey, old.as_ref().and_then(|old| old.change.as_ref())).map_err(undo)?;
    let record = Record {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        programs: digests(&survey.prefix),
        prefix: survey.prefix.clone(),
        config: survey.containerd.config.clone(),
        change: match &pending {
            Some(pending) => Some(pending.change()),
            None => old.as_ref().and_then(|old| old.change.clone()),
        },
        folders,
    };
    let changed = pending.is_some();
    if let Some(pending) = pending {
        apply(&survey, arguments, &pending, record.clone(), old.as_ref()).map_err(undo)?;
    } else if old.as_ref() != Some(&record) {
        record.save(state)?;
    }
    report(&survey, &installed, changed, arguments)
}

/// Writes the change, keeps the record, and has containerd read it; or takes all of it back.
fn apply(
    survey: &Survey,
    arguments: &InstallArguments,
    pending: &Pending,
    mut record: Record,
    old: Option<&Record>,
) -> Result<(), String> {
    let state = &arguments.node.state;
    let applied = pending.apply(survey)?;
    record.folders.splice(0..0, applied.folders.iter().cloned());
    let forget = || match old {
        Some(old) => old.save(state).map(|_| ()),
        None => Record::remove(state),
    };
    if let Err(error) = record.save(state).and_then(|made| {
        record.folders.splice(0..0, made.iter().cloned());
        record.save(state)
    }) {
        applied.undo()?;
        let _ = forget();
        return Err(error);
    }
    if arguments.node.no_restart || survey.containerd.process.is_none() {
        return Ok(());
    }
    let limit = Duration::from_secs(arguments.node.timeout);
    let socket = survey.effective.socket();
    let restart = |right: &dyn Fn(Option<&Handler>) -> Result<(), String>| {
        restart::restart(&survey.containerd, &socket, limit, right)
    };
    let Err(error) = restart(&|handler| survey.judge(handler)) else {
        return Ok(());
    };
    applied.undo()?;
    forget()?;
    let after = match restart(&|_| Ok(())) {
        Ok(()) => "the configuration is as it was, and containerd answers again".to_owned(),
        Err(error) => format!("the configuration is as it was, and still: {error}"),
    };
    Err(format!(
        "containerd did not come back with the handler: {error}; {after}"
    ))
}

fn report(
    survey: &Survey,
    installed: &Installed,
    changed: bool,
    arguments: &InstallArguments,
) -> Result<(), String> {
    let version = survey.containerd.version;
    for line in installed.lines() {
        println!("{line}");
    }
    if changed {
        println!(
            "configured the handler {HANDLER} in {}",
            survey.place.file().display()
        );
    }
    if survey.containerd.process.is_none() {
        println!("containerd {version} does not run; it knows the handler when it starts");
        return Ok(());
    }
    let known = survey.is_known();
    if arguments.node.no_restart {
        if known.is_err() {
            println!("containerd {version} knows the handler after its next restart");
        }
        return Ok(());
    }
    if let Err(error) = known {
        // Its configuration was right, but it has started before that.
        if changed {
            return Err(error);
        }
        let limit = Duration::from_secs(arguments.node.timeout);
        let socket = survey.effective.socket();
        restart::restart(&survey.containerd, &socket, limit, &|handler| {
            survey.judge(handler)
        })?;
        println!("restarted containerd {version}, which knows the handler now");
    } else if changed {
        println!("restarted containerd {version}, which knows the handler now");
    } else if installed.changed.is_empty() {
        println!(
            "nothing to do: Lighter {} is installed, and containerd {version} knows the handler {HANDLER}",
            env!("CARGO_PKG_VERSION")
        );
    }
    Ok(())
}

fn digests(prefix: &Path) -> Vec<(String, String)> {
    let names = binaries::NAMES.iter();
    names
        .filter_map(|name| Some(((*name).to_owned(), binaries::installed(prefix, name)?)))
        .collect()
}

fn own_folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe()
        .map_err(|error| format!("cannot find the path of this program: {error}"))?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}

fn require_root() -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata("/proc/self").map(|folder| folder.uid()) {
        Ok(0) => Ok(()),
        _ => Err("this needs root: it changes containerd's configuration".to_owned()),
    }
}
