use super::examples::{library, program};
use super::*;

const RUN: &str = "wasi:cli/run@0.2.0";

fn composed(components: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
    let components: Vec<_> = components
        .iter()
        .map(|(name, bytes)| Component { name, bytes })
        .collect();
    compose(&components)
}

/// What the result imports; it has to be a command.
fn imports(components: &[(&str, &[u8])]) -> Vec<String> {
    let bytes = composed(components).unwrap();
    wasmtime::component::Component::new(&wasmtime::Engine::default(), &bytes).unwrap();
    let (world, interface) = inspect(&bytes).unwrap();
    assert_eq!(world, World::Command);
    assert_eq!(interface.exports, [RUN]);
    interface
        .imports
        .into_iter()
        .map(|(_, name)| name)
        .collect()
}

/// The error, which has to have all of these texts.
fn refused(components: &[(&str, &[u8])], texts: &[&str]) {
    let error = composed(components).unwrap_err();
    for text in texts {
        assert!(error.contains(text), "{text} in {error}");
    }
    assert!(error.len() < 4000 && !error.contains('\n'), "{error}");
}

#[test]
fn imports_are_taken_from_each_other() {
    let app = program(&["acme:lib/a@1.0.0", "acme:lib/b"], 2);
    let (a, b) = (
        library(&[], &["acme:lib/a@1.0.0"]),
        library(&[], &["acme:lib/b"]),
    );
    let all: [(&str, &[u8]); 3] = [("app", &app), ("a", &a), ("b", &b)];
    assert!(imports(&all).is_empty());
    // Whatever the order of those that the program imports from.
    assert!(imports(&[all[0], all[2], all[1]]).is_empty());
}

#[test]
fn a_chain_is_followed() {
    let app = program(&["acme:lib/a"], 3);
    let a = library(&["acme:lib/b"], &["acme:lib/a"]);
    let b = library(&["acme:lib/c"], &["acme:lib/b"]);
    let c = library(&[], &["acme:lib/c"]);
    assert!(imports(&[("app", &app), ("a", &a), ("b", &b), ("c", &c)]).is_empty());
}

#[test]
fn a_component_is_made_once() {
    let app = program(&["acme:lib/a", "acme:lib/b"], 4);
    let a = library(&["acme:lib/c"], &["acme:lib/a"]);
    let b = library(&["acme:lib/c"], &["acme:lib/b"]);
    let c = library(&[], &["acme:lib/c"]);
    let bytes = composed(&[("app", &app), ("a", &a), ("b", &b), ("c", &c)]).unwrap();
    let mark = &c[..];
    let copies = bytes.windows(mark.len()).filter(|at| *at == mark).count();
    assert_eq!(copies, 1);
}

#[test]
fn the_same_components_become_the_same_one_whatever_they_are_called() {
    let app = program(&["acme:lib/a", "acme:lib/b"], 2);
    let lib = library(&[], &["acme:lib/a", "acme:lib/b"]);
    let once = composed(&[("app", &app), ("lib", &lib)]).unwrap();
    for _ in 0..10 {
        assert_eq!(composed(&[("x", &app), ("y", &lib)]).unwrap(), once);
    }
}

#[test]
fn versions_are_those_that_fit() {
    let app = program(&["acme:lib/a@1.2.0"], 1);
    let of = |version: &str| library(&[], &[&format!("acme:lib/a@{version}")]);
    let (same, later, next) = (of("1.2.0"), of("1.3.1"), of("2.0.0"));
    assert!(imports(&[("app", &app), ("later", &later)]).is_empty());
    assert!(imports(&[("app", &app), ("later", &later), ("same", &same)]).is_empty());
    refused(
        &[("app", &app), ("next", &next)],
        &[
            "`acme:lib/a@1.2.0`",
            "imported by app",
            "next exports `acme:lib/a@2.0.0`",
        ],
    );
    let other = of("1.4.0");
    refused(
        &[("app", &app), ("later", &later), ("other", &other)],
        &[
            "app imports `acme:lib/a@1.2.0`",
            "later (as `acme:lib/a@1.3.1`)",
            "other (as",
        ],
    );
}

#[test]
fn two_that_export_the_same_are_named() {
    let app = program(&["acme:lib/a"], 1);
    let a = library(&[], &["acme:lib/a"]);
    let b = library(&[], &["acme:lib/a", "acme:lib/b"]);
    refused(
        &[("app.wasm", &app), ("one.wasm", &a), ("two.wasm", &b)],
        &[
            "app.wasm imports `acme:lib/a`",
            "both one.wasm and two.wasm export it",
        ],
    );
    // Nobody asks for it.
    let app = program(&[], 0);
    assert!(imports(&[("app", &app), ("one", &a), ("two", &b)]).is_empty());
}

