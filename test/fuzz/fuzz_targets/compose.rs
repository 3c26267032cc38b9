//! Components that become one: well-formed ones that import from each other in any way, and the
//! same with a few bytes changed.
#![no_main]

use std::collections::BTreeMap;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lighter_fuzz::composition::{check, written};
use lighter_wasm::composition::Component;
use wasm_encoder::{
    Alias, CanonicalFunctionSection, CodeSection, Component as Binary, ComponentAliasSection,
    ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentInstanceSection,
    ComponentTypeRef, ComponentTypeSection, ComponentValType, ExportKind, ExportSection, Function,
    FunctionSection, InstanceSection, InstanceType, ModuleArg, ModuleSection, PrimitiveValType,
    TypeBounds, TypeSection, ValType,
};

/// Names of imports and exports, some of which differ by their version only.
const NAMES: [&str; 8] = [
    "a:b/c",
    "a:b/c@0.2.0",
    "a:b/c@0.2.1",
    "a:b/c@1.0.0",
    "a:b/d@0.1.0",
    "plain",
    "wasi:cli/run@0.2.0",
    "wasi:io/poll@0.2.0",
];

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Name {
    Plain,
    V020,
    V021,
    V100,
    Other,
    Word,
    Run,
    Host,
}

/// What stands behind a name.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    /// An interface with a function without parameters.
    Value,
    /// The same with another type.
    Map,
    /// An interface of a resource.
    Resource,
    /// An interface of a type that stands for itself.
    Record,
    /// A function.
    Function,
    /// An import or the first interface, exported again.
    Again(u8),
}

#[derive(Arbitrary, Debug)]
struct Description {
    imports: Vec<(Name, Kind)>,
    exports: Vec<(Name, Kind)>,
}

#[derive(Arbitrary, Debug)]
struct Input {
    components: Vec<Description>,
    changes: Vec<(u16, u8)>,
}

fuzz_target!(|input: Input| {
    let binaries: Vec<(String, Vec<u8>)> = input
        .components
        .iter()
        .take(6)
        .enumerate()
        .map(|(index, description)| (format!("component{index}"), description.binary()))
        .collect();
    let components: Vec<Component<'_>> = binaries
        .iter()
        .map(|(name, bytes)| Component { name, bytes })
        .collect();
    let Some(mut bytes) = written(&components) else {
        return;
    };
    check(&bytes);
    for (place, byte) in input.changes.iter().take(4) {
        let place = usize::from(*place) % bytes.len();
        bytes[place] = *byte;
    }
    check(&bytes);
});

const U32: ComponentValType = ComponentValType::Primitive(PrimitiveValType::U32);

/// A binary that is being written, and how many there are of what it counts.
#[derive(Default)]
struct Builder {
    binary: Binary,
    types: u32,
    functions: u32,
    instances: u32,
}

impl Description {
    fn binary(&self) -> Vec<u8> {
        let mut builder = Builder::default();
        let imported: Vec<(ComponentExportKind, u32)> = by_name(&self.imports)
            .into_iter()
            .map(|(name, kind)| builder.import(name, kind))
            .collect();
        let own = builder.own();
        let mut exports = ComponentExportSection::new();
        for (name, kind) in by_name(&self.exports) {
            let (kind, index) = match kind {
                Kind::Function => (ComponentExportKind::Func, own.function),
                Kind::Again(index) if !imported.is_empty() => {
                    imported[usize::from(index) % imported.len()]
                }
                Kind::Value | Kind::Again(_) => own.instances[0],
                Kind::Map => own.instances[1],
                Kind::Resource => own.instances[2],
                Kind::Record => own.instances[3],
            };
            exports.export(name, kind, index, None);
        }
        builder.binary.section(&exports);
        builder.binary.finish()
    }
}

/// Each name once: names are unique in a component.
fn by_name(list: &[(Name, Kind)]) -> BTreeMap<&'static str, Kind> {
    list.iter()
        .map(|(name, kind)| (NAMES[*name as usize], *kind))
        .collect()
}

/// What a component has without importing it.
struct Own {
    function: u32,
    instances: [(ComponentExportKind, u32); 4],
}

