//! Clients of a service, and addresses that a guest must not reach.
