//! What the host offers to guests: WASI preview 1 to core modules, 0.2 to components.

use std::sync::OnceLock;

use wasmtime::{Linker, component};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, p2};

use crate::engine::{EngineError, engine};
use crate::{Kind, compile::one_line};

/// What a store holds. The context of preview 1 contains one of 0.2, so it serves both.
pub(crate) type State = WasiP1Ctx;

/// The functions for core modules, made at the first call.
///
/// They are the asynchronous ones: the synchronous ones start a worker thread for each
/// processor as soon as one is called.
pub(crate) fn module_linker() -> Result<&'static Linker<State>, EngineError> {
    static LINKER: OnceLock<Linker<State>> = OnceLock::new();
    if let Some(linker) = LINKER.get() {
        return Ok(linker);
    }
    let mut linker = Linker::new(engine()?);
    p1::add_to_linker_async(&mut linker, |state| state)
        .and_then(|()| add_exit(&mut linker))
        .map_err(|error| EngineError::from_wasmtime(&error))?;
    Ok(LINKER.get_or_init(|| linker))
}

/// Replaces `proc_exit`: wasmtime-wasi refuses statuses from 126 on, which a container may use.
fn add_exit(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |status: i32| -> wasmtime::Result<()> { Err(I32Exit(status).into()) },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The functions for components, made at the first call.
pub(crate) fn component_linker() -> Result<&'static component::Linker<State>, EngineError> {
    static LINKER: OnceLock<component::Linker<State>> = OnceLock::new();
    if let Some(linker) = LINKER.get() {
        return Ok(linker);
    }
    let mut linker = component::Linker::new(engine()?);
    p2::add_to_linker_async(&mut linker).map_err(|error| EngineError::from_wasmtime(&error))?;
    Ok(LINKER.get_or_init(|| linker))
}

/// Makes what every program of this kind needs, unless it is there: the engine and its linker.
///
/// A process that forks for each container calls this first, so that the children share the
/// memory instead of each making its own. It starts no thread and opens no file.
///
/// # Errors
/// When Wasmtime cannot be set up on this machine.
pub fn warm_up(kind: Kind) -> Result<(), EngineError> {
    match kind {
        Kind::Module => module_linker().map(drop),
        Kind::Component => component_linker().map(drop),
    }
}

/// Resolves the imports of a core module.
///
/// # Errors
/// All imports that the host does not have, or has with another type, as one line.
pub(crate) fn link_module(
    linker: &Linker<State>,
    module: &wasmtime::Module,
) -> Result<wasmtime::InstancePre<State>, String> {
    linker.instantiate_pre(module).map_err(|error| {
        // Values of the linker belong to a store. This one only serves to look them up.
        let state = WasiCtxBuilder::new().build_p1();
        let mut store = wasmtime::Store::new(module.engine(), state);
        let missing: Vec<String> = module
            .imports()
            .filter(|import| linker.get_by_import(&mut store, import).is_none())
            .map(|import| format!("`{}::{}`", import.module(), import.name()))
            .collect();
        if missing.is_empty() {
            one_line(&format!("{error:#}"))
        } else {
            missing.join(", ")
        }
    })
}

/// Resolves the imports of a component.
///
/// # Errors
/// The first import that the host does not have, or has with another type.
pub(crate) fn link_component(
    linker: &component::Linker<State>,
    component: &component::Component,
) -> Result<component::InstancePre<State>, String> {
    linker
        .instantiate_pre(component)
        .map_err(|error| one_line(&format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use wasmtime::Module;

    use super::*;

    fn module(text: &str) -> Module {
        Module::new(engine().unwrap(), wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn all_missing_imports_are_named() {
        let module = module(
            r#"(module
                (import "env" "one" (func))
                (import "wasi_snapshot_preview1" "fd_write"
                    (func (param i32 i32 i32 i32) (result i32)))
                (import "env" "two" (memory 1)))"#,
        );
        let error = link_module(module_linker().unwrap(), &module)
            .err()
            .unwrap();
        assert_eq!(error, "`env::one`, `env::two`");
    }

    #[test]
    fn an_import_of_another_type_is_named() {
        let module =
            module(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64))))"#);
        let error = link_module(module_linker().unwrap(), &module)
            .err()
            .unwrap();
        assert!(error.contains("fd_write"), "{error}");
    }

    #[test]
    fn a_missing_import_of_a_component_is_named() {
        let text = r#"(component (import "acme:thing/store" (instance (export "get" (func)))))"#;
        let bytes = wat::parse_str(text).unwrap();
        let component = component::Component::new(engine().unwrap(), bytes).unwrap();
        let error = link_component(component_linker().unwrap(), &component)
            .err()
            .unwrap();
        assert!(error.contains("acme:thing/store"), "{error}");
    }
}
