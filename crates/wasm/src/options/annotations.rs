//! Annotations of a pod, which narrow what the node's owner allows.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Clocks, HostPattern, NodeOptions, OptionError, Options};
use crate::debugging::Tool;
use crate::engine::Variant;

/// What the names of all annotations begin with.
pub const PREFIX: &str = "lighter.dev/";

/// The options that annotations can set.
const KNOWN: &[&str] = &[
    "clocks",
    "compose",
    "debug",
    "engine",
    "environment",
    "fuel",
    "hosts",
    "http-address",
    "http-body-bytes",
    "http-concurrency",
    "http-header-seconds",
    "http-request-seconds",
    "http-reuse",
    "names",
    "tcp",
    "udp",
];

/// Most requests that one instance handles.
const MOST_REUSE: u64 = 1_000_000;

/// One annotation that is meant for this container.
struct Annotation<'a> {
    name: &'a str,
    option: &'a str,
    value: &'a str,
    /// It names the container, and so counts more than one that does not.
    specific: bool,
}

/// Applies the annotations to the widest options of the node.
pub(super) fn narrow(
    node: &NodeOptions,
    widest: Options,
    annotations: &[(String, String)],
    container: Option<&str>,
) -> Result<Options, OptionError> {
    let mut own = Vec::new();
    for (name, value) in annotations {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let (option, target) = match rest.split_once('.') {
            Some((option, target)) => (option, Some(target)),
            None => (rest, None),
        };
        if !KNOWN.contains(&option) {
            return Err(OptionError::Annotation {
                annotation: name.clone(),
                value: value.clone(),
                fault: format!("there is no such option; there are {}", KNOWN.join(", ")),
            });
        }
        if target.is_none() || target == container {
            own.push(Annotation {
                name,
                option,
                value,
                specific: target.is_some(),
            });
        }
    }
    own.sort_by_key(|annotation| (annotation.specific, annotation.name));
    let mut options = widest.clone();
    for annotation in &own {
        apply(node, &widest, &mut options, annotation).map_err(|fault| {
            OptionError::Annotation {
                annotation: annotation.name.to_owned(),
                value: annotation.value.to_owned(),
                fault,
            }
        })?;
    }
    agree(&options, &own)?;
    options.http.header_time = options.http.header_time.min(options.http.request_time);
    Ok(options)
}

fn apply(
    node: &NodeOptions,
    widest: &Options,
    options: &mut Options,
    annotation: &Annotation<'_>,
) -> Result<(), String> {
    let value = annotation.value;
    let at_most = |most: u64| number(value, 1, most);
    match annotation.option {
        "engine" => {
            let variant =
                Variant::from_name(value).ok_or("write command, http, metered or debug")?;
            if !node.allows(variant) {
                return Err(format!(
                    "the node's owner does not allow it: its `variants` have no {value:?}"
                ));
            }
            options.engine = Some(variant);
        }
        "fuel" => options.fuel = Some(number(value, 1, u64::MAX)?),
        "http-address" => options.http.address = Some(parse_address(value)?),
        "http-concurrency" => {
            options.http.concurrency = at_most(widest.http.concurrency.into())? as u32;
        }
        "http-reuse" => options.http.reuse = Some(at_most(MOST_REUSE)? as u32),
        "http-body-bytes" => options.http.body_bytes = number(value, 0, widest.http.body_bytes)?,
        "http-header-seconds" => {
            options.http.header_time = seconds(value, widest.http.header_time)?;
        }
        "http-request-seconds" => {
            options.http.request_time = seconds(value, widest.http.request_time)?;
        }
        "tcp" => options.network.tcp = switch(value, widest.network.tcp)?,
        "udp" => options.network.udp = switch(value, widest.network.udp)?,
        "names" => options.network.names = switch(value, widest.network.names)?,
        "hosts" => {
            let list: Vec<HostPattern> = list(value)
                .map(HostPattern::parse)
                .collect::<Result<_, _>>()?;
            if let Some(wider) = widest.network.hosts.first_wider(&list) {
                return Err(format!("the node's owner does not allow {wider}"));
            }
            options.network.hosts = widest.network.hosts.clone().and(list);
        }
        "compose" => options.compose = Some(switch(value, true)?),
        "debug" => {
            options.debug = list(value)
                .map(|name| record(node, name))
                .collect::<Result<_, _>>()?;
        }
        "environment" => options.environment = Some(list(value).map(str::to_owned).collect()),
        "clocks" => {
            options.clocks = match value {
                "exact" => Clocks::Exact,
                "coarse" => Clocks::Coarse,
                _ => return Err("write exact or coarse".to_owned()),
            };
        }
        other => unreachable!("{other} is in KNOWN and has no rule"),
    }
    Ok(())
}