#[test]
fn a_circle_is_named() {
    let app = program(&["acme:lib/a"], 1);
    let a = library(&["acme:lib/b"], &["acme:lib/a"]);
    let b = library(&["acme:lib/c"], &["acme:lib/b"]);
    let c = library(&["acme:lib/a"], &["acme:lib/c"]);
    refused(
        &[
            ("app", &app),
            ("a.wasm", &a),
            ("b.wasm", &b),
            ("c.wasm", &c),
        ],
        &[
            "in a circle: a.wasm imports `acme:lib/b` of b.wasm imports `acme:lib/c` of c.wasm imports `acme:lib/a` of a.wasm",
        ],
    );
}

#[test]
fn nobody_imports_from_himself() {
    // As what wraps an interface of the host.
    let app = program(&["wasi:cli/value"], 2);
    let wrapper = library(&["wasi:cli/value"], &["wasi:cli/value"]);
    assert_eq!(
        imports(&[("app", &app), ("wrapper", &wrapper)]),
        ["wasi:cli/value"]
    );
}

#[test]
fn what_nobody_provides_is_named_with_who_wants_it() {
    let app = program(&["acme:lib/a", "acme:lib/gone@1.0.0"], 1);
    let a = library(
        &["acme:lib/gone@1.0.0", "wasi:cli/x", "acme:lib/other"],
        &["acme:lib/a"],
    );
    refused(
        &[("app.wasm", &app), ("a.wasm", &a)],
        &[
            "neither a layer nor this host provides",
            "`acme:lib/gone@1.0.0` (imported by a.wasm and app.wasm)",
            "`acme:lib/other` (imported by a.wasm)",
        ],
    );
    let error = composed(&[("app.wasm", &app), ("a.wasm", &a)]).unwrap_err();
    assert!(!error.contains("wasi:cli/x"), "{error}");
    let names: Vec<String> = (0..100)
        .map(|number| format!("acme:lib/x{number}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = program(&names, 1);
    refused(
        &[("app", &many), ("a", &a)],
        &["acme:lib/x19`", "and 80 more"],
    );
}

#[test]
fn what_nobody_asks_for_is_left_out() {
    let app = program(&["acme:lib/a"], 1);
    let a = library(&[], &["acme:lib/a"]);
    // Neither what it lacks nor what it is counts.
    let tool = program(&["acme:lib/gone"], 1);
    assert!(imports(&[("app", &app), ("tool", &tool), ("a", &a)]).is_empty());
}

#[test]
fn an_import_of_types_alone_needs_nobody() {
    let app = wat::parse_str(
        r#"(component
            (import "acme:lib/types" (instance (type (;0;) u32) (export "t" (type (eq 0)))))
            (core module $m (func (export "run") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $running (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $running)))"#,
    )
    .unwrap();
    let other = library(&[], &["acme:lib/a"]);
    assert_eq!(
        imports(&[("app", &app), ("other", &other)]),
        ["acme:lib/types"]
    );
}

#[test]
fn what_is_no_component_is_named() {
    let app = program(&["acme:lib/a"], 1);
    let module = wat::parse_str(r#"(module (func (export "acme:lib/a")))"#).unwrap();
    refused(
        &[("app.wasm", &app), ("old.wasm", &module)],
        &["old.wasm is a core module", "wasm-tools component new"],
    );
    let truncated = &app[..app.len() - 3];
    for (bytes, text) in [
        (&b"garbage"[..], "lib.wasm is not a Wasm binary"),
        (b"", "lib.wasm is not a Wasm binary"),
        (b"(component)", "lib.wasm is WebAssembly text"),
        (b"\0asm\x0d\0\x01\0\xff\xff", "lib.wasm"),
        (b"\x7fELF\x02\x01\x01\xc8\0", "precompiled"),
        (truncated, "lib.wasm is truncated"),
    ] {
        refused(&[("app.wasm", &app), ("lib.wasm", bytes)], &[text]);
    }
    assert!(compose(&[]).is_err());
}

#[test]
fn an_import_of_another_type_is_named() {
    let app = program(&["acme:lib/a"], 1);
    let other = wat::parse_str(
        r#"(component
            (core module $m (func (export "value") (param i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $value (param "x" u32) (result u32) (canon lift (core func $i "value")))
            (instance $values (export "value" (func $value)))
            (export "acme:lib/a" (instance $values)))"#,
    )
    .unwrap();
    refused(
        &[("app.wasm", &app), ("other.wasm", &other)],
        &[
            "app.wasm imports `acme:lib/a` otherwise than other.wasm exports it",
            "value",
        ],
    );
}

/// Every byte of a component counts, and none does harm: it ends in a component or a sentence.
#[test]
fn damaged_components_do_no_harm() {
    let app = program(&["acme:lib/a"], 1);
    let lib = library(&[], &["acme:lib/a"]);
    for place in 0..lib.len() {
        for byte in [
            0,
            1,
            0x40,
            0x7f,
            0xff,
            lib[place] ^ 1,
            lib[place].wrapping_add(1),
        ] {
            let mut damaged = lib.clone();
            damaged[place] = byte;
            for components in [
                [("app", &app[..]), ("lib", &damaged)],
                [("lib", &damaged), ("app", &app)],
            ] {
                if let Err(error) = composed(&components) {
                    assert!(!error.is_empty() && error.len() < 4000, "{error}");
                }
            }
        }
    }
}
