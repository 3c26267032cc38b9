//! Device rules of a spec (`linux.resources.devices`) in the order of their effect.

use lighter_core::Failure;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// How many bits the kernel has for the number of a device that its driver chooses, and for
/// that of the driver.
pub(super) const MINOR_BITS: i32 = 20;
const MAJOR_BITS: i32 = 12;

/// The two kinds of device nodes, with the kernel's numbers (`BPF_DEVCG_DEV_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block = 1,
    Char = 2,
}

/// What is done with a device: a set of bits, with the kernel's numbers (`BPF_DEVCG_ACC_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Access(pub(super) u8);

impl Access {
    pub(super) const MAKE: Self = Self(1);
    pub(super) const READ: Self = Self(2);
    pub(super) const WRITE: Self = Self(4);
    pub(super) const ALL: Self = Self(7);

    const LETTERS: [(char, Self); 3] = [('r', Self::READ), ('w', Self::WRITE), ('m', Self::MAKE)];

    pub(super) fn parse(letters: &str) -> Option<Self> {
        letters.chars().try_fold(Self::default(), |access, letter| {
            let (_, bit) = Self::LETTERS.iter().find(|(known, _)| *known == letter)?;
            Some(access.with(*bit))
        })
    }

    pub(super) fn letters(self) -> String {
        let set = Self::LETTERS.iter().filter(|(_, bit)| self.meets(*bit));
        set.map(|(letter, _)| letter).collect()
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// The devices that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) kind: Kind,
    /// All numbers if there is none.
    pub(super) major: Option<i32>,
    pub(super) minor: Option<i32>,
}

impl Devices {
    /// Whether they are among these.
    pub(super) fn cover(&self, others: &Self) -> bool {
        self.kind == others.kind
            && (self.major.is_none() || self.major == others.major)
            && (self.minor.is_none() || self.minor == others.minor)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) devices: Devices,
    pub(super) access: Access,
}

/// Rules of which the last one that is about an access decides on it. An access to read and to
/// write is two, and both have to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// What holds where no rule says anything.
    pub(super) allow: bool,
    pub(super) rules: Vec<Rule>,
}

/// What every container may do, whatever its spec says: runc's list, and `console`, with which
/// libcgroups extends it on cgroup v1.
const ALWAYS: [(Kind, Option<i32>, Option<i32>, Access); 12] = {
    use Kind::{Block, Char};
    [
        (Block, None, None, Access::MAKE),
        (Char, None, None, Access::MAKE),
        (Char, Some(1), Some(3), Access::ALL),    // null
        (Char, Some(1), Some(5), Access::ALL),    // zero
        (Char, Some(1), Some(7), Access::ALL),    // full
        (Char, Some(1), Some(8), Access::ALL),    // random
        (Char, Some(1), Some(9), Access::ALL),    // urandom
        (Char, Some(5), Some(0), Access::ALL),    // tty
        (Char, Some(5), Some(1), Access::ALL),    // console
        (Char, Some(5), Some(2), Access::ALL),    // ptmx
        (Char, Some(136), None, Access::ALL),     // pts/*
        (Char, Some(10), Some(200), Access::ALL), // net/tun
    ]
};

impl Rules {
    /// Those of a spec, and what every container may do. Without a rule nothing else is allowed.
    pub(super) fn parse(spec: &[LinuxDeviceCgroup]) -> Result<Self, Failure> {
        let mut parsed = Self {
            allow: false,
            rules: Vec::new(),
        };
        for rule in spec {
            parsed.add(rule).map_err(|why| {
                Failure::invalid(format!(
                    "the device rule \"{rule}\" cannot be applied: {why}"
                ))
            })?;
        }
        parsed
            .rules
            .extend(ALWAYS.map(|(kind, major, minor, access)| Rule {
                allow: true,
                devices: Devices { kind, major, minor },
                access,
            }));
        parsed.forget_overruled();
        // Rules that repeat what holds anyway are not worth an instruction.
        let first = parsed
            .rules
            .iter()
            .position(|rule| rule.allow != parsed.allow);
        parsed.rules.drain(..first.unwrap_or(parsed.rules.len()));
        Ok(parsed)
    }

