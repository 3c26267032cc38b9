//! Device rules of cgroup v1, where the kernel keeps a list of exceptions to one rule for all.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lighter_core::Failure;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources, Spec};

use super::rules::{Access, Devices, Kind, Rules};

/// The rule for all devices, and what else holds for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exceptions {
    allow: bool,
    devices: BTreeMap<Devices, Access>,
}

impl Exceptions {
    /// What the rules come to.
    ///
    /// Refused, as by runc, if a rule takes back a part of what a rule for more devices has given,
    /// which the kernel would ignore without a word.
    pub(super) fn of(rules: &Rules) -> Result<Self, Failure> {
        let mut exceptions = Self {
            allow: rules.allow,
            devices: BTreeMap::new(),
        };
        for rule in &rules.rules {
            if rule.allow != exceptions.allow {
                let access = exceptions.devices.entry(rule.devices).or_default();
                *access = access.with(rule.access);
                continue;
            }
            let wider = exceptions.devices.iter().find(|(devices, access)| {
                **devices != rule.devices
                    && devices.cover(&rule.devices)
                    && access.meets(rule.access)
            });
            if let Some((devices, _)) = wider {
                return Err(Failure::invalid(format!(
                    "cgroup v1 cannot {} device {} but not all of {}; name the devices one by one",
                    if rule.allow { "allow" } else { "deny" },
                    text(&rule.devices),
                    text(devices),
                )));
            }
            if let Some(access) = exceptions.devices.get_mut(&rule.devices) {
                *access = access.without(rule.access);
            }
        }
        exceptions.devices.retain(|_, access| !access.is_empty());
        Ok(exceptions)
    }

    /// Those of a cgroup that denies by default, from its `devices.list`. The kernel does not tell
    /// those of one that allows by default.
    fn read(list: &str) -> Option<Self> {
        let mut devices = BTreeMap::new();
        for line in list.lines() {
            let [kind, numbers, letters] = line.split(' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            let kind = match kind {
                "b" => Kind::Block,
                "c" => Kind::Char,
                _ => return None,
            };
            let (major, minor) = numbers.split_once(':')?;
            let number = |text: &str| match text {
                "*" => Some(None),
                text => text.parse().ok().map(Some),
            };
            let (major, minor) = (number(major)?, number(minor)?);
            devices.insert(Devices { kind, major, minor }, Access::parse(letters)?);
        }
        Some(Self {
            allow: false,
            devices,
        })
    }

    /// What to write to change a cgroup with `list` to this. What is allowed before and after is
    /// allowed all the time, where the kernel says what is.
    fn changes(&self, list: &str) -> Vec<(&'static str, String)> {
        let line = |allow: bool, devices: &Devices, access: Access| {
            let file = if allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            (!access.is_empty()).then(|| (file, format!("{} {}", text(devices), access.letters())))
        };
        let now = Self::read(list).filter(|now| now.allow == self.allow);
        let mut changes = Vec::new();
        if now.is_none() {
            let file = if self.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            changes.push((file, "a".to_owned()));
        }
        let now = now.map(|now| now.devices).unwrap_or_default();
        let had = |devices| now.get(devices).copied().unwrap_or_default();
        let gets = |devices| self.devices.get(devices).copied().unwrap_or_default();
        changes.extend(self.devices.iter().filter_map(|(devices, access)| {
            line(!self.allow, devices, access.without(had(devices)))
        }));
        changes.extend(now.iter().filter_map(|(devices, access)| {
            line(self.allow, devices, access.without(gets(devices)))
        }));
        changes
    }

    /// Lets them hold for the cgroup with this folder. On an error it is as it was.
    pub(super) fn apply(&self, folder: &Path) -> std::io::Result<()> {
        let list = || fs::read_to_string(folder.join("devices.list"));
        let write = |changes: Vec<(&str, String)>| {
            changes
                .into_iter()
                .try_for_each(|(file, line)| fs::write(folder.join(file), line))
        };
        let before = list()?;
        write(self.changes(&before)).inspect_err(|_| {
            if let (Some(before), Ok(now)) = (Self::read(&before), list()) {
                let _ = write(before.changes(&now));
            }
        })
    }
}

fn text(devices: &Devices) -> String {
    let number = |number: Option<i32>| number.map_or("*".to_owned(), |number| number.to_string());
    let kind = match devices.kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    format!("{kind} {}:{}", number(devices.major), number(devices.minor))
}

/// The spec's rules as libcgroups has to be told them: it writes no more than it is given into a
/// cgroup that allows all devices, and takes -1 for the number of a device.
pub(super) fn spell_out(spec: &mut Spec) {
    let Some(mut linux) = spec.linux().clone() else {
        return;
    };
    let mut resources: LinuxResources = linux.resources().clone().unwrap_or_default();
    let mut devices = resources.devices().clone().unwrap_or_default();
    for rule in &mut devices {
        rule.set_major(rule.major().filter(|number| *number >= 0));
        rule.set_minor(rule.minor().filter(|number| *number >= 0));
    }
    let is_for_all = |rule: &LinuxDeviceCgroup| rule.typ().unwrap_or_default().as_str() == "a";
    if !devices.first().is_some_and(is_for_all) {
        devices.insert(0, LinuxDeviceCgroup::default());
    }
    resources.set_devices(Some(devices));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceptions(json: &str) -> Result<Exceptions, Failure> {
        Exceptions::of(&Rules::parse(
            &serde_json::from_str::<Vec<_>>(json).unwrap(),
        )?)
    }

    #[test]
    fn a_change_takes_and_gives_no_more_than_it_has_to() {
        let target = exceptions(r#"[{"type": "b", "major": 8, "access": "rw", "allow": true}]"#);
        let target = target.unwrap();
        let now = target.changes("b 8:* rwm\nb 9:0 r\nc 1:3 rm\n");
        assert!(now.contains(&("devices.allow", "c 1:3 w".to_owned())));
        assert!(now.contains(&("devices.deny", "b 8:* m".to_owned())));
        assert!(now.contains(&("devices.deny", "b 9:0 r".to_owned())));
        assert!(!now.iter().any(|(_, line)| line == "a"), "{now:?}");
        // From and to what allows by default.
        let first = |changes: Vec<(&'static str, String)>| changes.into_iter().next();
        let all = |file| Some((file, "a".to_owned()));
        assert_eq!(first(target.changes("a *:* rwm\n")), all("devices.deny"));
        let privileged = exceptions(r#"[{"access": "rwm", "allow": true}]"#).unwrap();
        assert_eq!(
            privileged.changes("c 1:3 r\n"),
            [("devices.allow", "a".to_owned())]
        );
    }

    #[test]
    fn what_the_kernel_would_ignore_is_refused() {
        let hole = r#"[{"type": "b", "major": 8, "access": "rw", "allow": true},
                       {"type": "b", "major": 8, "minor": 1, "access": "w", "allow": false}]"#;
        let failure = exceptions(hole).unwrap_err();
        assert!(
            failure
                .message
                .contains("cannot deny device b 8:1 but not all of b 8:*"),
            "{}",
            failure.message
        );
        let whole = hole.replace(r#""minor": 1, "#, "");
        assert_eq!(
            exceptions(&whole).unwrap(),
            exceptions(r#"[{"type": "b", "major": 8, "access": "r", "allow": true}]"#).unwrap()
        );
    }
}
