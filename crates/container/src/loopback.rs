//! Brings up the loopback interface of a network namespace that a container creates.
//!
//! runc does (its `loopback` strategy), libcontainer does not: without a CNI plugin nothing in the
//! container could reach 127.0.0.1.

use libcontainer::network::link::LinkClient;
use libcontainer::network::wrapper::create_network_client;
use lighter_core::{ErrorClass, Failure};
use nix::sched::CloneFlags;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::guest_view::has_own;
use crate::namespace;

/// Index of the loopback interface in every network namespace: the kernel's `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;

/// For a created init that waits. Only for a forked operation, which has one thread.
pub(crate) fn bring_up(spec: &Spec, pid: i32) -> Result<(), Failure> {
    if !has_own(spec, LinuxNamespaceType::Network) {
        return Ok(());
    }
    namespace::within(pid, CloneFlags::CLONE_NEWNET, || {
        LinkClient::new(create_network_client())
            .and_then(|mut client| client.set_up(LOOPBACK))
            .map_err(|error| {
                let cause = Failure::from_error(ErrorClass::Internal, &error);
                Failure::internal(format!("cannot bring up the loopback interface: {cause}"))
            })
    })
}
