//! What an ordinary user of the node could read of our state.
