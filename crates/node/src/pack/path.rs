//! Paths inside of an image.

use std::fmt;
use std::str::FromStr;

/// An absolute path without detours: every client that unpacks it makes the same file of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImagePath(String);

impl ImagePath {
    /// Without the slash at its beginning, as layers have it; empty for the root.
    pub fn relative(&self) -> &str {
        &self.0[1..]
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for ImagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no path in an image: {why}"));
        let Some(relative) = text.strip_prefix('/') else {
            return wrong("it begins with /");
        };
        for part in relative.split('/').filter(|_| !relative.is_empty()) {
            if matches!(part, "" | "." | "..") {
                return wrong("it has no empty part, no . and no ..");
            }
            // A layer says by such a name that a file of the layers below is gone.
            if part.starts_with(".wh.") {
                return wrong("names that begin with .wh. delete files");
            }
            if part.contains(|c: char| c.is_control()) {
                return wrong("it has no control characters");
            }
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn detours_and_deletions_are_refused() {
        for right in ["/", "/a", "/a b/ü.wasm", "/a/..b"] {
            assert!(right.parse::<ImagePath>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            "a",
            "//",
            "/a/",
            "/a//b",
            "/./a",
            "/a/..",
            "/.wh.a",
            "/a/.wh..wh..opq",
            "/a\n",
        ] {
            assert!(wrong.parse::<ImagePath>().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_stays_below_the_root(text in "[/a.]{0,12}") {
            if let Ok(path) = text.parse::<ImagePath>() {
                let relative = std::path::Path::new(path.relative());
                prop_assert!(relative.components().all(
                    |part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
