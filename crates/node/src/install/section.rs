//! The handler's section: what a configuration has to say of it, and how that is edited in.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use super::effective::Handler;
use super::{ANNOTATIONS, HANDLER, RUNTIME_TYPE};

/// Stands above each section that is written.
const NOTE: &str = "# Written by `lighter install`; `lighter uninstall` removes it.\n";

/// Around the section in a template, which is text and no TOML.
const BEGIN: &str = "# BEGIN lighter";
const END: &str = "# END lighter";

/// The version of a configuration file's syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `version = 2`
    V2,
    /// `version = 3`, from containerd 2.0 on.
    V3,
}

impl Syntax {
    fn number(self) -> i64 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    fn plugin(self) -> &'static str {
        match self {
            Self::V2 => "io.containerd.grpc.v1.cri",
            Self::V3 => "io.containerd.cri.v1.runtime",
        }
    }

    /// That of a file, or `new` for one without keys.
    pub fn of(text: &str, new: Self) -> Result<Self, String> {
        let document = parse(text)?;
        match document.get("version").and_then(Item::as_integer) {
            Some(2) => Ok(Self::V2),
            Some(3) => Ok(Self::V3),
            // Without a version it would be 1, whose tables have other names.
            None if document.get("plugins").is_none() => Ok(new),
            Some(1) | None => Err(
                "it has version 1 of the syntax: have containerd rewrite it by `containerd config migrate`, and install again".to_owned(),
            ),
            Some(number) => Err(format!(
                "it has version {number} of the syntax, and this release knows 2 and 3"
            )),
        }
    }
}

/// What the handler needs on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The shim's path, where containerd would not find it by its name.
    pub runtime_path: Option<PathBuf>,
    /// The file of the node's options, if there is one.
    pub options: Option<PathBuf>,
    /// Whether the node's other handlers use systemd's cgroup driver.
    pub systemd: bool,
}

impl Section {
    /// What a configuration in effect lacks of it, in words; nothing when all is well.
    pub fn missing(&self, handler: &Handler) -> Vec<String> {
        let mut missing = Vec::new();
        if handler.runtime_type != RUNTIME_TYPE {
            missing.push(format!("runtime_type is {:?}", handler.runtime_type));
        }
        for (name, patterns) in [
            ("pod_annotations", &handler.pod_annotations),
            ("container_annotations", &handler.container_annotations),
        ] {
            if !patterns.iter().any(|pattern| passes(pattern)) {
                missing.push(format!("{name} lacks \"{ANNOTATIONS}\""));
            }
        }
        let path = self.runtime_path.as_deref().unwrap_or(Path::new(""));
        if self.runtime_path.is_some() && Path::new(&handler.runtime_path) != path {
            missing.push(format!("runtime_path is not {}", path.display()));
        }
        if let Some(options) = &self.options
            && Path::new(&handler.config_path) != options
        {
            missing.push(format!("ConfigPath is not {}", options.display()));
        }
        if self.systemd && !handler.systemd_cgroup {
            missing.push("SystemdCgroup is not true, as it is for the other handlers".to_owned());
        }
        missing
    }

    /// All of a file that has nothing else.
    pub fn drop_in(&self, syntax: Syntax) -> String {
        format!("version = {}\n\n{}", syntax.number(), self.text(syntax))
    }

    /// The bare tables.
    fn text(&self, syntax: Syntax) -> String {
        let mut document = DocumentMut::new();
        runtimes(&mut document, syntax)
            .and_then(|runtimes| self.fill(new_handler(runtimes, HANDLER)?))
            .expect("an empty document takes all tables");
        document.to_string().trim_start().to_owned()
    }

    fn fill(&self, handler: &mut dyn TableLike) -> Result<(), String> {
        set(handler, "runtime_type", RUNTIME_TYPE.into());
        if let Some(path) = &self.runtime_path {
            set(handler, "runtime_path", path.display().to_string().into());
        }
        for name in ["pod_annotations", "container_annotations"] {
            let mut patterns = match handler.get(name).and_then(Item::as_array) {
                Some(patterns) => patterns.clone(),
                None => Array::new(),
            };
            if !patterns
                .iter()
                .any(|each| each.as_str().is_some_and(passes))
            {
                patterns.push(ANNOTATIONS);
                set(handler, name, patterns.into());
            }
        }
        if self.options.is_none() && !self.systemd {
            return Ok(());
        }
        let options = descend(handler, "options")?;
        if let Some(path) = &self.options {
            set(options, "ConfigPath", path.display().to_string().into());
        }
        if self.systemd {
            set(options, "SystemdCgroup", true.into());
        }
        Ok(())
    }
}

/// Whether a pattern lets our annotations through.
fn passes(pattern: &str) -> bool {
    [ANNOTATIONS, "*", "lighter.dev*"].contains(&pattern)
}

/// A handler that has to be said again, as containerd 1.x forgets its own defaults when a file has any
/// handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub name: String,
    /// All that is configured for it.
    pub table: toml::Table,
}

/// A file after the edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    pub text: String,
    /// The handler that was there before, as TOML.
    pub previous: Option<String>,
}

