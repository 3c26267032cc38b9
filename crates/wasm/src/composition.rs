//! Components that become one: what is handed to the compile worker, and what it says of it.
//!
//! ```text
//! lighter components 1
//! 1234 app.wasm            length in bytes, and what the component is called in messages
//! 567 lib.wasm
//!                          an empty line, and then their bytes, one after the other
//! ```
//!
//! The first component is the program; the others are there for what it imports. Which of them
//! are used, and for what, is found by the worker alone: it is the one that reads strangers'
//! types.

use std::fmt;

use crate::engine::VERSION;

const TITLE: &str = "lighter components 1";

/// Most components that are composed.
pub const MAX_COMPONENTS: usize = 64;

/// Longest name of a component, in bytes.
const MAX_NAME: usize = 1024;

/// The packages of interfaces that components get from this host. Whatever else they import has
/// to come from each other. It stands here because the worker has no linker to ask.
const HOST_PACKAGES: &[&str] = &[
    "wasi:cli",
    "wasi:clocks",
    "wasi:config",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:keyvalue",
    "wasi:nn",
    "wasi:random",
    "wasi:sockets",
];

/// Whether this host has interfaces of the package that the import `name` is of. Whether it has
/// this one is found when the program is linked.
pub fn is_hosts(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(package, _)| HOST_PACKAGES.contains(&package))
}

/// One component, as the worker reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component<'a> {
    /// What it is called in messages.
    pub name: &'a str,
    /// The bytes, of whatever kind.
    pub bytes: &'a [u8],
}

/// What stands before the bytes of components with these names and lengths.
///
/// # Errors
/// When a name is too long or has line breaks, or when there are too many: the worker would
/// refuse them.
pub fn head<'a>(
    components: impl ExactSizeIterator<Item = (&'a str, u64)>,
) -> Result<String, String> {
    if components.len() > MAX_COMPONENTS {
        return Err(too_many(components.len()));
    }
    let mut head = format!("{TITLE}\n");
    for (name, length) in components {
        check_name(name)?;
        head.push_str(&format!("{length} {name}\n"));
    }
    head.push('\n');
    Ok(head)
}

/// Reads what [`head`] and the bytes are.
///
/// # Errors
/// One line, when they are anything else: too short, too long, or of another release.
pub fn read(input: &[u8]) -> Result<Vec<Component<'_>>, String> {
    let mut rest = input;
    if line(&mut rest)? != TITLE {
        return Err("the components do not begin as they should".to_owned());
    }
    let mut described = Vec::new();
    loop {
        let line = line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        let (length, name) = line
            .split_once(' ')
            .and_then(|(length, name)| Some((length.parse::<usize>().ok()?, name)))
            .ok_or("a component has no length")?;
        check_name(name)?;
        described.push((length, name));
        if described.len() > MAX_COMPONENTS {
            return Err(too_many(described.len()));
        }
    }
    let mut components = Vec::new();
    for (length, name) in described {
        let (bytes, after) = rest
            .split_at_checked(length)
            .ok_or("the components end too early")?;
        components.push(Component { name, bytes });
        rest = after;
    }
    if !rest.is_empty() {
        return Err("something follows the components".to_owned());
    }
    Ok(components)
}

/// The text before the next line break, which is taken from `rest`.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, String> {
    const LONGEST: usize = MAX_NAME + 32;
    let end = rest
        .iter()
        .take(LONGEST)
        .position(|byte| *byte == b'\n')
        .ok_or("a line of the components' head does not end")?;
    let line = std::str::from_utf8(&rest[..end])
        .map_err(|_| "the components' head is no text".to_owned())?;
    *rest = &rest[end + 1..];
    Ok(line)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
        return Err("the name of a component is no short line".to_owned());
    }
    Ok(())
}

fn too_many(count: usize) -> String {
    format!("there are {count} components, at most {MAX_COMPONENTS} are composed")
}

/// The text that stands for components in this order, by the SHA-256 of each (64 hexadecimal
/// digits).
///
/// Its hash is what a composition is known by before anything of it was read. The second line
/// changes whenever the same components would become another one.
pub fn identity<'a>(digests: impl Iterator<Item = &'a str>) -> String {
    let mut text = "lighter composition\nwac-graph 0.12\n".to_owned();
    for digest in digests {
        text.push_str(digest);
        text.push('\n');
    }
    text
}

