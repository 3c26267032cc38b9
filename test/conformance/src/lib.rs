//! Compares what containers see with what they see under others.
