//! The program of an image.

use std::fmt;
use std::path::Path;

use lighter_wasm::{Interface, World};
use object::LittleEndian;
use object::elf::{EM_AARCH64, EM_RISCV, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::pack::path::ImagePath;

/// What an image is made for.
#[derive(Clone, Debug)]
pub enum Program {
    Wasm(Wasm),
    Native(Native),
}

/// A Wasm file of an image.
#[derive(Clone, Debug)]
pub struct Wasm {
    /// Where it is, and what it is called.
    pub path: ImagePath,
    pub bytes: Vec<u8>,
    pub world: World,
    pub interface: Interface,
}

/// A Linux program of an image.
#[derive(Clone, Debug)]
pub struct Native {
    pub path: ImagePath,
    pub bytes: Vec<u8>,
    /// In the names that images use.
    pub architecture: &'static str,
    /// The loader that Linux starts instead of it; none if it is linked statically.
    pub interpreter: Option<String>,
}

impl Program {
    pub fn path(&self) -> &ImagePath {
        match self {
            Self::Wasm(wasm) => &wasm.path,
            Self::Native(native) => &native.path,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Wasm(wasm) => &wasm.bytes,
            Self::Native(native) => &native.bytes,
        }
    }

    /// The Wasm, if it is that.
    pub fn wasm(&self) -> Option<&Wasm> {
        match self {
            Self::Wasm(wasm) => Some(wasm),
            Self::Native(_) => None,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wasm(wasm) => wasm.world.fmt(formatter),
            Self::Native(_) => formatter.write_str("Linux program"),
        }
    }
}

impl Wasm {
    /// A file at the root of the image, under its own name.
    pub fn new(file: &Path, bytes: Vec<u8>) -> Result<Self, String> {
        let (world, interface) = lighter_wasm::inspect(&bytes)
            .map_err(|refused| format!("{} {refused}", file.display()))?;
        Ok(Self {
            path: path_of(file)?,
            bytes,
            world,
            interface,
        })
    }
}

impl Native {
    /// The same of a Linux program.
    pub fn new(file: &Path, bytes: Vec<u8>) -> Result<Self, String> {
        let (architecture, interpreter) =
            inspect(&bytes).map_err(|fault| format!("{} {fault}", file.display()))?;
        Ok(Self {
            path: path_of(file)?,
            bytes,
            architecture,
            interpreter,
        })
    }
}

fn path_of(file: &Path) -> Result<ImagePath, String> {
    let name = file.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| format!("{} has no name in UTF-8", file.display()))
        .and_then(|name| format!("/{name}").parse())
}

/// For which processor an ELF program is, and its interpreter.
fn inspect(bytes: &[u8]) -> Result<(&'static str, Option<String>), String> {
    if bytes.starts_with(b"\0asm") {
        return Err("is Wasm: leave --form native out".to_owned());
    }
    let damaged = |error: object::Error| {
        format!("is no Linux program of the ELF format for 64 bits: {error}")
    };
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(damaged)?;
    // Fails for the other order of bytes, which no processor below has.
    let order = header.endian().map_err(damaged)?;
    let kind = header.e_type.get(order);
    if kind != ET_EXEC && kind != ET_DYN {
        return Err("is an object file and no program: link it".to_owned());
    }
    let architecture = match header.e_machine.get(order) {
        EM_X86_64 => "amd64",
        EM_AARCH64 => "arm64",
        EM_RISCV => "riscv64",
        other => return Err(format!("is for a processor of no name here (ELF {other})")),
    };
    let mut interpreter = None;
    for segment in header.program_headers(order, bytes).map_err(damaged)? {
        if let Some(path) = segment.interpreter(order, bytes).map_err(damaged)? {
            interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    Ok((architecture, interpreter))
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A program's header and, if there is an interpreter, the segment that names it.
    pub fn elf(kind: u16, machine: u16, interpreter: Option<&str>) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        // Entry, program headers, section headers.
        let segments = u64::from(interpreter.is_some());
        [0, 64 * segments, 0]
            .iter()
            .for_each(|word: &u64| bytes.extend(word.to_le_bytes()));
        bytes.extend(0u32.to_le_bytes());
        [64, 56, segments as u16, 64, 0, 0]
            .iter()
            .for_each(|word| bytes.extend(word.to_le_bytes()));
        if let Some(path) = interpreter {
            let size = path.len() as u64 + 1;
            bytes.extend([3, 0, 0, 0, 4, 0, 0, 0]);
            [120, 0, 0, size, size, 1]
                .iter()
                .for_each(|word: &u64| bytes.extend(word.to_le_bytes()));
            bytes.extend(path.as_bytes());
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn processor_and_interpreter_are_those_of_the_program() {
        let loader = "/lib64/ld-linux-x86-64.so.2";
        for (machine, name) in [
            (EM_X86_64, "amd64"),
            (EM_AARCH64, "arm64"),
            (EM_RISCV, "riscv64"),
        ] {
            assert_eq!(inspect(&elf(ET_EXEC, machine, None)), Ok((name, None)));
            let found = inspect(&elf(ET_DYN, machine, Some(loader)));
            assert_eq!(found, Ok((name, Some(loader.to_owned()))));
        }
        let own = std::fs::read("/proc/self/exe").unwrap();
        inspect(&own).unwrap();
    }

    #[test]
    fn what_is_no_program_is_refused_with_the_reason() {
        let big = {
            let mut bytes = elf(ET_EXEC, EM_X86_64, None);
            bytes[5] = 2;
            bytes
        };
        for (bytes, reason) in [
            (b"\0asm\x01\0\0\0".to_vec(), "leave --form native out"),
            (b"#!/bin/sh".to_vec(), "no Linux program"),
            (Vec::new(), "no Linux program"),
            (elf(1, EM_X86_64, None), "link it"),
            (elf(ET_EXEC, 3, None), "ELF 3"),
            (big, "no Linux program"),
        ] {
            let error = inspect(&bytes).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_in_another_way(
            position in 0..160usize, byte in any::<u8>(), length in 0..160usize,
        ) {
            let mut bytes = elf(ET_EXEC, EM_X86_64, Some("/lib/ld.so"));
            if let Some(place) = bytes.get_mut(position) {
                *place = byte;
            }
            bytes.truncate(length);
            let _ = inspect(&bytes);
        }
    }
}
