//! How a volume is mounted in front of libcontainer: its flags, and whose ids it shows.

use libcontainer::rootfs::utils::parse_mount;
use lighter_core::{ErrorClass, Failure};
use nix::mount::MsFlags;
use oci_spec::runtime::Mount;

use crate::id_mappings::IdMappings;
use crate::mount_points::is_bind;
use crate::mount_tree::Attributes;

/// Options that are flags of a mount: what they say is done here.
const FLAGS: &[(&str, u64)] = &[
    ("atime", 0),
    ("dev", 0),
    ("diratime", 0),
    ("exec", 0),
    ("noatime", libc::MOUNT_ATTR_NOATIME),
    ("nodev", libc::MOUNT_ATTR_NODEV),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME),
    ("noexec", libc::MOUNT_ATTR_NOEXEC),
    ("norelatime", 0),
    ("nostrictatime", 0),
    ("nosuid", libc::MOUNT_ATTR_NOSUID),
    ("relatime", libc::MOUNT_ATTR_RELATIME),
    ("ro", libc::MOUNT_ATTR_RDONLY),
    ("rw", 0),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME),
    ("suid", 0),
];

/// The option that maps a volume's ids, and that maps those of the mounts below it, too.
const MAPPED: &str = "idmap";
const ALL_MAPPED: &str = "ridmap";

/// How a volume is mounted.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// With the mounts below it.
    pub(crate) is_recursive: bool,
    pub(crate) attributes: Attributes,
    /// Those of the mounts below it, too.
    pub(crate) all_attributes: Option<Attributes>,
    pub(crate) ids: Ids,
    /// The options that are libcontainer's to understand.
    pub(crate) left: Vec<String>,
}

/// Whose ids a volume shows.
#[derive(Debug, PartialEq)]
pub(crate) enum Ids {
    /// The host's.
    Host,
    /// Those of the container's user namespace, or of mappings of its own.
    Mapped {
        mappings: Option<IdMappings>,
        is_recursive: bool,
    },
}

impl Plan {
    /// That of a mount in a container that has a user namespace, or has none.
    pub(crate) fn of(mount: &Mount, has_users: bool) -> Result<Self, Failure> {
        if !is_bind(mount) {
            return Err(cannot_map(
                mount,
                "id-mapped mounts are only supported for bind-mounts",
            ));
        }
        let options = mount.options().clone().unwrap_or_default();
        let has = |name: &str| options.iter().any(|option| option == name);
        let parsed = parse_mount(mount)
            .map_err(|error| Failure::from_error(ErrorClass::InvalidArgument, &error))?;
        let mut attributes = Attributes::default();
        for (name, attribute) in FLAGS {
            // The last of several counts, which libcontainer has found out.
            let flag = parsed_flag(name);
            if flag.is_some_and(|flag| parsed.flags.bits() & flag.bits() != 0) {
                attributes.set |= attribute;
            }
        }
        if attributes.set & libc::MOUNT_ATTR__ATIME != 0 || has("relatime") {
            attributes.clear |= libc::MOUNT_ATTR__ATIME;
        }
        if attributes.set & libc::MOUNT_ATTR__ATIME == libc::MOUNT_ATTR__ATIME {
            // Both at once are neither; strictatime is what libcontainer takes.
            attributes.set &= !libc::MOUNT_ATTR_NOATIME;
        }
        let all_attributes = parsed.rec_attr.map(|it| Attributes {
            set: it.attr_set,
            clear: it.attr_clr,
        });
        let mut left = options.clone();
        left.retain(|option| {
            let done = FLAGS.iter().any(|(name, _)| name == option)
                || [MAPPED, ALL_MAPPED].contains(&option.as_str())
                || is_recursive_flag(option);
            !done
        });
        Ok(Self {
            is_recursive: has("rbind"),
            attributes,
            all_attributes,
            ids: ids(mount, has_users)?,
            left,
        })
    }
}

/// Whose ids a volume shows. It has the words of runc for what is wrong.
fn ids(mount: &Mount, has_users: bool) -> Result<Ids, Failure> {
    if !is_mapped(mount) {
        return Ok(Ids::Host);
    }
    let has = |name: &str| {
        let mut options = mount.options().iter().flatten();
        options.any(|option| option == name)
    };
    let mappings = match (mount.uid_mappings(), mount.gid_mappings()) {
        (None, None) => None,
        (uids, gids) => Some(IdMappings {
            uids: uids.clone().unwrap_or_default(),
            gids: gids.clone().unwrap_or_default(),
        }),
    };
    if mappings
        .as_ref()
        .map_or(!has_users, IdMappings::is_incomplete)
    {
        return Err(no_mappings(mount));
    }
    Ok(Ids::Mapped {
        mappings,
        is_recursive: has(ALL_MAPPED),
    })
}

