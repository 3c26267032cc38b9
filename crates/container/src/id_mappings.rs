//! Which users and groups of a user namespace are which of the host.

use lighter_core::Failure;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Spec};

/// The mappings of a user namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IdMappings {
    pub(crate) uids: Vec<LinuxIdMapping>,
    pub(crate) gids: Vec<LinuxIdMapping>,
}

impl IdMappings {
    /// Those that a spec has in `linux`.
    pub(crate) fn of_spec(spec: &Spec) -> Self {
        let linux = spec.linux().as_ref();
        let list = |mappings: Option<&Option<Vec<LinuxIdMapping>>>| {
            mappings.cloned().flatten().unwrap_or_default()
        };
        Self {
            uids: list(linux.map(|linux| linux.uid_mappings())),
            gids: list(linux.map(|linux| linux.gid_mappings())),
        }
    }

    /// Those of two texts as containerd writes them: `0:100000:65536,...`.
    pub(crate) fn from_options(uids: &str, gids: &str) -> Result<Self, Failure> {
        Ok(Self {
            uids: parse(uids, ',', |range| range.split(':').collect())?,
            gids: parse(gids, ',', |range| range.split(':').collect())?,
        })
    }

    /// Those of the kernel's tables (`/proc/PID/uid_map` and `gid_map`, user_namespaces(7)).
    pub(crate) fn from_tables(uids: &str, gids: &str) -> Result<Self, Failure> {
        let fields = |line: &str| -> Vec<String> {
            line.split_whitespace().map(ToOwned::to_owned).collect()
        };
        Ok(Self {
            uids: parse(uids, '\n', fields)?,
            gids: parse(gids, '\n', fields)?,
        })
    }

    /// Whether no user or no group is mapped.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.uids.is_empty() || self.gids.is_empty()
    }

    /// Whether there is none at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether both say the same, in whatever order.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        sorted(&self.uids) == sorted(&other.uids) && sorted(&self.gids) == sorted(&other.gids)
    }

    /// Whether the namespace has a root, as whom a container is made.
    pub(crate) fn have_root(&self) -> bool {
        to_host(&self.uids, 0).is_some() && to_host(&self.gids, 0).is_some()
    }

    /// Writes them into a spec.
    pub(crate) fn write_to(&self, spec: &mut Spec) {
        if let Some(mut linux) = spec.linux().clone() {
            linux.set_uid_mappings(Some(self.uids.clone()));
            linux.set_gid_mappings(Some(self.gids.clone()));
            spec.set_linux(Some(linux));
        }
    }
}

/// The host's number of a user or group of a namespace.
pub(crate) fn to_host(mappings: &[LinuxIdMapping], id: u32) -> Option<u32> {
    mappings.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id())?;
        (offset < range.size())
            .then(|| range.host_id().checked_add(offset))
            .flatten()
    })
}

/// The table that the kernel is written, all lines at once.
pub(crate) fn table(mappings: &[LinuxIdMapping]) -> String {
    let line = |range: &LinuxIdMapping| {
        format!(
            "{} {} {}\n",
            range.container_id(),
            range.host_id(),
            range.size()
        )
    };
    mappings.iter().map(line).collect()
}

fn sorted(mappings: &[LinuxIdMapping]) -> Vec<(u32, u32, u32)> {
    let mut ranges: Vec<_> = mappings
        .iter()
        .map(|range| (range.container_id(), range.host_id(), range.size()))
        .collect();
    ranges.sort_unstable();
    ranges
}

fn parse<'a, T: AsRef<str>>(
    text: &'a str,
    separator: char,
    fields: impl Fn(&'a str) -> Vec<T>,
) -> Result<Vec<LinuxIdMapping>, Failure> {
    let lines = text.split(separator).filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let numbers: Option<Vec<u32>> = fields(line)
                .iter()
                .map(|field| field.as_ref().trim().parse().ok())
                .collect();
            let Some([container, host, size]) = numbers.as_deref() else {
                return Err(Failure::invalid(format!(
                    "{line:?} is no mapping of users or groups: it needs the form container-id:host-id:size"
                )));
            };
            LinuxIdMappingBuilder::default()
                .container_id(*container)
                .host_id(*host)
                .size(*size)
                .build()
                .map_err(|error| Failure::invalid(error.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mappings(text: &str) -> IdMappings {
        IdMappings::from_options(text, text).unwrap()
    }

    #[test]
    fn options_and_tables_of_the_kernel_are_read_alike() {
        let read = mappings("0:100000:1000,1000:1000:1,1001:101001:64535");
        let table = table(&read.uids);
        assert_eq!(table, "0 100000 1000\n1000 1000 1\n1001 101001 64535\n");
        let spaced = table.replace(' ', "     ");
        assert_eq!(IdMappings::from_tables(&spaced, &table).unwrap(), read);
        for wrong in ["0:1", "0:1:2:3", "a:1:2", "-1:0:1", "0:4294967296:1"] {
            assert!(IdMappings::from_options(wrong, "0:0:1").is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_found_in_its_range_alone() {
        let read = mappings("0:100000:1000,1000:1000:1,4294967295:4294967295:1");
        for (id, host) in [
            (0, Some(100_000)),
            (999, Some(100_999)),
            (1000, Some(1000)),
            (1001, None),
            (u32::MAX, Some(u32::MAX)),
        ] {
            assert_eq!(to_host(&read.uids, id), host, "{id}");
        }
        // Beyond the last number there is none.
        assert_eq!(to_host(&mappings("0:4294967290:100").uids, 50), None);
    }

    #[test]
    fn the_order_of_ranges_means_nothing() {
        let one = mappings("0:1000:10,20:3000:5");
        assert!(one.is_same(&mappings("20:3000:5,0:1000:10")));
        assert!(!one.is_same(&mappings("0:1000:10,20:3000:6")));
        assert!(one.have_root());
        assert!(!mappings("1:1000:10").have_root());
        assert!(
            IdMappings::from_options("0:0:1", "")
                .unwrap()
                .is_incomplete()
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            ranges in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..20),
        ) {
            let text: Vec<_> = ranges.iter().map(|(a, b, c)| format!("{a}:{b}:{c}")).collect();
            let read = mappings(&text.join(","));
            let table = table(&read.uids);
            prop_assert_eq!(IdMappings::from_tables(&table, &table).unwrap(), read);
        }
    }
}
