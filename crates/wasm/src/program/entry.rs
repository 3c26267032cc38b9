//! Where a program begins: its imports are bound, and the function that starts it is found.

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Type};
use wasmtime::{ExternType, FuncType, Module};
use wasmtime_wasi_http::handler::ProxyPre;

use super::{Code, ProgramError};
use crate::classify::World;
use crate::compile::one_line;
use crate::link::{component_linker, link_component, link_module, module_linker};
use crate::state::State;

fn imports_error(name: &str, imports: String) -> ProgramError {
    ProgramError::Imports {
        name: name.to_owned(),
        imports,
    }
}

/// Name of the function that starts a WASI preview 1 command.
const START: &str = "_start";
/// Name of the function that has to be called before any other one of a library.
const INITIALIZE: &str = "_initialize";

pub(super) fn prepare_module(
    module: &Module,
    name: &str,
    export: Option<&str>,
) -> Result<Code, ProgramError> {
    let instance = link_module(&module_linker(module.engine())?, module)
        .map_err(|missing| imports_error(name, missing))?;
    let entry = export.unwrap_or(START);
    let fault = match module.get_export(entry) {
        None => format!("it exports no function `{entry}`"),
        Some(ExternType::Func(function)) if takes_and_returns_nothing(&function) => {
            return Ok(Code::Module {
                instance,
                entry: entry.to_owned(),
                initialize: entry != START && entry != INITIALIZE && is_command(module, INITIALIZE),
            });
        }
        Some(ExternType::Func(_)) => {
            format!("its function `{entry}` has parameters or results")
        }
        Some(_) => format!("its export `{entry}` is no function"),
    };
    let candidates = module
        .exports()
        .map(|candidate| candidate.name())
        .filter(|candidate| is_command(module, candidate));
    Err(entry_error(name, fault, candidates))
}

fn is_command(module: &Module, export: &str) -> bool {
    matches!(module.get_export(export), Some(ExternType::Func(function))
        if takes_and_returns_nothing(&function))
}

fn takes_and_returns_nothing(function: &FuncType) -> bool {
    function.params().len() == 0 && function.results().len() == 0
}

/// Wasmtime finds every later 0.2 by this name too.
const RUN_INTERFACE: &str = "wasi:cli/run@0.2.0";

fn link(
    component: &Component,
    name: &str,
    preview3: bool,
) -> Result<InstancePre<State>, ProgramError> {
    link_component(&component_linker(component, preview3)?, component)
        .map_err(|missing| imports_error(name, missing))
}

/// The bindings of a world, or how the component does not fit it although it says so.
fn bound<T>(name: &str, bindings: wasmtime::Result<T>) -> Result<T, ProgramError> {
    bindings.map_err(|error| ProgramError::Entry {
        name: name.to_owned(),
        fault: one_line(&format!("{error:#}")),
        candidates: "its exports are not those of the world that it names".to_owned(),
    })
}

pub(super) fn prepare_command3(component: &Component, name: &str) -> Result<Code, ProgramError> {
    let instance = link(component, name, true)?;
    let command = wasmtime_wasi::p3::bindings::CommandPre::new(instance);
    Ok(Code::Command3(bound(name, command)?))
}

pub(super) fn prepare_service(
    component: &Component,
    name: &str,
    world: World,
) -> Result<Code, ProgramError> {
    let instance = link(component, name, world.needs_preview3())?;
    Ok(Code::Service(if world.needs_preview3() {
        let bindings = wasmtime_wasi_http::p3::bindings::ServicePre::new(instance);
        ProxyPre::P3(bound(name, bindings)?)
    } else {
        let bindings = wasmtime_wasi_http::p2::bindings::ProxyPre::new(instance);
        ProxyPre::P2(bound(name, bindings)?)
    }))
}

pub(super) fn prepare_component(
    component: &Component,
    name: &str,
    export: Option<&str>,
    preview3: bool,
) -> Result<Code, ProgramError> {
    let instance = link(component, name, preview3)?;
    let entry = export.unwrap_or(RUN_INTERFACE);
    let fault = match find_function(component, entry) {
        None => format!("it exports neither a function nor an interface `{entry}`"),
        Some((function, index)) => match returns_result(&function) {
            Some(fallible) => {
                return Ok(Code::Component {
                    instance,
                    entry: index,
                    fallible,
                });
            }
            None => {
                format!("its function `{entry}` has parameters, or results other than `result`")
            }
        },
    };
    let ty = component.component_type();
    let candidates = ty
        .exports(component.engine())
        .map(|(candidate, _)| candidate)
        .filter(|candidate| {
            find_function(component, candidate)
                .is_some_and(|(function, _)| returns_result(&function).is_some())
        });
    Err(entry_error(name, fault, candidates))
}

/// The function called `export`, or the function `run` of the interface called so.
fn find_function(
    component: &Component,
    export: &str,
) -> Option<(ComponentFunc, ComponentExportIndex)> {
    let (item, index) = match component.get_export(None, export)? {
        (ComponentItem::ComponentInstance(_), interface) => {
            component.get_export(Some(&interface), "run")?
        }
        other => other,
    };
    match item {
        ComponentItem::ComponentFunc(function) => Some((function, index)),
        _ => None,
    }
}

/// Whether a function without parameters returns `result` (true) or nothing (false).
fn returns_result(function: &ComponentFunc) -> Option<bool> {
    let results: Vec<Type> = function.results().collect();
    if function.params().len() != 0 {
        return None;
    }
    match results.as_slice() {
        [] => Some(false),
        [Type::Result(result)] if result.ok().is_none() && result.err().is_none() => Some(true),
        _ => None,
    }
}

fn entry_error<'a>(
    name: &str,
    fault: String,
    candidates: impl Iterator<Item = &'a str>,
) -> ProgramError {
    let names: Vec<String> = candidates
        .take(20)
        .map(|candidate| format!("{name}#{candidate}"))
        .collect();
    ProgramError::Entry {
        name: name.to_owned(),
        fault,
        candidates: if names.is_empty() {
            "it exports nothing that could be started".to_owned()
        } else {
            format!("what can be started is {}", names.join(", "))
        },
    }
}
