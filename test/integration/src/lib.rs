//! Integration tests of the shim on real daemons; they are in `tests/`.
