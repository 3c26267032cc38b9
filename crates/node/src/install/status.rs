//! `lighter status`: whether this node is as `lighter install` left it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::arguments::StatusArguments;

use super::record::Record;
use super::{HANDLER, Survey, binaries, files, host};

/// What is known of the installation.
#[derive(Debug, Serialize)]
struct Status {
    /// Whether all is well.
    ok: bool,
    /// The release of this program.
    version: &'static str,
    /// The release that is installed.
    installed: Option<String>,
    prefix: Option<PathBuf>,
    containerd: Option<Daemon>,
    /// Whether the configuration has all of the handler.
    configured: bool,
    /// Whether the running containerd knows all of it.
    known: bool,
    /// What is wrong, and what to do.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Daemon {
    version: String,
    config: PathBuf,
    /// The file that has the handler, or is to have it.
    file: PathBuf,
    pid: Option<i32>,
}

/// Tells it. The exit status is 0 when all is well.
pub fn run(arguments: &StatusArguments) -> Result<ExitCode, String> {
    host::enter(&arguments.node, Path::new("/"))?;
    let status = look(arguments)?;
    if arguments.json {
        let text = serde_json::to_string_pretty(&status).map_err(|error| error.to_string())?;
        println!("{text}");
    } else {
        print!("{}", status.text());
    }
    Ok(if status.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn look(arguments: &StatusArguments) -> Result<Status, String> {
    let record = Record::load(&arguments.node.state)?;
    let mut status = Status {
        ok: false,
        version: env!("CARGO_PKG_VERSION"),
        installed: record.as_ref().map(|record| record.version.clone()),
        prefix: record.as_ref().map(|record| record.prefix.clone()),
        containerd: None,
        configured: false,
        known: false,
        problems: Vec::new(),
    };
    let Some(record) = record else {
        status
            .problems
            .push("Lighter is not installed; run `lighter install`".to_owned());
        return Ok(status);
    };
    programs(&record, &mut status.problems);
    let mut node = arguments.node.clone();
    node.config.get_or_insert_with(|| record.config.clone());
    match Survey::new(&node, Some(&record.prefix)) {
        Ok(survey) => configuration(&survey, &record, &mut status),
        Err(error) => status.problems.push(error),
    }
    status.ok = status.problems.is_empty();
    Ok(status)
}

fn programs(record: &Record, problems: &mut Vec<String>) {
    for (name, digest) in &record.programs {
        let file = binaries::folder(&record.prefix).join(name);
        match binaries::installed(&record.prefix, name) {
            None => problems.push(format!("{} is gone; run `lighter install`", file.display())),
            Some(found) if found != *digest => problems.push(format!(
                "{} is not the one that was installed; run `lighter install`",
                file.display()
            )),
            Some(_) => {}
        }
    }
}

fn configuration(survey: &Survey, record: &Record, status: &mut Status) {
    let file = survey.place.file().to_owned();
    let missing = match survey.effective.handler() {
        None => Some(format!(
            "the configuration no longer has the handler {HANDLER}"
        )),
        Some(handler) => {
            let missing = survey.section.missing(&handler);
            (!missing.is_empty())
                .then(|| format!("of the handler {HANDLER}, {}", missing.join("; ")))
        }
    };
    // What a template is made into next time decides.
    let source = record.change.as_ref().filter(|_| survey.place.is_source());
    let gone = source.is_some_and(|change| {
        let text = files::read(&change.file).ok().flatten().unwrap_or_default();
        !text.contains(&format!("runtimes.{HANDLER}"))
    });
    status.configured = missing.is_none() && !gone;
    if let Some(missing) = missing {
        status.problems.push(format!(
            "{missing}, in {}; run `lighter install`",
            file.display()
        ));
    } else if gone {
        status.problems.push(format!(
            "{} no longer has the handler {HANDLER}; run `lighter install`",
            file.display()
        ));
    }
    match &survey.containerd.process {
        None => status
            .problems
            .push("containerd does not run; start it".to_owned()),
        Some(_) => match survey.is_known() {
            Ok(()) => status.known = true,
            Err(error) => status
                .problems
                .push(format!("{error}; run `lighter install`")),
        },
    }
    status.containerd = Some(Daemon {
        version: survey.containerd.version.to_string(),
        config: survey.containerd.config.clone(),
        file,
        pid: survey
            .containerd
            .process
            .as_ref()
            .map(|process| process.pid),
    });
}

impl Status {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        if let (Some(installed), Some(prefix)) = (&self.installed, &self.prefix) {
            let folder = binaries::folder(prefix);
            lines.push(format!(
                "installed   Lighter {installed} in {}",
                folder.display()
            ));
        }
        if self
            .installed
            .as_deref()
            .is_some_and(|installed| installed != self.version)
        {
            lines.push(format!("this is     Lighter {}", self.version));
        }
        if let Some(containerd) = &self.containerd {
            let pid = containerd
                .pid
                .map_or("does not run".to_owned(), |pid| format!("process {pid}"));
            let config = containerd.config.display();
            lines.push(format!(
                "containerd  {}, {pid}, {config}",
                containerd.version
            ));
            lines.push(format!(
                "handler     {HANDLER}, in {}",
                containerd.file.display()
            ));
        }
        match self.ok {
            true => lines.push("ok          containerd knows the handler".to_owned()),
            false => lines.extend(
                self.problems
                    .iter()
                    .map(|each| format!("FAIL        {each}")),
            ),
        }
        lines.join("\n") + "\n"
    }
}
