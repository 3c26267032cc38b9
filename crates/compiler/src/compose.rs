//! Makes one component of several: the first is the program, the others export what it imports.
//!
//! Which component an import is taken from is decided by names here, so that each fault can be
//! told in the words of the image. wac-graph then compares the types and writes the result.
//!
//! - An import is taken from the one other component that exports it; of several versions from
//!   the very same one, else from a compatible one (as semver has it).
//! - A component is made once, however many import from it.
//! - One that nobody imports from is left out: an image may hold several programs.
//! - What no component exports is left to the host, if that has such interfaces.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lighter_wasm::composition::{Component, is_hosts};
use lighter_wasm::{Interface, World, inspect};
use wac_graph::types::{ItemKind, Package, Type, Types, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

/// Most imports that are named in an error.
const NAMED: usize = 20;

/// Composes them.
///
/// # Errors
/// One line that says which of them does not fit, and why.
pub fn compose(components: &[Component<'_>]) -> Result<Vec<u8>, String> {
    if components.is_empty() {
        return Err("there is no component".to_owned());
    }
    let interfaces = components
        .iter()
        .map(interface)
        .collect::<Result<Vec<_>, _>>()?;
    // wac-graph panics where it has not thought of something, and its input is hostile.
    let composed = catch_unwind(AssertUnwindSafe(|| {
        let mut graph = CompositionGraph::new();
        let packages = load(components, &mut graph)?;
        let wants = |component: usize, import: &str| {
            let world = &graph.types()[graph[packages[component]].ty()];
            let kind = world.imports.get(import);
            kind.is_some_and(|kind| wants_something(graph.types(), *kind))
        };
        let plan = Plan::new(components, &interfaces, &wants)?;
        wire(components, &interfaces, graph, &packages, &plan)
    }));
    composed.unwrap_or_else(|_| {
        Err("wac, which composes them, gave up: they are malformed, or their types are beyond what it knows".to_owned())
    })
}

fn load(
    components: &[Component<'_>],
    graph: &mut CompositionGraph,
) -> Result<Vec<PackageId>, String> {
    let load = |(index, component): (usize, &Component<'_>)| {
        // Neutral names, as they stand in the result.
        let name = format!("layer:component{index}");
        let package = Package::from_bytes(&name, None, component.bytes, graph.types_mut())
            .map_err(|error| format!("{} is malformed: {error:#}", component.name))?;
        graph
            .register_package(package)
            .map_err(|error| format!("{}: {error}", component.name))
    };
    components.iter().enumerate().map(load).collect()
}

/// Whether an import takes more than types that stand for themselves: those need nobody to
/// provide them.
fn wants_something(types: &Types, kind: ItemKind) -> bool {
    match kind {
        ItemKind::Type(Type::Resource(_)) => true,
        ItemKind::Type(_) => false,
        ItemKind::Instance(interface) => types[interface]
            .exports
            .values()
            .any(|kind| wants_something(types, *kind)),
        _ => true,
    }
}

/// What a component imports and exports, by name.
fn interface(component: &Component<'_>) -> Result<Interface, String> {
    let name = component.name;
    let (world, interface) =
        inspect(component.bytes).map_err(|refused| format!("{name} {refused}"))?;
    if world == World::Module {
        return Err(format!(
            "{name} is a core module, and only components can be composed: make a component of it (`wasm-tools component new`)"
        ));
    }
    Ok(interface)
}

/// Who gets what from whom.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The components that are needed, those first that others are made from.
    order: Vec<usize>,
    links: Vec<Link>,
}

/// One import that another component's export is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    importer: usize,
    import: String,
    exporter: usize,
    export: String,
}

impl Plan {
    /// Starts at the first component. `wants` says whether anybody has to provide an import of
    /// a component.
    fn new(
        components: &[Component<'_>],
        interfaces: &[Interface],
        wants: &dyn Fn(usize, &str) -> bool,
    ) -> Result<Self, String> {
        let mut search = Search {
            components,
            interfaces,
            wants,
            path: Vec::new(),
            missing: Vec::new(),
            plan: Self::default(),
        };
        search.visit(0)?;
        if search.missing.is_empty() {
            Ok(search.plan)
        } else {
            Err(search.name_missing())
        }
    }
}

/// Goes from importers to exporters, as far as that leads.
struct Search<'a> {
    components: &'a [Component<'a>],
    interfaces: &'a [Interface],
    wants: &'a dyn Fn(usize, &str) -> bool,
    /// How it came here: component and import.
    path: Vec<(usize, &'a str)>,
    /// What neither a component nor the host has, and who wants it.
    missing: Vec<(&'a str, usize)>,
    plan: Plan,
}

impl<'a> Search<'a> {
    /// Its depth is at most the number of components.
    fn visit(&mut self, component: usize) -> Result<(), String> {
        let interfaces = self.interfaces;
        for (_, import) in &interfaces[component].imports {
            let Some((exporter, export)) = self.exporter(component, import)? else {
                if !is_hosts(import) && (self.wants)(component, import) {
                    self.missing.push((import, component));
                }
                continue;
            };
            self.plan.links.push(Link {
                importer: component,
                import: import.clone(),
                exporter,
                export: export.to_owned(),
            });
            if self.plan.order.contains(&exporter) {
                continue;
            }
            self.path.push((component, import));
            if let Some(start) = self.path.iter().position(|(place, _)| *place == exporter) {
                return Err(self.name_cycle(start, exporter));
            }
            self.visit(exporter)?;
            self.path.pop();
        }
        self.plan.order.push(component);
        Ok(())
    }

    /// The component that `import` is taken from, and the name that it exports it by.
    fn exporter(&self, importer: usize, import: &str) -> Result<Option<(usize, &'a str)>, String> {
        let interfaces = self.interfaces;
        let of_others = || {
            let exports = interfaces.iter().enumerate();
            exports
                .filter(move |(index, _)| *index != importer)
                .flat_map(|(index, interface)| {
                    let names = interface.exports.iter();
                    names.map(move |name| (index, name.as_str()))
                })
        };
        let mut found: Vec<_> = of_others().filter(|(_, name)| *name == import).collect();
        if found.is_empty() {
            found = of_others()
                .filter(|(_, name)| are_semver_compatible(name, import))
                .collect();
        }
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            [one, other, ..] => Err(format!(
                "{} imports `{import}`, and both {} and {} export it, so that nothing says which is meant",
                self.components[importer].name,
                self.exported(*one, import),
                self.exported(*other, import),
            )),
        }
    }

    /// A component, with the name of its export where that is not the import's.
    fn exported(&self, (component, export): (usize, &str), import: &str) -> String {
        let name = self.components[component].name;
        if export == import {
            name.to_owned()
        } else {
            format!("{name} (as `{export}`)")
        }
    }

    fn name_cycle(&self, start: usize, end: usize) -> String {
        let steps = self.path[start..].iter();
        let steps: Vec<String> = steps
            .map(|(component, import)| {
                format!("{} imports `{import}` of", self.components[*component].name)
            })
            .collect();
        format!(
            "they need each other in a circle: {} {}",
            steps.join(" "),
            self.components[end].name
        )
    }

    fn name_missing(&self) -> String {
        let mut imports: Vec<&str> = Vec::new();
        for (import, _) in &self.missing {
            if !imports.contains(import) {
                imports.push(import);
            }
        }
        let described: Vec<String> = imports
            .iter()
            .take(NAMED)
            .map(|import| {
                let wanted: Vec<&str> = self
                    .missing
                    .iter()
                    .filter(|(missing, _)| missing == import)
                    .map(|(_, component)| self.components[*component].name)
                    .collect();
                format!(
                    "`{import}` (imported by {}{})",
                    wanted.join(" and "),
                    self.other_versions(import)
                )
            })
            .collect();
        let more = imports.len().saturating_sub(NAMED);
        format!(
            "neither a layer nor this host provides {}{}",
            described.join(", "),
            if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            }
        )
    }

    /// Exports that differ from `import` by their version only.
    fn other_versions(&self, import: &str) -> String {
        let without_version = |name: &'a str| name.split('@').next().unwrap_or(name);
        let wanted = import.split('@').next().unwrap_or(import);
        let mut text = String::new();
        for (component, interface) in self.components.iter().zip(self.interfaces) {
            for export in &interface.exports {
                if without_version(export) == wanted && export != import {
                    text.push_str(&format!("; {} exports `{export}`", component.name));
                }
            }
        }
        text
    }
}

