//! The way of a guest's spans out of its container: a pair of sockets, of which its process has one
//! end and the shim the other. The shim says whose they are, so that no guest can say it.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use lighter_core::{Descriptor, Executed};
use lighter_trace::{GuestTrace, Sampler, TraceContext};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::executor::{GuestContext, Workload};
use crate::warnings;

/// What a guest's process is told of tracing.
#[derive(Clone, Debug)]
pub struct TraceRequest {
    /// Which traces that begin in the guest are kept.
    pub sampler: Sampler,
    /// The call that the process is made for.
    pub parent: TraceContext,
}

/// The end of a guest's process.
pub(crate) struct GuestEnd {
    trace: GuestTrace,
    shim: OwnedFd,
}

impl GuestEnd {
    /// Makes the pair for a guest whose spans are wanted. Without it the guest runs all the same.
    pub(crate) fn open(request: Option<&TraceRequest>, workload: &Workload) -> Option<Self> {
        let request = request.filter(|_| matches!(workload, Workload::Guest { .. }))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Unlike a datagram's, its other end learns of the end of the process.
        match socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags) {
            Ok((shim, guest)) => Some(Self {
                trace: GuestTrace {
                    sampler: request.sampler,
                    parent: request.parent.clone(),
                    socket: Arc::new(guest),
                },
                shim,
            }),
            Err(error) => {
                warnings::warn(format!("the guest is not traced: {error}"));
                None
            }
        }
    }

    /// Gives the guest its end, which is added to the descriptors that its process keeps.
    pub(crate) fn give(&self, context: &mut GuestContext, descriptors: &mut Vec<RawFd>) {
        descriptors.push(self.trace.socket.as_raw_fd());
        context.trace = Some(self.trace.clone());
    }

    /// Gives the shim its end.
    pub(crate) fn hand_over(self, executed: &mut Executed, handed: &mut Vec<OwnedFd>) {
        executed.descriptors.push(Descriptor::Spans);
        handed.push(self.shim);
    }
}