/// `x: u32`, if a function has a parameter.
fn parameters(has_parameter: bool) -> Vec<(&'static str, ComponentValType)> {
    if has_parameter {
        vec![("x", U32)]
    } else {
        Vec::new()
    }
}

impl Builder {
    fn import(&mut self, name: &str, kind: Kind) -> (ComponentExportKind, u32) {
        let mut types = ComponentTypeSection::new();
        let mut instance = InstanceType::new();
        match kind {
            Kind::Value | Kind::Map => {
                let parameters = parameters(matches!(kind, Kind::Map));
                let mut function = instance.ty().function();
                function.params(parameters).result(Some(U32));
                instance.export("value", ComponentTypeRef::Func(0));
            }
            Kind::Resource => {
                instance.export("t", ComponentTypeRef::Type(TypeBounds::SubResource));
            }
            Kind::Record => {
                instance.ty().defined_type().record([("x", U32)]);
                instance.export("t", ComponentTypeRef::Type(TypeBounds::Eq(0)));
            }
            Kind::Function | Kind::Again(_) => {}
        }
        let mut imports = ComponentImportSection::new();
        let imported = if matches!(kind, Kind::Function) {
            let mut function = types.function();
            function.params(parameters(false)).result(Some(U32));
            imports.import(name, ComponentTypeRef::Func(self.types));
            (ComponentExportKind::Func, next(&mut self.functions))
        } else {
            types.instance(&instance);
            imports.import(name, ComponentTypeRef::Instance(self.types));
            (ComponentExportKind::Instance, next(&mut self.instances))
        };
        self.types += 1;
        self.binary.section(&types).section(&imports);
        imported
    }

    fn own(&mut self) -> Own {
        let module = module();
        self.binary.section(&ModuleSection(&module));
        let mut instances = InstanceSection::new();
        instances.instantiate(0, Vec::<(&str, ModuleArg)>::new());
        self.binary.section(&instances);
        let function = self.lift("value", 0, false);
        let map = self.lift("map", 1, true);
        let mut types = ComponentTypeSection::new();
        types.resource(ValType::I32, None);
        types.defined_type().record([("x", U32)]);
        self.binary.section(&types);
        let (resource, record) = (next(&mut self.types), next(&mut self.types));
        let mut instances = ComponentInstanceSection::new();
        for (name, kind, index) in [
            ("value", ComponentExportKind::Func, function),
            ("value", ComponentExportKind::Func, map),
            ("t", ComponentExportKind::Type, resource),
            ("t", ComponentExportKind::Type, record),
        ] {
            instances.export_items([(name, kind, index)]);
        }
        self.binary.section(&instances);
        let first = self.instances;
        Own {
            function,
            instances: [0, 1, 2, 3].map(|each| (ComponentExportKind::Instance, first + each)),
        }
    }

    /// A function of the component that is the core instance's one of this name.
    fn lift(&mut self, name: &str, core_function: u32, has_parameter: bool) -> u32 {
        let mut types = ComponentTypeSection::new();
        let mut function = types.function();
        function.params(parameters(has_parameter)).result(Some(U32));
        let mut aliases = ComponentAliasSection::new();
        aliases.alias(Alias::CoreInstanceExport {
            instance: 0,
            kind: ExportKind::Func,
            name,
        });
        let mut functions = CanonicalFunctionSection::new();
        functions.lift(core_function, self.types, []);
        self.types += 1;
        self.binary
            .section(&types)
            .section(&aliases)
            .section(&functions);
        next(&mut self.functions)
    }
}

fn next(count: &mut u32) -> u32 {
    *count += 1;
    *count - 1
}

/// Two functions of one result, the second with a parameter.
fn module() -> wasm_encoder::Module {
    let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
    let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
    for (index, (name, parameters)) in [("value", 0), ("map", 1)].into_iter().enumerate() {
        let parameters = vec![ValType::I32; parameters];
        types.ty().function(parameters, [ValType::I32]);
        functions.function(index as u32);
        exports.export(name, ExportKind::Func, index as u32);
        let mut body = Function::new([]);
        body.instructions().i32_const(1).end();
        code.function(&body);
    }
    let mut module = wasm_encoder::Module::new();
    module.section(&types).section(&functions);
    module.section(&exports).section(&code);
    module
}
