//! Goes through the frame of a binary, and refuses one that declares too much before any of it is
//! kept.
//!
//! What a binary declares (types, imports, names) costs more memory than it has bytes: an import
//! of four bytes becomes some 130 in the engine. Code and data do not. So these bounds hold for
//! what is declared, by the binary and all that it nests together. They also bound what the
//! tables of compiled code take up in each operation that maps it.

use wasmparser::{Chunk, Parser, Payload};

use super::{Interface, NotRunnable};

/// What a binary may declare, together with all that it nests.
///
/// The most that was found in programs that are known to run is in a component of CPython, of
/// 18 MB: 16 nested binaries in 911 sections, 2,531 imports, 4,305 exports, 26,402 declarations,
/// 318 kB of them. With numpy it is five times as long. A program in Go of 2.7 MB has 33,682
/// declarations, most of them segments of data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Binaries inside of each other. Components nest one deep, and one more for each time that
    /// they are composed.
    depth: u64,
    /// Modules and components. wasmparser's validator accepts as many in one component.
    binaries: u64,
    /// Sections. A module has 13 kinds of them, each once, and custom ones; tools write
    /// components in many short ones.
    sections: u64,
    /// Imports. wasmparser and browsers take 1,000,000 a module.
    imports: u64,
    /// Exports. wasmparser and browsers take 1,000,000 a module.
    exports: u64,
    /// Everything that has an index: types, functions, globals, segments, aliases, imports,
    /// exports and so on. A program in Go of 128 MiB has less.
    declarations: u64,
    /// Bytes of all sections but code, data and custom ones: types, names, tables of functions.
    declaration_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            depth: 100,
            binaries: 1000,
            sections: 100_000,
            imports: 100_000,
            exports: 100_000,
            declarations: 2_000_000,
            declaration_bytes: 16 << 20,
        }
    }
}

/// A count that must not pass its bound.
struct Counter {
    what: &'static str,
    count: u64,
    limit: u64,
}

impl Counter {
    fn new(what: &'static str, limit: u64) -> Self {
        Self {
            what,
            count: 0,
            limit,
        }
    }

    /// Whether so many more are within the bound.
    fn require(&self, more: u64) -> Result<(), NotRunnable> {
        if self.count.saturating_add(more) > self.limit {
            return Err(NotRunnable::TooMany {
                what: self.what,
                limit: self.limit,
            });
        }
        Ok(())
    }

    fn add(&mut self, more: u64) -> Result<(), NotRunnable> {
        self.require(more)?;
        self.count += more;
        Ok(())
    }
}

/// What was declared so far.
struct Declared {
    binaries: Counter,
    sections: Counter,
    imports: Counter,
    exports: Counter,
    declarations: Counter,
    bytes: Counter,
}

impl Declared {
    fn new(bounds: &Bounds) -> Self {
        Self {
            binaries: Counter::new("modules and components", bounds.binaries),
            sections: Counter::new("sections", bounds.sections),
            imports: Counter::new("imports", bounds.imports),
            exports: Counter::new("exports", bounds.exports),
            declarations: Counter::new(
                "declarations (types, functions, imports, exports and so on)",
                bounds.declarations,
            ),
            bytes: Counter::new("bytes of types, names and tables", bounds.declaration_bytes),
        }
    }

    /// Counts a section by its header alone.
    fn section(&mut self, payload: &Payload<'_>) -> Result<(), NotRunnable> {
        let count = match payload {
            Payload::TypeSection(section) => section.count(),
            Payload::ImportSection(section) => {
                // Each entry is one import or several, which are counted when they are read.
                self.imports.require(section.count().into())?;
                section.count()
            }
            Payload::FunctionSection(section) => section.count(),
            Payload::TableSection(section) => section.count(),
            Payload::MemorySection(section) => section.count(),
            Payload::TagSection(section) => section.count(),
            Payload::GlobalSection(section) => section.count(),
            Payload::ExportSection(section) => {
                self.exports.add(section.count().into())?;
                section.count()
            }
            Payload::ElementSection(section) => section.count(),
            // Its bytes are contents.
            Payload::DataSection(section) => {
                self.sections.add(1)?;
                return self.declarations.add(section.count().into());
            }
            Payload::InstanceSection(section) => section.count(),
            Payload::CoreTypeSection(section) => section.count(),
            Payload::ComponentInstanceSection(section) => section.count(),
            Payload::ComponentAliasSection(section) => section.count(),
            Payload::ComponentTypeSection(section) => section.count(),
            Payload::ComponentCanonicalSection(section) => section.count(),
            Payload::ComponentImportSection(section) => {
                self.imports.add(section.count().into())?;
                section.count()
            }
            Payload::ComponentExportSection(section) => {
                self.exports.add(section.count().into())?;
                section.count()
            }
            Payload::CodeSectionEntry(_) | Payload::Version { .. } | Payload::End(_) => {
                return Ok(());
            }
            // Code and custom sections are contents; what is nested is counted when it is read.
            Payload::CodeSectionStart { .. }
            | Payload::CustomSection(_)
            | Payload::ModuleSection { .. }
            | Payload::ComponentSection { .. } => return self.sections.add(1),
            _ => 0,
        };
        self.sections.add(1)?;
        self.declarations.add(count.into())?;
        let bytes = payload.as_section().map_or(0, |(_, range)| range.len());
        self.bytes.add(bytes as u64)
    }

