//! Clients that go away in the middle of a call.
