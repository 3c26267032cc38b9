//! The options of a node, in the TOML of its runtime handler.

use std::time::Duration;

use lighter_trace::TraceOptions;
use serde::Deserialize;

use super::annotations;
use super::{
    Clocks, HostPattern, Hosts, HttpOptions, NetworkOptions, OptionError, Options, Resources,
};
use crate::cache::CacheLimits;
use crate::debugging::Tool;
use crate::engine::Variant;

/// The options of a node: what a tenant can have at most, and gets without annotations.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeOptions {
    /// Variants of the engine beside `command` and `http` that pods may ask for. Each can
    /// double what a node compiles and stores.
    pub variants: Vec<String>,
    /// Allows WASI 0.3, which is experimental.
    pub preview3: bool,
    /// Allows TCP by `wasi:sockets`.
    pub tcp: bool,
    /// Allows UDP by `wasi:sockets`.
    pub udp: bool,
    /// Allows `wasi:sockets/ip-name-lookup`.
    pub names: bool,
    /// Allows link-local addresses, where clouds serve a node's credentials.
    pub link_local: bool,
    /// Hosts that requests of `wasi:http` may go to; all when it is missing.
    pub hosts: Option<Vec<String>>,
    /// Requests that a service handles at a time.
    pub http_concurrency: u32,
    /// Bytes of a request's body.
    pub http_body_bytes: u64,
    /// Seconds for the head of a request.
    pub http_header_seconds: u64,
    /// Seconds for a request, from its head to the end of its response.
    pub http_request_seconds: u64,
    /// What pods may have recorded of their guests: `coredump`, `profile`.
    pub debug: Vec<String>,
    /// Bytes of all such records; the oldest go first.
    pub debug_bytes: u64,
    /// What compiled code and compiling may take up.
    pub cache: CacheLimits,
    /// How spans are made and exported; that it is there switches it on.
    pub traces: Option<TraceOptions>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            variants: Vec::new(),
            preview3: false,
            tcp: true,
            udp: true,
            names: true,
            link_local: false,
            hosts: None,
            http_concurrency: 100,
            http_body_bytes: 64 << 20,
            http_header_seconds: 10,
            http_request_seconds: 60,
            debug: Vec::new(),
            debug_bytes: 1 << 30,
            cache: CacheLimits::default(),
            traces: None,
        }
    }
}

impl NodeOptions {
    /// Parses the TOML of a runtime handler; empty text stands for the defaults.
    ///
    /// Keys that begin with a capital letter (`SystemdCgroup`, `BinaryName`) are runc's, which
    /// configurations are copied from, and mean nothing here.
    ///
    /// # Errors
    /// The key that is unknown, with those that are known, or what is wrong with a value.
    pub fn parse(text: &str) -> Result<Self, OptionError> {
        let fault = |error: String| OptionError::Node(error.trim().replace('\n', " "));
        let mut table: toml::Table = text
            .parse()
            .map_err(|error: toml::de::Error| fault(error.message().to_owned()))?;
        table.retain(|key, _| !key.starts_with(|first: char| first.is_ascii_uppercase()));
        let options: Self = table
            .try_into()
            .map_err(|error: toml::de::Error| fault(error.message().to_owned()))?;
        options.check().map_err(fault)?;
        Ok(options)
    }

    fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("http-concurrency", u64::from(self.http_concurrency)),
            ("http-header-seconds", self.http_header_seconds),
            ("http-request-seconds", self.http_request_seconds),
            ("cache.seconds", self.cache.seconds),
            ("cache.cores", u64::from(self.cache.cores)),
        ] {
            if value == 0 {
                return Err(format!(
                    "{name} is 0, which would allow nothing: write 1 or more"
                ));
            }
        }
        // Each takes up 4 GiB of addresses, of which a process has 128 TiB.
        if self.http_concurrency > 10_000 {
            return Err("http-concurrency is more than 10000".to_owned());
        }
        for name in &self.variants {
            if Variant::from_name(name).is_none() {
                return Err(format!(
                    "variants: {name:?} is none: there are command, http, metered and debug"
                ));
            }
        }
        for name in &self.debug {
            if Tool::from_name(name).is_none() {
                return Err(format!(
                    "debug: {name:?} is none: there are coredump and profile"
                ));
            }
        }
        self.traces.as_ref().map_or(Ok(()), TraceOptions::check)?;
        self.host_list().map(drop)
    }

    fn host_list(&self) -> Result<Option<Vec<HostPattern>>, String> {
        let Some(list) = &self.hosts else {
            return Ok(None);
        };
        let parsed: Result<_, String> = list.iter().map(|text| HostPattern::parse(text)).collect();
        parsed.map(Some).map_err(|error| format!("hosts: {error}"))
    }

    /// Whether pods may ask for this variant.
    pub(super) fn allows(&self, variant: Variant) -> bool {
        matches!(variant, Variant::Command | Variant::Http)
            || self.variants.iter().any(|name| name == variant.name())
    }

    /// Whether pods may ask for this record.
    pub(super) fn allows_record(&self, tool: Tool) -> bool {
        self.debug.iter().any(|name| name == tool.name())
    }

    /// What holds for a container with these annotations. `container` is its name in the pod,
    /// which annotations for one container of several end with.
    ///
    /// # Errors
    /// The first annotation that is unknown, malformed, not allowed or at odds with another.
    pub fn for_container(
        &self,
        annotations: &[(String, String)],
        container: Option<&str>,
    ) -> Result<Options, OptionError> {
        let mut hosts = Hosts::default();
        if let Some(list) = self.host_list().map_err(OptionError::Node)? {
            hosts = hosts.and(list);
        }
        let widest = Options {
            engine: None,
            fuel: None,
            preview3: self.preview3,
            http: HttpOptions {
                address: None,
                concurrency: self.http_concurrency,
                reuse: None,
                body_bytes: self.http_body_bytes,
                header_time: Duration::from_secs(self.http_header_seconds),
                request_time: Duration::from_secs(self.http_request_seconds),
            },
            network: NetworkOptions {
                tcp: self.tcp,
                udp: self.udp,
                names: self.names,
                hosts,
                link_local: self.link_local,
            },
            environment: None,
            clocks: Clocks::Exact,
            compose: None,
            debug: Vec::new(),
            debug_bytes: self.debug_bytes,
            resources: Resources::default(),
        };
        annotations::narrow(self, widest, annotations, container)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        NodeOptions::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn empty_text_and_keys_of_runc_mean_the_defaults() {
        assert_eq!(NodeOptions::parse(""), Ok(NodeOptions::default()));
        assert_eq!(
            NodeOptions::parse("SystemdCgroup = true\nBinaryName = \"\""),
            Ok(NodeOptions::default())
        );
    }

    #[test]
    fn values_are_taken() {
        let options = NodeOptions::parse(
            "variants = [\"metered\"]\nhosts = [\"*.example.com\"]\nlink-local = true\nhttp-concurrency = 7",
        )
        .unwrap();
        assert!(options.allows(Variant::Metered));
        assert!(!options.allows(Variant::Debug));
        let options = options.for_container(&[], None).unwrap();
        assert_eq!(options.http.concurrency, 7);
        assert!(options.network.link_local);
        assert!(options.network.hosts.allow("a.example.com", 443));
        assert!(!options.network.hosts.allow("example.org", 443));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_known() {
        let text = fault("link-locl = true");
        assert!(
            text.contains("link-locl") && text.contains("`link-local`"),
            "{text}"
        );
        assert!(fault("tcp = 1").contains("boolean"));
        assert!(fault("tcp = ").contains("node's options"));
        assert!(fault("http-concurrency = 0").contains("http-concurrency is 0"));
        assert!(fault("http-concurrency = 100000").contains("10000"));
        assert!(fault("variants = [\"fast\"]").contains("metered"));
        assert!(fault("debug = [\"core\"]").contains("coredump and profile"));
        assert!(fault("[traces]\nratio = 2").contains("traces.ratio"));
        assert!(fault("[traces]\nendpont = \"\"").contains("`endpoint`"));
        assert!(fault("[traces]\nprotocol = \"http/json\"").contains("http/protobuf"));
        assert!(fault("hosts = [\"http://a\"]").contains("without scheme"));
    }
}