    /// Counts an import of a core module: one entry of its section may stand for many, with one
    /// name of their module for all.
    fn import(&mut self, module: &str, name: &str) -> Result<(), NotRunnable> {
        self.imports.add(1)?;
        self.bytes.add((module.len() + name.len()) as u64)
    }
}

/// One binary of the nest that is being read: a component holds modules and components.
struct Open {
    parser: Parser,
    declared_functions: u32,
    function_bodies: u32,
}

impl Open {
    fn new(parser: Parser) -> Self {
        Self {
            parser,
            declared_functions: 0,
            function_bodies: 0,
        }
    }
}

/// Goes through all sections, so that a file that ends too early is found here.
pub(super) fn walk(bytes: &[u8], bounds: &Bounds) -> Result<Interface, NotRunnable> {
    let malformed =
        |error: wasmparser::BinaryReaderError| NotRunnable::Malformed(error.to_string());
    let mut interface = Interface::default();
    let truncated = || NotRunnable::Truncated(bytes.len());
    let mut declared = Declared::new(bounds);
    let mut rest = bytes;
    let mut outer: Vec<Open> = Vec::new();
    let mut current = Open::new(Parser::new(0));
    loop {
        let at_end = rest.is_empty();
        let (payload, consumed) = match current.parser.parse(rest, at_end) {
            Ok(Chunk::Parsed { payload, consumed }) => (payload, consumed),
            Ok(Chunk::NeedMoreData(_)) => return Err(truncated()),
            Err(_) if at_end => return Err(truncated()),
            Err(error) => return Err(NotRunnable::Malformed(error.to_string())),
        };
        rest = &rest[consumed..];
        declared.section(&payload)?;
        let outermost = outer.is_empty();
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import.map_err(malformed)?;
                    declared.import(import.module, import.name)?;
                    if outermost {
                        interface
                            .imports
                            .push((import.module.to_owned(), import.name.to_owned()));
                    }
                }
            }
            Payload::ComponentImportSection(section) if outermost => {
                for import in section {
                    let name = import.map_err(malformed)?.name.name.to_owned();
                    interface.imports.push((String::new(), name));
                }
            }
            Payload::ComponentExportSection(section) if outermost => {
                for export in section {
                    interface
                        .exports
                        .push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::FunctionSection(section) => current.declared_functions = section.count(),
            Payload::CodeSectionStart { count, .. } => current.function_bodies = count,
            Payload::ModuleSection { parser, .. } | Payload::ComponentSection { parser, .. } => {
                declared.binaries.add(1)?;
                if outer.len() as u64 >= bounds.depth {
                    return Err(NotRunnable::TooMany {
                        what: "components inside of each other",
                        limit: bounds.depth,
                    });
                }
                outer.push(std::mem::replace(&mut current, Open::new(parser)));
            }
            Payload::End(_) => {
                if current.declared_functions > 0 && current.function_bodies == 0 {
                    return Err(truncated());
                }
                match outer.pop() {
                    Some(parent) => current = parent,
                    None => return Ok(interface),
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::classify::{COMPONENT_HEADER, MODULE_HEADER, classify};

    /// A number as Wasm writes it (LEB128).
    fn leb(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let byte = (number & 0x7f) as u8;
            number >>= 7;
            if number == 0 {
                bytes.push(byte);
                return bytes;
            }
            bytes.push(byte | 0x80);
        }
    }

    fn section(id: u8, contents: &[u8]) -> Vec<u8> {
        [&[id][..], &leb(contents.len() as u64), contents].concat()
    }

    /// A section of `count` entries, each of these bytes.
    fn repeated(id: u8, count: usize, entry: &[u8]) -> Vec<u8> {
        section(id, &[leb(count as u64), entry.repeat(count)].concat())
    }

    fn module(sections: &[Vec<u8>]) -> Vec<u8> {
        [&MODULE_HEADER[..], &sections.concat()].concat()
    }

    fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        [&COMPONENT_HEADER[..], &sections.concat()].concat()
    }

    /// What `bytes` have too many of, and the bound.
    fn refused(bytes: &[u8]) -> (&'static str, u64) {
        match classify(bytes) {
            Err(NotRunnable::TooMany { what, limit }) => (what, limit),
            other => panic!("{other:?}"),
        }
    }

    /// An import without names, of a function of the first type.
    const IMPORT: [u8; 4] = [0, 0, 0, 0];

    #[test]
    fn a_bomb_of_imports_is_refused_by_its_number() {
        let bomb = module(&[repeated(2, 1_000_000, &IMPORT)]);
        assert_eq!(refused(&bomb), ("imports", 100_000));
        let text = classify(&bomb).unwrap_err().to_string();
        assert!(text.contains("more than 100000 imports"), "{text}");
        let fits = module(&[repeated(2, 100_000, &IMPORT)]);
        assert!(classify(&fits).is_ok());
        // Split among many modules of a component.
        let part = module(&[repeated(2, 50_000, &IMPORT)]);
        let split = component(&vec![section(1, &part); 3]);
        assert_eq!(refused(&split), ("imports", 100_000));
    }

    #[test]
    fn imports_that_share_a_long_name_count_each() {
        // One entry, the name of the module once, and then many names of nothing (compact
        // imports: 0x7e, the type of all, their count).
        let long = [leb(90_000), vec![b'm'; 90_000]].concat();
        let many = [
            &[1],
            &long[..],
            &[0, 0x7e, 0, 0],
            &leb(10_000),
            &vec![0; 10_000],
        ];
        let bomb = module(&[section(2, &many.concat())]);
        let (what, _) = refused(&bomb);
        assert_eq!(what, "bytes of types, names and tables");
    }

    #[test]
    fn whatever_is_declared_in_masses_is_refused() {
        let type_of_many = [&[0x60][..], &leb(1000), &[0x7f; 1000], &[0]].concat();
        let cases = [
            (module(&[repeated(7, 600_000, &[0, 0, 0])]), "exports"),
            (module(&[repeated(3, 3_000_000, &[0])]), "declarations"),
            (module(&[repeated(11, 3_000_000, &[1, 0])]), "declarations"),
            (module(&[repeated(1, 40_000, &type_of_many)]), "bytes of"),
            (module(&vec![section(0, &[0]); 200_000]), "sections"),
            (
                component(&vec![section(1, &MODULE_HEADER); 1001]),
                "modules and components",
            ),
        ];
        for (bytes, what) in cases {
            let (found, _) = refused(&bytes);
            assert!(found.starts_with(what), "{found}, not {what}");
        }
    }

    #[test]
    fn deep_nests_are_refused() {
        let nest = |depth: usize| {
            (0..depth).fold(component(&[]), |inner, _| component(&[section(4, &inner)]))
        };
        assert!(classify(&nest(100)).is_ok());
        assert_eq!(
            refused(&nest(101)),
            ("components inside of each other", 100)
        );
    }

    proptest! {
        /// Whatever the bytes say, no more is kept than the bounds allow.
        #[test]
        fn no_more_is_kept_than_allowed(
            is_component in any::<bool>(),
            parts in proptest::collection::vec((0..13u8, 0..300usize, proptest::collection::vec(any::<u8>(), 0..8)), 0..6),
        ) {
            let bounds = Bounds {
                depth: 2,
                binaries: 3,
                sections: 20,
                imports: 100,
                exports: 100,
                declarations: 200,
                declaration_bytes: 1000,
            };
            let sections: Vec<Vec<u8>> = parts
                .iter()
                .map(|(id, count, entry)| repeated(*id, *count, entry))
                .collect();
            let bytes = if is_component { component(&sections) } else { module(&sections) };
            if let Ok(interface) = walk(&bytes, &bounds) {
                prop_assert!(interface.imports.len() as u64 <= bounds.imports);
                prop_assert!(interface.exports.len() as u64 <= bounds.exports);
                let names = interface.imports.iter().map(|(module, name)| module.len() + name.len());
                let names = names.chain(interface.exports.iter().map(String::len)).sum::<usize>();
                prop_assert!(names as u64 <= 2 * bounds.declaration_bytes);
            }
        }
    }
}
