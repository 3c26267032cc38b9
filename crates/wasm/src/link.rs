//! What the host offers to guests: WASI preview 1 to core modules, 0.2 and 0.3 to components.

use wasmtime::{Engine, Linker, component};
use wasmtime_wasi::{I32Exit, p1, p2, p3};
use wasmtime_wasi_config::WasiConfig;

use crate::compile::one_line;
use crate::debugging::Recorder;
use crate::engine::EngineError;
use crate::errno;
use crate::key_value;
use crate::options::Options;
use crate::run::Guest;
use crate::state::{Shared, State};

/// The functions for core modules.
///
/// They are the asynchronous ones: the synchronous ones start a worker thread for each
/// processor as soon as one is called.
pub(crate) fn module_linker(engine: &Engine) -> Result<Linker<State>, EngineError> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, State::preview1)
        .and_then(|()| {
            linker.allow_shadowing(true);
            add_exit(&mut linker)?;
            errno::add_to_module_linker(&mut linker)?;
            #[cfg(feature = "wasi-nn")]
            crate::neural_network::add_to_module_linker(&mut linker)?;
            Ok(())
        })
        .map_err(|error| EngineError::from_wasmtime(&error))?;
    Ok(linker)
}

/// Replaces `proc_exit`: wasmtime-wasi refuses statuses from 126 on, which a container may use.
fn add_exit(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "proc_exit",
        |status: i32| -> wasmtime::Result<()> { Err(I32Exit(status).into()) },
    )?;
    Ok(())
}

/// The functions that `component` may import. Those of worlds that it does not ask for are left
/// out, as each costs some microseconds of the start.
pub(crate) fn component_linker(
    component: &component::Component,
    preview3: bool,
) -> Result<component::Linker<State>, EngineError> {
    let engine = component.engine();
    let ty = component.component_type();
    let imports = |prefix: &str| ty.imports(engine).any(|(name, _)| name.starts_with(prefix));
    let mut linker = component::Linker::new(engine);
    let add = |linker: &mut component::Linker<State>| {
        p2::add_to_linker_async(linker)?;
        if imports("wasi:filesystem/") {
            errno::add_to_component_linker(linker)?;
        }
        if imports("wasi:http/") {
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        }
        if imports("wasi:config/") {
            wasmtime_wasi_config::add_to_linker(linker, |state| {
                WasiConfig::from(&*state.configuration)
            })?;
        }
        if imports("wasi:keyvalue/") {
            key_value::add_to_linker(linker)?;
        }
        if preview3 {
            p3::add_to_linker(linker)?;
            wasmtime_wasi_http::p3::add_to_linker(linker)?;
        }
        #[cfg(feature = "wasi-nn")]
        if imports("wasi:nn/") {
            crate::neural_network::add_to_component_linker(linker)?;
        }
        Ok(())
    };
    add(&mut linker).map_err(|error: wasmtime::Error| EngineError::from_wasmtime(&error))?;
    Ok(linker)
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
        let shared = Shared::new(
            Guest::default(),
            Options::default(),
            module.engine(),
            Recorder::default(),
            None,
        );
        let Ok(state) = shared.state(false) else {
            return one_line(&format!("{error:#}"));
        };
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
    use crate::engine::{Compilation, engine};

    fn own_engine() -> Engine {
        engine(Compilation::default(), None, &[]).unwrap()
    }

    fn link(text: &str) -> Result<(), String> {
        let engine = own_engine();
        let module = Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        link_module(&module_linker(&engine).unwrap(), &module).map(drop)
    }

    #[test]
    fn all_missing_imports_are_named() {
        let error = link(
            r#"(module
                (import "env" "one" (func))
                (import "wasi_snapshot_preview1" "fd_write"
                    (func (param i32 i32 i32 i32) (result i32)))
                (import "env" "two" (memory 1)))"#,
        );
        assert_eq!(error.unwrap_err(), "`env::one`, `env::two`");
    }

    #[test]
    fn an_import_of_another_type_is_named() {
        let error =
            link(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i64))))"#);
        assert!(error.unwrap_err().contains("fd_write"));
    }

    #[test]
    fn a_missing_import_of_a_component_is_named_with_its_version() {
        let text = r#"(component
            (import "acme:thing/store@1.2.3" (instance (export "get" (func)))))"#;
        let bytes = wat::parse_str(text).unwrap();
        let component = component::Component::new(&own_engine(), bytes).unwrap();
        let linker = component_linker(&component, false).unwrap();
        let error = link_component(&linker, &component).err().unwrap();
        assert!(error.contains("acme:thing/store@1.2.3"), "{error}");
    }
}
