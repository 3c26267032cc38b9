//! One tenant that takes a node for itself: memory, compilations, locks.
