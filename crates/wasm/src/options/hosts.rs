//! Lists of hosts that requests may go to.

use std::fmt;

/// `*`, `example.com`, `*.example.com`, each also with `:PORT`. IPv6 addresses stand in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// Lower case; empty stands for any host, a leading dot for any host below it.
    suffix: String,
    port: Option<u16>,
}

impl HostPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') || text.starts_with('.') {
            return Err(not_a_host(text));
        }
        let (host, port) = split_port(text)
            .ok_or_else(|| format!("{text:?} has no valid port (1 to 65535) after the colon"))?;
        let suffix = match host.strip_prefix('*') {
            Some("") => String::new(),
            Some(rest) if rest.len() > 1 && rest.starts_with('.') => rest.to_ascii_lowercase(),
            Some(_) => {
                return Err(format!(
                    "{text:?}: an asterisk stands alone or before a dot, as in *.example.com"
                ));
            }
            None => host.to_ascii_lowercase(),
        };
        let plain = |character: char| {
            character.is_ascii_alphanumeric()
                || matches!(character, '-' | '.' | '_' | '[' | ']' | ':')
        };
        if (suffix.is_empty() && host != "*") || !suffix.chars().all(plain) {
            return Err(not_a_host(text));
        }
        Ok(Self { suffix, port })
    }

    fn matches(&self, host: &str, port: u16) -> bool {
        self.port.is_none_or(|own| own == port) && self.matches_name(&host.to_ascii_lowercase())
    }

    fn matches_name(&self, host: &str) -> bool {
        self.suffix.is_empty()
            || if self.suffix.starts_with('.') {
                host.len() > self.suffix.len() && host.ends_with(&self.suffix)
            } else {
                host == self.suffix
            }
    }

    /// Whether everything that `other` matches is matched by this one.
    fn covers(&self, other: &Self) -> bool {
        let port = self.port.is_none() || self.port == other.port;
        let name = self.suffix.is_empty()
            || self.suffix == other.suffix
            || (!other.suffix.is_empty()
                && self.suffix.starts_with('.')
                && other.suffix.ends_with(&self.suffix)
                && other.suffix.len() > self.suffix.len());
        port && name
    }
}

fn not_a_host(text: &str) -> String {
    format!("{text:?} is no host: write a name or an address, without scheme and path")
}

/// Host and port, where a colon follows the host. `None` for a port that is no number.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let end_of_address = text.rfind(']').map_or(0, |bracket| bracket + 1);
    match text[end_of_address..].rfind(':') {
        None => Some((text, None)),
        Some(colon) => {
            let colon = end_of_address + colon;
            let port: u16 = text[colon + 1..].parse().ok()?;
            (port != 0).then_some((&text[..colon], Some(port)))
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.suffix.is_empty() || self.suffix.starts_with('.') {
            formatter.write_str("*")?;
        }
        formatter.write_str(&self.suffix)?;
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

/// Hosts that are allowed: those that every list allows. No list allows all.
///
/// The owner's list stays beside a pod's, so that nothing depends on how they are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    lists: Vec<Vec<HostPattern>>,
}

impl Hosts {
    /// Whether requests to this host and port may be sent.
    pub fn allow(&self, host: &str, port: u16) -> bool {
        self.lists
            .iter()
            .all(|list| list.iter().any(|pattern| pattern.matches(host, port)))
    }

    /// The hosts that are also in `list`.
    #[must_use]
    pub fn and(mut self, list: Vec<HostPattern>) -> Self {
        self.lists.push(list);
        self
    }

    /// The first pattern of `list` that these hosts do not cover: it would allow more.
    pub fn first_wider<'a>(&self, list: &'a [HostPattern]) -> Option<&'a HostPattern> {
        list.iter().find(|pattern| {
            !self
                .lists
                .iter()
                .all(|own| own.iter().any(|known| known.covers(pattern)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(patterns: &[&str]) -> Vec<HostPattern> {
        patterns
            .iter()
            .map(|text| HostPattern::parse(text).unwrap())
            .collect()
    }

    #[test]
    fn patterns_match_names_and_ports() {
        let hosts = Hosts::default().and(list(&["api.example.com", "*.test:8443", "[::1]:80"]));
        for (host, port, allowed) in [
            ("api.example.com", 443, true),
            ("API.Example.com", 80, true),
            ("example.com", 443, false),
            ("xapi.example.com", 443, false),
            ("a.test", 8443, true),
            ("a.b.test", 8443, true),
            ("a.test", 443, false),
            ("test", 8443, false),
            (".test", 8443, false),
            ("[::1]", 80, true),
            ("[::1]", 81, false),
        ] {
            assert_eq!(hosts.allow(host, port), allowed, "{host}:{port}");
        }
        assert!(Hosts::default().allow("anything", 1));
        assert!(!Hosts::default().and(Vec::new()).allow("anything", 1));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in [
            ".",
            ".example.com",
            "",
            "a*b",
            "*x",
            "*.",
            "http://a",
            "a/b",
            "a:0",
            "a:http",
            "a b",
            "a:70000",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn wider_patterns_are_found() {
        let owner = Hosts::default().and(list(&["*.example.com", "db.test:5432"]));
        assert_eq!(
            owner.first_wider(&list(&["a.example.com:1", "*.b.example.com"])),
            None
        );
        assert_eq!(owner.first_wider(&list(&["db.test:5432"])), None);
        for wider in ["*", "example.com", "db.test", "db.test:1", "*.com"] {
            assert!(owner.first_wider(&list(&[wider])).is_some(), "{wider}");
        }
        assert_eq!(Hosts::default().first_wider(&list(&["*"])), None);
    }

    fn pattern() -> impl Strategy<Value = String> {
        "(\\*|(\\*\\.)?[ab](\\.[ab]){0,2})(:[1-3])?"
    }

    proptest! {
        #[test]
        fn what_is_covered_is_never_wider(
            own in proptest::collection::vec(pattern(), 0..3),
            other in proptest::collection::vec(pattern(), 0..3),
            host in "[ab](\\.[ab]){0,3}",
            port in 1..4u16,
        ) {
            let parse = |texts: Vec<String>| -> Vec<HostPattern> {
                texts.iter().map(|text| HostPattern::parse(text).unwrap()).collect()
            };
            let owner = Hosts::default().and(parse(own));
            let tenant = parse(other);
            if owner.first_wider(&tenant).is_none() && Hosts::default().and(tenant).allow(&host, port) {
                prop_assert!(owner.allow(&host, port));
            }
        }

        #[test]
        fn parsing_never_panics_and_is_read_back(text in "\\PC{0,20}") {
            if let Ok(pattern) = HostPattern::parse(&text) {
                prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
            }
        }
    }
}
