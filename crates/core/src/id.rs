//! Container ids: they become file names, so nothing else than a name may pass.

use std::fmt;

/// The longest id that containerd allows (`pkg/identifiers`), in bytes.
const MAX_LENGTH: usize = 76;

/// A name that is safe as one component of a path.
///
/// containerd's rule (`pkg/identifiers`): letters and digits, with single `.`, `_` or `-`
/// between them, at most 76 bytes. It excludes `/`, `..`, the empty name and every name that
/// starts with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

/// An id that is not a name.
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid container id or namespace {0:?}: letters and digits with single '.', '_' or '-' between them are allowed, {MAX_LENGTH} bytes at most"
)]
pub struct InvalidContainerId(String);

impl ContainerId {
    /// Takes `id` if containerd's rule allows it.
    pub fn parse(id: &str) -> Result<Self, InvalidContainerId> {
        let words_are_plain = id
            .split(['.', '_', '-'])
            .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()));
        if words_are_plain && id.len() <= MAX_LENGTH {
            Ok(Self(id.to_owned()))
        } else {
            Err(InvalidContainerId(id.chars().take(120).collect()))
        }
    }

    /// The id as containerd wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_containerd_uses_is_accepted() {
        for id in ["hello", "a.b_c-d", &"f".repeat(64), "k8s.io"] {
            assert_eq!(ContainerId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn paths_are_refused() {
        for id in [
            "", ".", "..", "../x", "a/b", "/", "a..b", "-a", "a-", "a\0", "ä",
        ] {
            assert!(ContainerId::parse(id).is_err(), "{id:?}");
        }
        assert!(ContainerId::parse(&"a".repeat(77)).is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_path_component(id in ".{0,90}") {
            if let Ok(id) = ContainerId::parse(&id) {
                let mut components = std::path::Path::new(id.as_str()).components();
                prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(components.next().is_none());
            }
        }
    }
}
