//! Components: `wasi:cli/run`, other functions, and commands made of modules.

use crate::guests::{self, HELLO, component_of, start};
use crate::process::{NOT_LOADED, Node};

crate::tests![
    the_result_of_run_is_the_status,
    a_function_of_a_component_is_chosen_by_name,
    a_missing_function_of_a_component_is_named,
    a_command_component_prints_and_exits,
    a_trap_in_a_component_is_a_trap,
];

/// A component whose `wasi:cli/run`, of the given version, returns `value` (0: ok, 1: error).
fn run_component(version: &str, value: u32) -> String {
    format!(
        r#"(component
            (core module $m
                (func (export "run") (result i32) i32.const {value})
                (func (export "plain")))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (func (export "plain") (canon lift (core func $i "plain")))
            (instance $interface (export "run" (func $run)))
            (export "wasi:cli/run@{version}" (instance $interface)))"#
    )
}

fn the_result_of_run_is_the_status() {
    let node = Node::new();
    for version in ["0.2.0", "0.2.3", "0.2.6"] {
        for value in [0, 1] {
            let outcome = node.text(&run_component(version, value)).run();
            assert_eq!(outcome.status as u32, value, "{}", outcome.stderr);
            assert_eq!(outcome.stderr, "");
        }
    }
}

fn a_function_of_a_component_is_chosen_by_name() {
    let node = Node::new();
    let component = run_component("0.2.0", 1);
    assert_eq!(node.text(&component).export("plain").run().status, 0);
    let outcome = node.text(&component).export("wasi:cli/run@0.2.0").run();
    assert_eq!(outcome.status, 1);
}

fn a_missing_function_of_a_component_is_named() {
    let node = Node::new();
    let component = run_component("0.2.0", 0);
    let outcome = node.text(&component).export("other").run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(outcome.stderr.contains("`other`"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("#plain"), "{}", outcome.stderr);

    let outcome = node.text("(component)").run();
    assert_eq!(outcome.status, NOT_LOADED);
    assert!(
        outcome.stderr.contains("wasi:cli/run"),
        "{}",
        outcome.stderr
    );
}

fn a_command_component_prints_and_exits() {
    let node = Node::new();
    let hello = component_of(&wat::parse_str(HELLO).unwrap());
    let outcome = node.program(&hello).run();
    assert_eq!(outcome.stdout, "hello\n", "{}", outcome.stderr);
    assert_eq!(outcome.status, 0);

    let guest = guests::rust(
        r#"fn main() {
            let all: Vec<String> = std::env::args().collect();
            println!("{} {}", all.join(" "), std::env::var("A").unwrap());
            std::process::exit(1);
        }"#,
    );
    let outcome = node
        .program(&component_of(&guest))
        .args(&["app.wasm", "x"])
        .env(&[("A", "b")])
        .run();
    assert_eq!(outcome.stdout, "app.wasm x b\n", "{}", outcome.stderr);
    assert_eq!(outcome.status, 1);
}

fn a_trap_in_a_component_is_a_trap() {
    let module = wat::parse_str(start("unreachable")).unwrap();
    let outcome = Node::new().program(&component_of(&module)).run();
    assert_eq!(outcome.status, 134);
    assert!(outcome.stderr.contains("unreachable"), "{}", outcome.stderr);
}
