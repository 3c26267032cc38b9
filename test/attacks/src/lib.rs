//! The tests are in `tests/attacks`.
