//! The options of a node: any text in containerd's configuration, or in the file that it names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_fuzz::allocation::bounded;
use lighter_fuzz::options::check_narrowed;
use lighter_wasm::NodeOptions;

/// Each dot of a key is a table, and a table's first entry is a node of a tree.
const FACTOR: usize = 2048;

fuzz_target!(|text: &str| {
    let Ok(node) = bounded(text.len(), FACTOR, || NodeOptions::parse(text)) else {
        return;
    };
    let options = node
        .for_container(&[], None)
        .expect("a node's options hold for a pod without annotations");
    check_narrowed(&node, &options, &[]);
});