/// Carries the plan out.
fn wire(
    components: &[Component<'_>],
    interfaces: &[Interface],
    mut graph: CompositionGraph,
    packages: &[PackageId],
    plan: &Plan,
) -> Result<Vec<u8>, String> {
    let name = |component: usize| components[component].name;
    let mut instances: BTreeMap<usize, NodeId> = BTreeMap::new();
    for index in &plan.order {
        let instance = graph.instantiate(packages[*index]);
        for link in plan.links.iter().filter(|link| link.importer == *index) {
            // It comes earlier in the order.
            let exporter = instances[&link.exporter];
            let exported = graph
                .alias_instance_export(exporter, &link.export)
                .map_err(|error| format!("{}: {}", name(link.exporter), chain(&error)))?;
            graph
                .set_instantiation_argument(instance, &link.import, exported)
                .map_err(|error| {
                    format!(
                        "{} imports `{}` otherwise than {} exports it: {}",
                        name(*index),
                        link.import,
                        name(link.exporter),
                        chain(&error)
                    )
                })?;
        }
        instances.insert(*index, instance);
    }
    let failed = |error: &dyn Error| format!("{}: {}", name(0), chain(error));
    for export in &interfaces[0].exports {
        let exported = graph
            .alias_instance_export(instances[&0], export)
            .map_err(|error| failed(&error))?;
        graph
            .export(exported, export)
            .map_err(|error| failed(&error))?;
    }
    // Compiling validates what it gets, as it does with any component.
    let options = EncodeOptions {
        validate: false,
        ..EncodeOptions::default()
    };
    graph.encode(options).map_err(|error| chain(&error))
}

/// The error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
pub mod examples;
#[cfg(test)]
mod tests;