/// What the worker says about components that it has composed, as one line of text.
///
/// As [`crate::report::Report`] it finds a mix-up, and is no proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// SHA-256 of the [`identity`] of what was read, as 64 hexadecimal digits.
    pub identity: String,
    /// The release of the worker.
    pub version: String,
}

impl Composed {
    /// What a worker of this release says.
    pub fn new(identity: String) -> Self {
        Self {
            identity,
            version: VERSION.to_owned(),
        }
    }

    /// Reads what `Display` has written.
    pub fn parse(line: &str) -> Option<Self> {
        let (identity, version) = line.strip_prefix("composed ")?.split_once(' ')?;
        let is_digest =
            identity.len() == 64 && identity.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| Self {
            identity: identity.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for Composed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { identity, version } = self;
        write!(formatter, "composed {identity} {version}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(components: &[Component<'_>]) -> Vec<u8> {
        let described = components
            .iter()
            .map(|component| (component.name, component.bytes.len() as u64));
        let mut input = head(described).unwrap().into_bytes();
        for component in components {
            input.extend_from_slice(component.bytes);
        }
        input
    }

    const TWO: &[Component<'_>] = &[
        Component {
            name: "app.wasm",
            bytes: b"\0asm\n",
        },
        Component {
            name: "a name with 7 blanks",
            bytes: b"",
        },
    ];

    #[test]
    fn components_are_read_back() {
        assert_eq!(read(&input(TWO)).unwrap(), TWO);
        assert_eq!(read(&input(&[])).unwrap(), []);
    }

    #[test]
    fn anything_else_is_refused() {
        let whole = input(TWO);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        assert!(read(&[&whole[..], b"x"].concat()).is_err());
        for wrong in [
            "lighter components 2\n\n".to_owned(),
            "lighter components 1\nx a\n\n".to_owned(),
            "lighter components 1\n-1 a\n\n".to_owned(),
            "lighter components 1\n18446744073709551615 a\n\n".to_owned(),
            "lighter components 1\n99999999999999999999 a\n\n".to_owned(),
            "lighter components 1\n0\n\n".to_owned(),
            "lighter components 1\n0 \n\n".to_owned(),
            "lighter components 1\n0 a\tb\n\n".to_owned(),
            format!("lighter components 1\n0 {}\n\n", "a".repeat(2000)),
            format!("lighter components 1\n{}\n", "0 a\n".repeat(65)),
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(head([("two\nlines", 1)].into_iter()).is_err());
        assert!(head(vec![("a", 1); 65].into_iter()).is_err());
    }

    #[test]
    fn what_the_worker_says_is_read_back() {
        let composed = Composed::new("0a".repeat(32));
        assert_eq!(Composed::parse(&composed.to_string()), Some(composed));
        for line in ["", "composed", "composed 0a wasmtime", "compiled 0a 0a x"] {
            assert_eq!(Composed::parse(line), None, "{line}");
        }
    }

    #[test]
    fn the_order_counts() {
        let of = |digests: [&'static str; 2]| identity(digests.into_iter());
        assert_ne!(of(["a", "b"]), of(["b", "a"]));
        assert_ne!(of(["a", "b"]), identity(["a"].into_iter()));
    }

    #[test]
    fn the_hosts_interfaces_are_known_by_their_package() {
        for name in [
            "wasi:cli/run@0.2.0",
            "wasi:io/streams",
            "wasi:http/types@0.3.0",
        ] {
            assert!(is_hosts(name), "{name}");
        }
        for name in ["wasi:client/run", "acme:cli/run", "wasi:cli", "run", ""] {
            assert!(!is_hosts(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            place in 0usize..60,
            byte in any::<u8>(),
        ) {
            let _ = read(&bytes);
            let mut damaged = input(TWO);
            if let Some(damaged) = damaged.get_mut(place) {
                *damaged = byte;
            }
            if let Ok(components) = read(&damaged) {
                let total: usize = components.iter().map(|component| component.bytes.len()).sum();
                prop_assert!(total <= damaged.len());
            }
        }
    }
}
