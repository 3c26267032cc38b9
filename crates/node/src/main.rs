//! `lighter`: what an administrator of a node does by hand.

fn main() {}
