//! What a containerd makes of its configuration: the answer of `containerd config dump`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use super::HANDLER;

/// Names of the plugin that has the CRI's runtimes, the newest first.
const PLUGINS: [&str; 2] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"];

/// The names by which a configuration turns the CRI off.
const DISABLING: [&str; 3] = ["cri", PLUGINS[0], PLUGINS[1]];

/// The configuration in effect, imports and defaults included.
#[derive(Clone, Debug)]
pub struct Effective {
    table: Table,
}

/// What is configured for a runtime handler.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Handler {
    pub runtime_type: String,
    pub runtime_path: String,
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    pub config_path: String,
    pub systemd_cgroup: bool,
}

impl Effective {
    /// Reads what `containerd config dump` has printed.
    pub fn parse(dump: &str) -> Result<Self, String> {
        let table = dump.parse::<Table>().map_err(|error| {
            format!("cannot read what `containerd config dump` printed: {error}")
        })?;
        Ok(Self { table })
    }

    /// The patterns of files that the configuration imports. Up to 1.7 these are files' names, and
    /// the configuration itself is among them.
    pub fn imports(&self) -> Vec<String> {
        strings(self.table.get("imports"))
    }

    /// Whether the CRI is on.
    pub fn has_cri(&self) -> bool {
        strings(self.table.get("disabled_plugins"))
            .iter()
            .all(|name| !DISABLING.contains(&name.as_str()))
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        let address = at(&self.table, &["grpc", "address"]).and_then(Value::as_str);
        PathBuf::from(address.unwrap_or("/run/containerd/containerd.sock"))
    }

    /// The snapshotter of images.
    pub fn snapshotter(&self) -> Option<&str> {
        ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"]
            .iter()
            .find_map(|plugin| {
                let plugin = at(&self.table, &["plugins", plugin])?.as_table()?;
                let value = plugin
                    .get("snapshotter")
                    .or_else(|| at(plugin, &["containerd", "snapshotter"]));
                value?.as_str()
            })
    }

    fn runtimes(&self) -> Option<&Table> {
        PLUGINS.iter().find_map(|plugin| {
            at(&self.table, &["plugins", plugin, "containerd", "runtimes"])?.as_table()
        })
    }

    /// The runtime handlers by their names.
    pub fn handlers(&self) -> BTreeMap<String, Handler> {
        let runtimes = self.runtimes().into_iter().flatten();
        runtimes
            .filter_map(|(name, handler)| Some((name.clone(), read(handler.as_table()?))))
            .collect()
    }

    /// All that is configured for a handler, but empty values.
    pub fn spelled_out(&self, name: &str) -> Table {
        let handler = self.runtimes().and_then(|runtimes| runtimes.get(name));
        let mut table = handler
            .and_then(Value::as_table)
            .cloned()
            .unwrap_or_default();
        strip(&mut table);
        table
    }

    /// Our handler, if there is one of its name.
    pub fn handler(&self) -> Option<Handler> {
        Some(read(self.runtimes()?.get(HANDLER)?.as_table()?))
    }

    /// Whether runc's handlers use systemd's cgroup driver.
    pub fn others_use_systemd(&self) -> bool {
        self.handlers()
            .iter()
            .any(|(name, handler)| name != HANDLER && handler.systemd_cgroup)
    }

    /// The keys of which this differs from `before`, but for our handler and what is imported. A key
    /// that is not there is the same as one with an empty value.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare(&before.table, &self.table, "", &mut found);
        found
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).into_iter().flatten();
    values
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

fn at<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() {
        return Some(value);
    }
    at(value.as_table()?, rest)
}

fn read(table: &Table) -> Handler {
    let text = |value: Option<&Value>| {
        let text = value.and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let option = |name: &str| at(table, &["options", name]);
    Handler {
        runtime_type: text(table.get("runtime_type")),
        runtime_path: text(table.get("runtime_path")),
        pod_annotations: strings(table.get("pod_annotations")),
        container_annotations: strings(table.get("container_annotations")),
        config_path: text(option("ConfigPath")),
        systemd_cgroup: option("SystemdCgroup").and_then(Value::as_bool) == Some(true),
    }
}

fn compare(before: &Table, after: &Table, path: &str, found: &mut Vec<String>) {
    let keys = before
        .keys()
        .chain(after.keys().filter(|key| !before.contains_key(*key)));
    for key in keys {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if path == "imports" || path.ends_with(&format!(".containerd.runtimes.{HANDLER}")) {
            continue;
        }
        match (before.get(key), after.get(key)) {
            (Some(Value::Table(before)), Some(Value::Table(after))) => {
                compare(before, after, &path, found);
            }
            (Some(Value::Table(table)), None) => compare(table, &Table::new(), &path, found),
            (None, Some(Value::Table(table))) => compare(&Table::new(), table, &path, found),
            (before, after) if before == after => {}
            (before, after) if is_empty(before) && is_empty(after) => {}
            _ => found.push(path),
        }
    }
}

/// Removes what is the same when it is not there.
fn strip(table: &mut Table) {
    for (_, value) in table.iter_mut() {
        if let Value::Table(inner) = value {
            strip(inner);
        }
    }
    table.retain(|_, value| match value {
        Value::Table(inner) => !inner.is_empty(),
        value => !is_empty(Some(value)),
    });
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Boolean(false) | Value::Integer(0)) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(values)) => values.is_empty(),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(text: &str) -> Effective {
        Effective::parse(text).unwrap()
    }

    #[test]
    fn the_default_configurations_of_all_versions_are_understood() {
        for (dump, systemd) in [
            (include_str!("golden/default-1.6.toml"), false),
            (include_str!("golden/default-1.7.toml"), false),
            (include_str!("golden/default-2.1.toml"), false),
        ] {
            let effective = effective(dump);
            assert!(effective.has_cri());
            assert_eq!(effective.handler(), None);
            let handlers = effective.handlers();
            assert_eq!(handlers.keys().collect::<Vec<_>>(), ["runc"]);
            assert_eq!(handlers["runc"].runtime_type, "io.containerd.runc.v2");
            assert_eq!(effective.others_use_systemd(), systemd);
            assert_eq!(effective.snapshotter(), Some("overlayfs"));
            let socket = effective.socket();
            assert_eq!(socket.to_str(), Some("/run/containerd/containerd.sock"));
        }
    }

    #[test]
    fn a_lost_handler_is_a_difference_and_ours_is_none() {
        let plugin = "plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes";
        let before = effective(&format!(
            "imports = ['a']\n[{plugin}.runc]\nruntime_type = 'r'\nroot = ''\n"
        ));
        let after = effective(&format!("[{plugin}.wasmtime]\nruntime_type = 'w'\n"));
        let lost = after.differences(&before);
        assert_eq!(
            lost,
            [format!("{}.runc.runtime_type", plugin.replace('\'', ""))]
        );
        let kept = effective(&format!(
            "[{plugin}.wasmtime]\nruntime_type = 'w'\n[{plugin}.runc]\nruntime_type = 'r'\n"
        ));
        assert!(kept.differences(&before).is_empty());
    }

    #[test]
    fn a_cri_that_is_off_is_seen() {
        for name in DISABLING {
            assert!(!effective(&format!("disabled_plugins = [{name:?}]")).has_cri());
        }
        assert!(effective("disabled_plugins = ['io.containerd.snapshotter.v1.zfs']").has_cri());
    }
}