pub(crate) fn is_mapped(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    mount.uid_mappings().is_some()
        || mount.gid_mappings().is_some()
        || options.any(|option| option == MAPPED || option == ALL_MAPPED)
}

/// The flag of mount(2) that libcontainer takes an option for.
fn parsed_flag(name: &str) -> Option<MsFlags> {
    Some(match name {
        "noatime" => MsFlags::MS_NOATIME,
        "nodev" => MsFlags::MS_NODEV,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "noexec" => MsFlags::MS_NOEXEC,
        "nosuid" => MsFlags::MS_NOSUID,
        "relatime" => MsFlags::MS_RELATIME,
        "ro" => MsFlags::MS_RDONLY,
        "strictatime" => MsFlags::MS_STRICTATIME,
        _ => return None,
    })
}

/// Whether an option is a flag for a whole tree of mounts: `rro` and the like.
fn is_recursive_flag(option: &str) -> bool {
    option.strip_prefix('r').is_some_and(|plain| {
        FLAGS.iter().any(|(name, _)| *name == plain)
            || plain == "nosymfollow"
            || plain == "symfollow"
    })
}

pub(crate) fn cannot_map(mount: &Mount, why: &str) -> Failure {
    Failure::invalid(format!(
        "invalid mount at {}: {why}",
        mount.destination().display()
    ))
}

pub(crate) fn no_mappings(mount: &Mount) -> Failure {
    cannot_map(
        mount,
        "id-mapped mounts must have both uid and gid mappings specified",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxIdMappingBuilder, MountBuilder};

    fn volume(options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination("/data")
            .typ("bind")
            .source("/srv")
            .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    fn with_mappings(options: &[&str], size: u32) -> Mount {
        let mut mount = volume(options);
        let range = LinuxIdMappingBuilder::default().size(size).build().unwrap();
        mount.set_uid_mappings(Some(vec![range]));
        mount.set_gid_mappings(Some(vec![range]));
        mount
    }

    #[test]
    fn flags_are_done_here_and_the_rest_is_libcontainers() {
        let options = [
            "rbind",
            "rprivate",
            "ro",
            "rw",
            "nosuid",
            "noatime",
            "rnodev",
            "idmap",
            "nosymfollow",
        ];
        let plan = Plan::of(&volume(&options), true).unwrap();
        assert!(plan.is_recursive);
        assert_eq!(
            plan.attributes,
            Attributes {
                set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOATIME,
                clear: libc::MOUNT_ATTR__ATIME,
            },
            "rw comes after ro"
        );
        assert_eq!(
            plan.all_attributes,
            Some(Attributes {
                set: libc::MOUNT_ATTR_NODEV,
                clear: 0,
            })
        );
        assert_eq!(plan.left, ["rbind", "rprivate", "nosymfollow"]);
        assert!(
            !Plan::of(&volume(&["bind", "ro"]), true)
                .unwrap()
                .is_recursive
        );
    }

    #[test]
    fn ids_are_the_mounts_own_or_the_containers() {
        let ids = |mount: &Mount, has_users| super::ids(mount, has_users);
        assert_eq!(ids(&volume(&["rbind"]), true).unwrap(), Ids::Host);
        let mapped = |is_recursive, mappings| Ids::Mapped {
            mappings,
            is_recursive,
        };
        assert_eq!(
            ids(&volume(&["bind", "idmap"]), true).unwrap(),
            mapped(false, None)
        );
        assert_eq!(
            ids(&volume(&["rbind", "ridmap"]), true).unwrap(),
            mapped(true, None)
        );
        let own = with_mappings(&["bind"], 5);
        for has_users in [false, true] {
            let Ids::Mapped {
                mappings: Some(mappings),
                is_recursive: false,
            } = ids(&own, has_users).unwrap()
            else {
                panic!("not its own");
            };
            assert_eq!(mappings.uids[0].size(), 5);
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_in_runcs_words() {
        let refused = |mount: &Mount, has_users, text: &str| {
            let failure = Plan::of(mount, has_users).unwrap_err();
            assert_eq!(failure.class, ErrorClass::InvalidArgument);
            assert!(failure.message.contains(text), "{failure}");
        };
        let both = "must have both uid and gid mappings";
        refused(&volume(&["bind", "idmap"]), false, both);
        let mut half = with_mappings(&["bind"], 1);
        half.set_gid_mappings(None);
        refused(&half, true, both);
        half.set_gid_mappings(Some(vec![]));
        refused(&half, true, both);
        let mut other = volume(&["idmap"]);
        other.set_typ(Some("tmpfs".into()));
        refused(&other, true, "only supported for bind-mounts");
    }
}
