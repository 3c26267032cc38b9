//! What has to hold of components that become one.

use lighter_wasm::composition::{Component, head, is_hosts, read};
use lighter_wasm::{Interface, NotRunnable, inspect};

use crate::allocation::bounded;
use crate::classification::is_valid;

/// The compile worker is a program and no library, and it links a compiler that nothing here
/// needs: so this is its file.
#[path = "../../../crates/compiler/src/compose.rs"]
// Its own crate formats it: rustfmt would look for its tests here.
#[rustfmt::skip]
#[allow(missing_docs)]
mod compose;

/// What stands before components, and their bytes.
pub fn written(components: &[Component<'_>]) -> Option<Vec<u8>> {
    let described = components
        .iter()
        .map(|component| (component.name, component.bytes.len() as u64));
    let mut input = head(described).ok()?.into_bytes();
    for component in components {
        input.extend_from_slice(component.bytes);
    }
    Some(input)
}

/// Reads the worker's input, and composes what is in it as the worker does.
pub fn check(input: &[u8]) {
    let Ok(components) = bounded(input.len(), 64, || read(input)) else {
        return;
    };
    let again = written(&components).expect("what was read can be written");
    assert_eq!(read(&again).as_deref(), Ok(components.as_slice()));
    let Ok(composed) = compose(&components) else {
        return;
    };
    assert_eq!(compose(&components).as_ref(), Ok(&composed));
    let interface = match inspect(&composed) {
        Ok((_, interface)) => interface,
        // Each was within the bounds of a program, and all together are not.
        Err(NotRunnable::TooMany { .. }) => return,
        Err(error) => panic!("what was composed {error}"),
    };
    let program = self::interface(components[0].bytes);
    assert_eq!(sorted(&interface.exports), sorted(&program.exports));
    let imported: Vec<Interface> = components
        .iter()
        .map(|component| self::interface(component.bytes))
        .collect();
    for (_, import) in &interface.imports {
        let known = |each: &Interface| each.imports.iter().any(|(_, name)| name == import);
        assert!(is_hosts(import) || imported.iter().any(known), "{import}");
    }
    if components.iter().all(|component| is_valid(component.bytes)) {
        assert!(
            is_valid(&composed),
            "valid components became an invalid one"
        );
    }
}

/// As the worker does, which catches what panics in wac.
fn compose(components: &[Component<'_>]) -> Result<Vec<u8>, String> {
    // libFuzzer's hook would end the process before anybody can catch.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let composed = compose::compose(components);
    std::panic::set_hook(hook);
    composed
}

fn interface(bytes: &[u8]) -> Interface {
    inspect(bytes).expect("what was composed can be read").1
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort_unstable();
    names
}
