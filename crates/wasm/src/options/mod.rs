//! What a node's owner allows a guest, and what its pod asks for.
//!
//! The owner writes TOML into the options of the runtime handler ([`NodeOptions`]). Whoever
//! may create pods writes annotations `lighter.dev/OPTION` or `lighter.dev/OPTION.CONTAINER`.
//! Those are tenants, so they narrow what the owner allows and never widen it. Pure: text in,
//! [`Options`] or the first error out.

mod annotations;
mod hosts;
mod node;

use std::net::SocketAddr;
use std::time::Duration;

pub use annotations::PREFIX;
pub(crate) use annotations::parse_address;
pub use hosts::{HostPattern, Hosts};
pub use node::NodeOptions;

use crate::classify::World;
use crate::debugging::Tool;
use crate::engine::{Compilation, Variant};

/// An option that is unknown, malformed, not allowed or at odds with another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The node's options are not what [`NodeOptions`] describes.
    #[error("the node's options (the runtime handler's, in containerd's configuration): {0}")]
    Node(String),
    /// An annotation of the pod.
    #[error("annotation {annotation}={value:?}: {fault}")]
    Annotation {
        /// The whole name of the annotation.
        annotation: String,
        /// What was written.
        value: String,
        /// What is wrong with it, and what would do.
        fault: String,
    },
}

/// What holds for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What its code is compiled for, if not for what its world suggests.
    pub engine: Option<Variant>,
    /// Instructions that a guest may execute; a service: for each request. Only for
    /// [`Variant::Metered`].
    pub fuel: Option<u64>,
    /// Whether WASI 0.3 is there.
    pub preview3: bool,
    /// How a service is served.
    pub http: HttpOptions,
    /// What is reached over the network.
    pub network: NetworkOptions,
    /// The environment variables that the guest sees; `None` for all.
    pub environment: Option<Vec<String>>,
    /// How exactly the guest can measure time.
    pub clocks: Clocks,
    /// Whether the Wasm layers of its image are composed; `None` leaves it to the image.
    pub compose: Option<bool>,
    /// What is recorded of it for whoever looks for a fault.
    pub debug: Vec<Tool>,
    /// Bytes that all such records of the node may take up.
    pub debug_bytes: u64,
    /// What its container may use.
    pub resources: Resources,
}

/// What a container may use at its start, so that sizes can suit it. That it uses no more is
/// seen to by cgroups, whose limits may change later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory, if limited.
    pub memory_bytes: Option<u64>,
    /// Processor time in thousandths of a processor, if limited.
    pub cpu_millis: Option<u64>,
    /// Processes and threads, if limited.
    pub pids: Option<u64>,
}

/// How a service is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// Where it listens; `None` leaves it to the environment.
    pub address: Option<SocketAddr>,
    /// Requests that are handled at a time; more wait.
    pub concurrency: u32,
    /// Requests that one instance handles, one after the other; `None` for what suits the
    /// world: 1 for 0.2, whose guests rarely expect to be used again, more for 0.3.
    pub reuse: Option<u32>,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Time for the head of a request.
    pub header_time: Duration,
    /// Time for a request, from its head to the end of the response.
    pub request_time: Duration,
}

/// What is reached over the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// `wasi:sockets` TCP, clients and servers.
    pub tcp: bool,
    /// `wasi:sockets` UDP.
    pub udp: bool,
    /// `wasi:sockets/ip-name-lookup`.
    pub names: bool,
    /// Hosts that requests of `wasi:http` may go to.
    pub hosts: Hosts,
    /// Link-local addresses, where clouds serve a node's credentials (169.254.169.254).
    pub link_local: bool,
}

/// How exactly a guest can measure time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clocks {
    /// As exactly as the system does.
    #[default]
    Exact,
    /// In steps of a millisecond, too coarse for measuring caches.
    Coarse,
}

impl Default for Options {
    /// What holds on a node whose owner says nothing, for a pod without annotations.
    fn default() -> Self {
        NodeOptions::default()
            .for_container(&[], None)
            .expect("the defaults agree with each other")
    }
}

impl Options {
    /// How a program of this world is compiled, or why it is not.
    pub(crate) fn compilation(&self, world: World) -> Result<Compilation, String> {
        if world.needs_preview3() && !self.preview3 {
            return Err(
                "was made for WASI 0.3, which is experimental in Wasmtime 48 and off on this node: \
                 build it for WASI 0.2, or have the node's owner set `preview3 = true`"
                    .to_owned(),
            );
        }
        // A profile is taken where code looks at the epoch.
        let suited = if world.is_service() || self.debug.contains(&Tool::Profile) {
            Variant::Http
        } else {
            Variant::Command
        };
        Ok(Compilation {
            variant: self.engine.unwrap_or(suited),
            preview3: world.needs_preview3(),
        })
    }

    /// The part of `environment` that the guest sees.
    pub(crate) fn visible(&self, environment: Vec<(String, String)>) -> Vec<(String, String)> {
        let Some(names) = &self.environment else {
            return environment;
        };
        environment
            .into_iter()
            .filter(|(name, _)| names.contains(name))
            .collect()
    }
}
