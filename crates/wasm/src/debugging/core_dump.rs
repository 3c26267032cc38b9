//! The memory, globals and stack of a guest at its first trap.
//!
//! Format: <https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md>.

use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use wasm_encoder::{CustomSection, Section};
use wasmtime::{Store, WasmCoreDump};

use super::TRAP_SECTION;
use crate::ending::complain;
use crate::state::State;

/// Wasmtime leaves out what is zero by pages of this size, in bytes.
const PAGE: usize = 4096;
/// How often a byte of the guest's memory is in the process's while a dump is made: the guest's
/// own, in Wasmtime's section of data, and in the finished dump.
const COPIES: u64 = 3;

/// A file for the first trap of a process.
pub(super) struct CoreDump {
    /// Its path on the host, to be told.
    path: PathBuf,
    file: Mutex<Option<File>>,
    /// Most bytes of memory that are dumped.
    most: u64,
}

impl CoreDump {
    pub(super) fn new(path: PathBuf, file: File, most: u64) -> Self {
        Self {
            path,
            file: Mutex::new(Some(file)),
            most,
        }
    }

    /// Writes the dump that came with `error`, if it is the first, and says so on stderr. `text` is what
    /// is said of the trap.
    pub(super) fn write(
        &self,
        name: &str,
        store: &mut Store<State>,
        error: &wasmtime::Error,
        text: &str,
    ) {
        let Some(dump) = error.downcast_ref::<WasmCoreDump>() else {
            return;
        };
        let file = self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut file) = file else {
            return;
        };
        // Whatever is wrong with the dump must not change how the container ends.
        let written = catch_unwind(AssertUnwindSafe(|| {
            let bytes = self.serialize(dump, name, store, text)?;
            if let Err(error) = file.write_all(&bytes) {
                let _ = file.set_len(0);
                return Err(format!("{}: {error}", self.path.display()));
            }
            Ok(bytes.len())
        }));
        complain(&match written {
            Ok(Ok(length)) => format!(
                "wrote a core dump of {} KiB on the node: {}",
                length.div_ceil(1024),
                self.path.display()
            ),
            Ok(Err(fault)) => format!("no core dump could be written: {fault}"),
            Err(_) => {
                "no core dump could be written: Wasmtime cannot make one of this program".to_owned()
            }
        });
    }

    fn serialize(
        &self,
        dump: &WasmCoreDump,
        name: &str,
        store: &mut Store<State>,
        text: &str,
    ) -> Result<Vec<u8>, String> {
        let memory = in_use(dump, store);
        if memory > self.most {
            return Err(format!(
                "it would have {} MiB, and the node's owner allows {} (option `debug-bytes`)",
                memory >> 20,
                self.most >> 20
            ));
        }
        let room = store.data().budget.beside_others();
        let needed = memory.saturating_mul(COPIES);
        if room.is_some_and(|room| needed > room) {
            return Err(format!(
                "that takes {} MiB of memory, and the container's limit leaves {}: raise it for as long as you look for the fault",
                needed.div_ceil(1 << 20),
                room.unwrap_or(0) >> 20
            ));
        }
        let mut bytes = dump.serialize(store, name);
        CustomSection {
            name: TRAP_SECTION.into(),
            data: text.as_bytes().into(),
        }
        .append_to(&mut bytes);
        Ok(bytes)
    }
}

/// Bytes of the guest's memories in pages that are not all zero.
fn in_use(dump: &WasmCoreDump, store: &Store<State>) -> u64 {
    let pages = dump
        .memories()
        .iter()
        .flat_map(|memory| memory.data(store).chunks(PAGE));
    pages
        .filter(|page| page.iter().any(|byte| *byte != 0))
        .map(|page| page.len() as u64)
        .sum()
}