/// What a pod wants to have recorded.
fn record(node: &NodeOptions, name: &str) -> Result<Tool, String> {
    let tool = Tool::from_name(name).ok_or("write coredump, profile or both")?;
    if node.allows_record(tool) {
        Ok(tool)
    } else {
        Err(format!(
            "the node's owner does not allow it: the node's option `debug` has no {name:?}"
        ))
    }
}

/// Options that say nothing without each other.
fn agree(options: &Options, annotations: &[Annotation<'_>]) -> Result<(), OptionError> {
    let fault = |option: &str, fault: &str| {
        let annotation = annotations.iter().rev().find(|each| each.option == option);
        OptionError::Annotation {
            annotation: annotation.map_or(option, |each| each.name).to_owned(),
            value: annotation.map_or("", |each| each.value).to_owned(),
            fault: fault.to_owned(),
        }
    };
    if options.fuel.is_some() && options.engine != Some(Variant::Metered) {
        return Err(fault(
            "fuel",
            "only the metered engine counts: add lighter.dev/engine=metered",
        ));
    }
    if options.engine == Some(Variant::Metered) && options.fuel.is_none() {
        return Err(fault(
            "engine",
            "say how many instructions the guest may execute: add lighter.dev/fuel=NUMBER",
        ));
    }
    if options.debug.contains(&Tool::Profile) && options.engine == Some(Variant::Command) {
        return Err(fault(
            "debug",
            "code for the engine `command` cannot be sampled: leave out lighter.dev/engine",
        ));
    }
    let said = annotations
        .iter()
        .any(|each| each.option == "http-header-seconds");
    if options.http.header_time > options.http.request_time && said {
        return Err(fault(
            "http-header-seconds",
            "a head cannot take longer than its whole request: lower it to http-request-seconds",
        ));
    }
    Ok(())
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn number(value: &str, least: u64, most: u64) -> Result<u64, String> {
    let number: u64 = value
        .parse()
        .map_err(|_| "write a whole number, in digits".to_owned())?;
    if number > most {
        return Err(format!("the most on this node is {most}"));
    }
    if number < least {
        return Err(format!("the least is {least}"));
    }
    Ok(number)
}

fn seconds(value: &str, most: Duration) -> Result<Duration, String> {
    number(value, 1, most.as_secs()).map(Duration::from_secs)
}

fn switch(value: &str, widest: bool) -> Result<bool, String> {
    match value {
        "false" => Ok(false),
        "true" if widest => Ok(true),
        "true" => Err("the node's owner does not allow it".to_owned()),
        _ => Err("write true or false".to_owned()),
    }
}

/// An address, or a port of all addresses.
pub(crate) fn parse_address(value: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = value.parse::<u16>() {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    }
    value
        .parse()
        .map_err(|_| "write a port, or an address as in 0.0.0.0:8080 or [::]:8080".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::classify::World;

    fn options(node: &str, annotations: &[(&str, &str)]) -> Result<Options, String> {
        let annotations: Vec<(String, String)> = annotations
            .iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()))
            .collect();
        NodeOptions::parse(node)
            .unwrap()
            .for_container(&annotations, Some("web"))
            .map_err(|error| error.to_string())
    }

    fn fault(node: &str, annotations: &[(&str, &str)]) -> String {
        options(node, annotations).unwrap_err()
    }

    #[test]
    fn the_annotation_of_one_container_counts_more() {
        let both = [
            ("http-reuse.web", "5"),
            ("http-reuse", "7"),
            ("http-reuse.db", "9"),
        ];
        assert_eq!(options("", &both).unwrap().http.reuse, Some(5));
        assert_eq!(options("", &both[1..]).unwrap().http.reuse, Some(7));
        let foreign = [("fuel.db".to_owned(), "x".to_owned())];
        assert!(NodeOptions::default().for_container(&foreign, None).is_ok());
    }

    #[test]
    fn unknown_options_are_named_with_the_known_ones() {
        for name in ["fule", "fule.web", "fule.db", ""] {
            let text = fault("", &[(name, "1")]);
            assert!(text.contains(&format!("lighter.dev/{name}=")), "{text}");
            assert!(text.contains("environment, fuel, hosts"), "{text}");
        }
    }

    #[test]
    fn what_widens_is_refused() {
        let node = "tcp = false\nhosts = [\"a.test\"]\nhttp-concurrency = 10\nhttp-request-seconds = 5\nhttp-header-seconds = 5";
        for (name, value) in [
            ("tcp", "true"),
            ("hosts", "*"),
            ("hosts", "a.test, b.test"),
            ("http-concurrency", "11"),
            ("http-request-seconds", "6"),
            ("http-body-bytes", "99999999999"),
            ("engine", "debug"),
            ("engine", "metered"),
            ("debug", "coredump"),
            ("debug", "profile,coredump"),
        ] {
            let text = fault(node, &[(name, value)]);
            assert!(
                text.contains("does not allow") || text.contains("the most on this node"),
                "{text}"
            );
        }
        let fewer = options(
            node,
            &[("hosts", ""), ("udp", "false"), ("http-concurrency", "1")],
        )
        .unwrap();
        assert!(!fewer.network.hosts.allow("a.test", 80));
        assert!(!fewer.network.udp);
        assert_eq!(fewer.http.concurrency, 1);
    }

    #[test]
    fn what_is_malformed_or_at_odds_is_refused() {
        let node = "variants = [\"metered\"]\ndebug = [\"profile\"]";
        for (annotations, hint) in [
            (&[("tcp", "yes")][..], "true or false"),
            (&[("compose", "all")], "true or false"),
            (&[("clocks", "slow")], "exact or coarse"),
            (&[("http-address", "localhost:80")], "[::]:8080"),
            (&[("http-reuse", "0")], "the least is 1"),
            (&[("http-reuse", "-1")], "whole number"),
            (&[("engine", "fast")], "metered"),
            (&[("fuel", "10")], "engine=metered"),
            (&[("debug", "true")], "coredump, profile or both"),
            (&[("debug", "profile,coredump")], "does not allow"),
            (
                &[("debug", "profile"), ("engine", "command")],
                "cannot be sampled",
            ),
            (&[("engine", "metered")], "fuel=NUMBER"),
            (
                &[("http-header-seconds", "9"), ("http-request-seconds", "3")],
                "whole request",
            ),
            (&[("hosts", "http://a")], "without scheme"),
        ] {
            let text = fault(node, annotations);
            assert!(text.contains(hint), "{text}");
        }
        let metered = options(node, &[("engine", "metered"), ("fuel", "10")]).unwrap();
        assert_eq!(
            (metered.engine, metered.fuel),
            (Some(Variant::Metered), Some(10))
        );
    }

    #[test]
    fn what_is_recorded_is_what_was_asked_for_and_allowed() {
        let node = "debug = [\"coredump\", \"profile\"]\ndebug-bytes = 5";
        let of = |value: &str| options(node, &[("debug", value)]).unwrap();
        assert_eq!(options(node, &[]).unwrap().debug, []);
        assert_eq!(of("").debug, []);
        assert_eq!(of("coredump").debug, [Tool::CoreDump]);
        assert_eq!(of("profile, coredump").debug_bytes, 5);
        let compiled = |options: Options| options.compilation(World::Module).unwrap().variant;
        assert_eq!(compiled(of("coredump")), Variant::Command);
        assert_eq!(compiled(of("profile,coredump")), Variant::Http);
    }

    #[test]
    fn composing_is_left_to_the_image_unless_the_pod_says_so() {
        assert_eq!(options("", &[]).unwrap().compose, None);
        for (value, asked) in [("true", true), ("false", false)] {
            assert_eq!(
                options("", &[("compose", value)]).unwrap().compose,
                Some(asked)
            );
        }
    }

    #[test]
    fn addresses_are_ports_or_addresses() {
        assert_eq!(parse_address("80"), Ok("[::]:80".parse().unwrap()));
        assert_eq!(
            parse_address("127.0.0.1:8080"),
            Ok("127.0.0.1:8080".parse().unwrap())
        );
        assert!(parse_address("70000").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_annotations_never_panic_and_never_widen(
            which in 0..KNOWN.len(),
            value in "(true|false|[0-9]{1,6}|\\PC{0,12}|[a-z.*,:]{0,12})",
        ) {
            let node = NodeOptions::parse("tcp = false\nhttp-concurrency = 10\nhosts = [\"*.test\"]").unwrap();
            let annotations = [(format!("{PREFIX}{}", KNOWN[which]), value)];
            if let Ok(options) = node.for_container(&annotations, None) {
                prop_assert!(!options.network.tcp && !options.network.link_local && !options.preview3);
                prop_assert!(options.http.concurrency <= 10 && options.debug.is_empty());
                prop_assert!(!options.network.hosts.allow("example.com", 443));
            }
        }
    }
}