    /// Docker's rules repeat what is always allowed.
    fn forget_overruled(&mut self) {
        let rules = std::mem::take(&mut self.rules);
        let is_overruled = |rule: &Rule, later: &[Rule]| {
            later.iter().any(|later| {
                later.devices.cover(&rule.devices) && rule.access.without(later.access).is_empty()
            })
        };
        let kept = rules.iter().enumerate();
        let kept = kept.filter(|(index, rule)| !is_overruled(rule, &rules[index + 1..]));
        self.rules = kept.map(|(_, rule)| *rule).collect();
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> Result<(), String> {
        let kind = match rule.typ().unwrap_or_default() {
            // Numbers and access do not matter then, as on cgroup v1.
            LinuxDeviceType::A => {
                self.allow = rule.allow();
                self.rules.clear();
                return Ok(());
            }
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C => Kind::Char,
            other => {
                return Err(format!(
                    "its type has to be a, b or c, not {}",
                    other.as_str()
                ));
            }
        };
        let letters = rule.access().as_deref().unwrap_or_default();
        let access = Access::parse(letters).ok_or_else(|| {
            format!("its access has to be of the letters r, w and m, not {letters}")
        })?;
        if !access.is_empty() {
            self.rules.push(Rule {
                allow: rule.allow(),
                devices: Devices {
                    kind,
                    major: number(rule.major(), MAJOR_BITS)?,
                    minor: number(rule.minor(), MINOR_BITS)?,
                },
                access,
            });
        }
        Ok(())
    }
}

/// A device number. -1 stands for all of them, which is what Docker writes.
fn number(number: Option<i64>, bits: i32) -> Result<Option<i32>, String> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number)
            .ok()
            .filter(|number| (0..1 << bits).contains(number))
            .map(Some)
            .ok_or_else(|| format!("there is no device number {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Rules, Failure> {
        Rules::parse(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(json).unwrap())
    }

    #[test]
    fn a_rule_for_all_devices_forgets_those_before_it() {
        let rules = parse(
            r#"[{"allow": true, "type": "c", "major": 4, "minor": 1, "access": "rw"},
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "b", "major": 8, "minor": -1, "access": "r"}]"#,
        )
        .unwrap();
        assert!(!rules.allow);
        assert_eq!(rules.rules.len(), 1 + ALWAYS.len());
        assert_eq!(rules.rules[0].devices.major, Some(8));
        assert_eq!(rules.rules[0].devices.minor, None);
        assert_eq!(rules.rules[0].access.letters(), "r");
    }

    #[test]
    fn rules_that_change_nothing_are_left_out() {
        let privileged = parse(r#"[{"allow": true, "access": "rwm"}]"#).unwrap();
        assert_eq!((privileged.allow, privileged.rules.len()), (true, 0));
        let denied = parse(
            r#"[{"allow": false, "type": "b", "access": "rwm"}, {"allow": true, "type": "c", "access": ""}]"#,
        );
        assert_eq!(denied.unwrap(), parse("[]").unwrap());
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused_with_its_reason() {
        for (rule, why) in [
            (
                r#"{"allow": true, "type": "u", "access": "r"}"#,
                "type has to be",
            ),
            (
                r#"{"allow": true, "type": "p", "access": "r"}"#,
                "type has to be",
            ),
            (
                r#"{"allow": true, "type": "c", "access": "rx"}"#,
                "access has to be",
            ),
            (
                r#"{"allow": true, "type": "c", "major": -2, "access": "r"}"#,
                "number -2",
            ),
            (
                r#"{"allow": true, "type": "c", "minor": 1048576, "access": "r"}"#,
                "number 1048576",
            ),
        ] {
            let failure = parse(&format!("[{rule}]")).unwrap_err();
            assert!(failure.message.contains(why), "{}", failure.message);
        }
    }
}