/// Has a configuration say all that the handler needs; the rest stays as it is, comments and order too.
/// A second time changes nothing.
pub fn set_handler(
    text: &str,
    new: Syntax,
    section: &Section,
    kept: &[Kept],
) -> Result<Edited, String> {
    let syntax = Syntax::of(text, new)?;
    let mut document = parse(text)?;
    if document.get("version").is_none() {
        // A file's first comment is about the file, and stays first.
        document.insert("version", value(syntax.number()));
    }
    let runtimes = runtimes(&mut document, syntax)?;
    for each in kept {
        fill_from(new_handler(runtimes, &each.name)?, &each.table)?;
    }
    let previous = runtimes.get(HANDLER).map(|handler| {
        let mut document = DocumentMut::new();
        document.insert(HANDLER, handler.clone());
        document.to_string()
    });
    let handler = match previous {
        Some(_) => descend(runtimes, HANDLER)?,
        None => new_handler(runtimes, HANDLER)?,
    };
    section.fill(handler)?;
    Ok(Edited {
        text: document.to_string(),
        previous,
    })
}

/// Takes the handler out again, and those that were kept. What was there before is put back.
pub fn remove_handler(
    text: &str,
    syntax: Syntax,
    previous: Option<&str>,
    kept: &[String],
) -> Result<String, String> {
    let mut document = parse(text)?;
    let runtimes = runtimes(&mut document, syntax)?;
    runtimes.remove(HANDLER);
    if let Some(previous) = previous {
        let previous = parse(previous)?;
        if let Some(handler) = previous.get(HANDLER) {
            runtimes.insert(HANDLER, handler.clone());
        }
    }
    for name in kept {
        runtimes.remove(name);
    }
    Ok(document.to_string())
}

/// Puts the section at the end of a template, or renews it there.
pub fn set_in_template(text: &str, section: &Section, syntax: Syntax) -> String {
    let mut rest = remove_from_template(text);
    if rest.is_empty() {
        rest = "{{ template \"base\" . }}\n".to_owned();
    }
    let gap = if rest.ends_with('\n') { "" } else { "\n" };
    format!("{rest}{gap}{BEGIN}\n{}{END}\n", section.text(syntax))
}

/// A template, or what was made of it, without the section.
pub fn remove_from_template(text: &str) -> String {
    let Some((before, rest)) = text.split_once(&format!("{BEGIN}\n")) else {
        return text.to_owned();
    };
    let after = rest.split_once(&format!("{END}\n"));
    format!("{before}{}", after.map_or("", |(_, after)| after))
}

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse::<DocumentMut>()
        .map_err(|error| format!("it is no TOML: {}", error.to_string().trim_end()))
}

/// Sets a key, unless it has that value; the comments around a value stay.
fn set(table: &mut dyn TableLike, key: &str, mut new: toml_edit::Value) {
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        if same(old, &new) {
            return;
        }
        *new.decor_mut() = old.decor().clone();
    }
    table.insert(key, Item::Value(new));
}

fn same(old: &toml_edit::Value, new: &toml_edit::Value) -> bool {
    (old.is_str() && old.as_str() == new.as_str())
        || (old.is_bool() && old.as_bool() == new.as_bool())
}

/// A table in a table, made when it is not there.
fn descend<'a>(table: &'a mut dyn TableLike, key: &str) -> Result<&'a mut dyn TableLike, String> {
    if table.get(key).is_none_or(Item::is_none) {
        let mut new = Table::new();
        new.set_implicit(true);
        table.insert(key, Item::Table(new));
    }
    table
        .get_mut(key)
        .and_then(Item::as_table_like_mut)
        .ok_or_else(|| format!("`{key}` is no table"))
}

/// Sets all that a table of a dump has.
fn fill_from(target: &mut dyn TableLike, source: &toml::Table) -> Result<(), String> {
    for (key, source) in source {
        match source {
            toml::Value::Table(source) => fill_from(descend(target, key)?, source)?,
            source => set(target, key, as_value(source)?),
        }
    }
    Ok(())
}

fn as_value(source: &toml::Value) -> Result<toml_edit::Value, String> {
    Ok(match source {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Array(values) => values
            .iter()
            .map(as_value)
            .collect::<Result<Array, _>>()?
            .into(),
        toml::Value::Table(_) | toml::Value::Datetime(_) => {
            return Err(
                "containerd's configuration has a value of a kind that none is known of".to_owned(),
            );
        }
    })
}

fn runtimes(document: &mut DocumentMut, syntax: Syntax) -> Result<&mut dyn TableLike, String> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in ["plugins", syntax.plugin(), "containerd", "runtimes"] {
        table = descend(table, key)?;
    }
    Ok(table)
}

/// A table of a handler that was not there, below the note.
fn new_handler<'a>(
    runtimes: &'a mut dyn TableLike,
    name: &str,
) -> Result<&'a mut dyn TableLike, String> {
    let mut new = Table::new();
    new.decor_mut().set_prefix(format!("\n{NOTE}"));
    runtimes.insert(name, Item::Table(new));
    descend(runtimes, name)
}

#[cfg(test)]
mod tests;
