//! Which file a containerd's handlers are configured in.

use std::path::{Path, PathBuf};

use super::section::Syntax;

/// A containerd's version: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// The oldest that a shim of this kind works with.
    pub const OLDEST: Self = Self(1, 6);
    /// The first that minds a handler's `runtime_path`.
    pub const KNOWS_PATHS: Self = Self(1, 7);
    /// The first that merges what it imports; earlier ones replace whole plugins by it, and so lose
    /// what the configuration itself says of the CRI.
    const MERGES_IMPORTS: Self = Self(2, 0);

    /// That in `containerd --version`: `containerd github.com/containerd/containerd v1.7.24 88bf...`.
    pub fn parse(line: &str) -> Option<Self> {
        line.split_whitespace().skip(1).find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let mut numbers = word.split(['.', '-', '~', '+']);
            let major = numbers.next()?.parse().ok()?;
            Some(Self(major, numbers.next()?.parse().ok()?))
        })
    }

    /// The syntax of a new file.
    pub fn syntax(self) -> Syntax {
        if self >= Self::MERGES_IMPORTS {
            Syntax::V3
        } else {
            Syntax::V2
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

/// How the handler gets into a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// By a file of its own in a folder that is imported.
    DropIn(PathBuf),
    /// By an edit of the configuration.
    Edit(PathBuf),
    /// By an edit of the file that the configuration is made of at each start, which is TOML too.
    EditSource(PathBuf),
    /// By a section in a Go template that the configuration is made of.
    Template(PathBuf),
}

impl Place {
    /// The file.
    pub fn file(&self) -> &Path {
        match self {
            Self::DropIn(file)
            | Self::Edit(file)
            | Self::EditSource(file)
            | Self::Template(file) => file,
        }
    }

    /// Whether the configuration that containerd reads is made anew by its restart.
    pub fn is_source(&self) -> bool {
        matches!(self, Self::EditSource(_) | Self::Template(_))
    }
}

/// Name of the drop-in: late, as imports are merged in the order of names.
const DROP_IN: &str = "90-lighter.toml";

/// Chooses the file by what is known of a containerd: its version, its configuration's file, the syntax
/// of that, what it imports (absolute patterns), and which other files there are.
pub fn place(
    version: Version,
    config: &Path,
    syntax: Syntax,
    imports: &[String],
    exists: &dyn Fn(&Path) -> bool,
) -> Place {
    let folder = config.parent().unwrap_or(Path::new("/"));
    if version >= Version::MERGES_IMPORTS
        && let Some(imported) = imports.iter().find_map(|pattern| imported(pattern))
    {
        return Place::DropIn(imported.join(DROP_IN));
    }
    if is_rancher(config) {
        // k3s and RKE2 take the first of these that is there.
        let newer = folder.join("config-v3.toml.tmpl");
        return Place::Template(if syntax == Syntax::V3 || exists(&newer) {
            newer
        } else {
            folder.join("config.toml.tmpl")
        });
    }
    let source = folder.join("containerd-template.toml");
    if config.ends_with("args/containerd.toml") && exists(&source) {
        return Place::EditSource(source);
    }
    Place::Edit(config.to_owned())
}

/// Whether k3s or RKE2 makes this file: below `/var/lib/rancher/k3s`, or another data folder.
pub fn is_rancher(config: &Path) -> bool {
    config.ends_with("agent/etc/containerd/config.toml")
}

/// The folder of a pattern that takes any TOML file of it.
fn imported(pattern: &str) -> Option<PathBuf> {
    let folder = pattern.strip_suffix("/*.toml")?;
    let literal = Path::new(folder).is_absolute() && !folder.contains(['*', '?', '[']);
    literal.then(|| PathBuf::from(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Version = Version(1, 7);
    const NEW: Version = Version(2, 1);
    const PLAIN: &str = "/etc/containerd/config.toml";
    const K3S: &str = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml";
    const MICROK8S: &str = "/var/snap/microk8s/current/args/containerd.toml";

    fn placed(version: Version, config: &str, imports: &[&str], files: &[&str]) -> Place {
        let imports: Vec<String> = imports.iter().map(|each| (*each).to_owned()).collect();
        let exists = |path: &Path| files.iter().any(|file| path == Path::new(file));
        let syntax = version.syntax();
        place(version, Path::new(config), syntax, &imports, &exists)
    }

    #[test]
    fn versions_are_read_from_what_distributions_print() {
        for (line, version) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
                Version(1, 6),
            ),
            (
                "containerd github.com/containerd/containerd v1.7.24 88bf19b2105c8b17560993bee28a01ddc2f97182",
                Version(1, 7),
            ),
            (
                "containerd github.com/containerd/containerd/v2 2.1.9 ",
                Version(2, 1),
            ),
            (
                "containerd github.com/k3s-io/containerd v2.1.5-k3s1 ",
                Version(2, 1),
            ),
        ] {
            assert_eq!(Version::parse(line), Some(version), "{line}");
        }
        assert_eq!(Version::parse("runc version one"), None);
    }

    #[test]
    fn a_folder_is_used_where_it_is_merged() {
        let pattern = "/etc/containerd/conf.d/*.toml";
        let file = PathBuf::from("/etc/containerd/conf.d/90-lighter.toml");
        assert_eq!(placed(NEW, PLAIN, &[pattern], &[]), Place::DropIn(file));
        for imports in [
            &[][..],
            &["/etc/containerd/other.toml"],
            &["/etc/*/*.toml"],
            &["conf.d/*.toml"],
        ] {
            assert_eq!(
                placed(NEW, PLAIN, imports, &[]),
                Place::Edit(PLAIN.into()),
                "{imports:?}"
            );
        }
        assert_eq!(
            placed(OLD, PLAIN, &[pattern], &[]),
            Place::Edit(PLAIN.into())
        );
    }

    #[test]
    fn k3s_has_a_folder_or_a_template() {
        let folder = "/var/lib/rancher/k3s/agent/etc/containerd";
        let pattern = format!("{folder}/config-v3.toml.d/*.toml");
        assert_eq!(
            placed(NEW, K3S, &[&pattern], &[]),
            Place::DropIn(format!("{folder}/config-v3.toml.d/90-lighter.toml").into())
        );
        let newer = format!("{folder}/config-v3.toml.tmpl");
        assert_eq!(
            placed(NEW, K3S, &[], &[]),
            Place::Template(newer.clone().into())
        );
        assert_eq!(
            placed(OLD, K3S, &[], &[&newer]),
            Place::Template(newer.clone().into())
        );
        let older = format!("{folder}/config.toml.tmpl");
        assert_eq!(placed(OLD, K3S, &[], &[]), Place::Template(older.into()));
    }

    #[test]
    fn microk8s_makes_its_configuration_of_a_file() {
        let source = "/var/snap/microk8s/current/args/containerd-template.toml";
        assert_eq!(
            placed(OLD, MICROK8S, &[], &[source]),
            Place::EditSource(source.into())
        );
        assert_eq!(
            placed(OLD, MICROK8S, &[], &[]),
            Place::Edit(MICROK8S.into())
        );
    }
}
