//! Spans: what was done for a container, when, and as a part of what.
//!
//! ```text
//!  shim: task calls ------------.
//!  operation: load, compile ----+--> datagrams --> `lighter traces` --> OTLP
//!  guest: requests, instances --'
//!          through the shim, which says whose they are
//! ```
//!
//! Nothing here knows OpenTelemetry's protocol: its exporters start threads, which neither the shim
//! nor a guest's process may have.

mod buffer;
mod context;
mod datagram;
mod sampler;
mod settings;
mod span;

pub use buffer::{Buffer, Packet, Pushed};
pub use context::TraceContext;
pub use datagram::{Datagram, MOST_BYTES, OperationOutlet, Origin};
pub use sampler::Sampler;
pub use settings::{Protocol, Settings, TraceOptions};
pub use span::{Attribute, OpenSpan, Outlet, Span, SpanKind, Tracer};

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What a guest's process makes spans with.
#[derive(Clone, Debug)]
pub struct GuestTrace {
    /// Which traces that begin in the guest are kept.
    pub sampler: Sampler,
    /// The call that the process was made for.
    pub parent: TraceContext,
    /// Takes packets of lines (see [`Buffer`]), and never makes anybody wait.
    pub socket: Arc<OwnedFd>,
}
