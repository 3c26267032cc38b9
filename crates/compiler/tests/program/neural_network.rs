//! `wasi:nn`, in builds that have it: a model that the test makes, run by a guest in C.

use crate::process::Node;

crate::tests![a_model_of_the_guest_is_run, a_model_that_is_none_is_refused];

/// A field of a protobuf message: its number, and bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128, "one byte of length is enough here");
    [&[number << 3 | 2, length], bytes].concat()
}

/// A field with a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// An ONNX model (`onnx.proto`): `y` is `x` and `x`, tensors of one line of four floats.
fn doubling_model() -> Vec<u8> {
    let dimension = |size| field(1, &number(1, size));
    let shape = [dimension(1), dimension(4)].concat();
    let tensor = [number(1, 1), field(2, &shape)].concat();
    let value = |name: &str| [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat();
    let node = [
        field(1, b"x"),
        field(1, b"x"),
        field(2, b"y"),
        field(4, b"Add"),
    ]
    .concat();
    let graph = [
        field(1, &node),
        field(2, b"doubling"),
        field(11, &value("x")),
        field(12, &value("y")),
    ]
    .concat();
    let operators = [field(1, b""), number(2, 13)].concat();
    [number(1, 8), field(7, &graph), field(8, &operators)].concat()
}

fn run(node: &Node, model: &[u8]) -> crate::process::Outcome {
    let guests = std::env::var_os("LIGHTER_CACHE").expect("the Makefile sets LIGHTER_CACHE");
    let guest = std::path::Path::new(&guests).join("guests/nn.wasm");
    let guest = std::fs::read(&guest).expect("test/guests/build.sh builds nn.wasm");
    std::fs::write(node.folder.path().join("model.onnx"), model).unwrap();
    let folder = node.folder.path().to_owned();
    node.program(&guest)
        .cwd(&folder)
        .args(&["nn", "model.onnx", "x"])
        .run()
}

fn a_model_of_the_guest_is_run() {
    let outcome = run(&Node::new(), &doubling_model());
    assert_eq!(outcome.stderr, "");
    let numbers: Vec<f32> = outcome
        .stdout
        .split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(numbers, [2.0, 4.0, 6.0, 8.0]);
}

fn a_model_that_is_none_is_refused() {
    let outcome = run(&Node::new(), b"no model");
    assert_eq!(outcome.status, 1, "{outcome:?}");
    assert!(!outcome.stderr.is_empty());
}
