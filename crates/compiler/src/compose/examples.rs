//! Components that import from each other, for tests.

/// What every interface of these components is: a function `value` that returns a number.
const INTERFACE: &str = r#"(instance (export "value" (func (result u32))))"#;

/// A component whose value is one more than the sum of those that it imports.
pub fn library(imports: &[&str], exports: &[&str]) -> Vec<u8> {
    let exports: String = exports
        .iter()
        .map(|name| format!(r#"(export "{name}" (instance $values))"#))
        .collect();
    component(
        imports,
        &format!(r#"(instance $values (export "value" (func $value))) {exports}"#),
    )
}

/// A component of `wasi:cli/run` that fails unless the sum of what it imports is `expected`.
pub fn program(imports: &[&str], expected: u32) -> Vec<u8> {
    component(
        imports,
        &format!(
            r#"(core module $check
                 (import "own" "value" (func $value (result i32)))
                 (func (export "run") (result i32)
                   (i32.ne (call $value) (i32.const {}))))
               (core instance $checking (instantiate $check (with "own" (instance $own))))
               (func $run (result (result)) (canon lift (core func $checking "run")))
               (instance $running (export "run" (func $run)))
               (export "wasi:cli/run@0.2.0" (instance $running))"#,
            expected + 1
        ),
    )
}

/// A component with a function `$value` and what `rest` makes of it.
fn component(imports: &[&str], rest: &str) -> Vec<u8> {
    let mut before = String::new();
    let mut lowered = String::new();
    let mut core_imports = String::new();
    let mut sum = "(i32.const 1)".to_owned();
    for (index, name) in imports.iter().enumerate() {
        before.push_str(&format!(
            r#"(import "{name}" {})
               (core func $lowered{index} (canon lower (func $imported{index} "value")))"#,
            INTERFACE.replace("(instance", &format!("(instance $imported{index}"))
        ));
        lowered.push_str(&format!(r#"(export "{index}" (func $lowered{index}))"#));
        core_imports.push_str(&format!(
            r#"(import "imported" "{index}" (func $get{index} (result i32)))"#
        ));
        sum = format!("(i32.add (call $get{index}) {sum})");
    }
    let text = format!(
        r#"(component
            {before}
            (core instance $imported {lowered})
            (core module $sum
              {core_imports}
              (func (export "value") (result i32) {sum}))
            (core instance $own (instantiate $sum (with "imported" (instance $imported))))
            (func $value (result u32) (canon lift (core func $own "value")))
            {rest})"#
    );
    wat::parse_str(text).unwrap()
}
