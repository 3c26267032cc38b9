//! `wasi:keyvalue`: one store in memory, shared by all instances of a container and gone with it.
//!
//! The crate `wasmtime-wasi-keyvalue` gives each opened bucket a map of its own, so that no
//! request of a service would see what an earlier one has set.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

use self::bindings::wasi::keyvalue::{atomics, batch, store};
use crate::budget::MemoryBudget;
use crate::state::State;

mod bindings {
    // As published in the draft of wasi:keyvalue 0.2.0, without its comments.
    wasmtime::component::bindgen!({
        inline: "
            package wasi:keyvalue@0.2.0-draft;

            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<u64> }
                open: func(identifier: string) -> result<bucket, error>;
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                }
            }

            interface atomics {
                use store.{bucket, error};
                increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
            }

            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>)
                    -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }

            world imports {
                import store;
                import atomics;
                import batch;
            }
        ",
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::StoreError },
    });
}

/// Bytes that all entries take up together.
const CAPACITY: usize = 16 << 20;
/// Bytes that an entry takes up beside its key and value: their places in a node of the tree, of which
/// half may be empty, and what the allocator adds to two small blocks.
const ENTRY: usize = 176;
/// Keys of one answer to `list-keys`.
const PAGE: usize = 1000;

/// The name of the one store: the draft leaves names to the host, and its examples open both.
const NAMES: [&str; 2] = ["", "default"];

/// The store of a container.
#[derive(Clone)]
pub(crate) struct KeyValue(Arc<Mutex<Entries>>);

impl KeyValue {
    /// An empty store, whose entries are a part of `budget`.
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self(Arc::new(Mutex::new(Entries::new(budget))))
    }
}

struct Entries {
    map: BTreeMap<String, Vec<u8>>,
    /// What they take up.
    bytes: usize,
    budget: Arc<MemoryBudget>,
}

/// Bytes that an entry takes up.
fn size(key: &str, value: &[u8]) -> usize {
    ENTRY + key.len() + value.len()
}

impl Entries {
    fn new(budget: Arc<MemoryBudget>) -> Self {
        Self {
            map: BTreeMap::new(),
            bytes: 0,
            budget,
        }
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), StoreError> {
        let new = size(&key, &value);
        let old = self.map.get(&key).map_or(0, |old| size(&key, old));
        if self.bytes - old + new > CAPACITY {
            return Err(StoreError::Other(format!(
                "the store in memory is full: it holds {CAPACITY} bytes, with {ENTRY} for each entry"
            )));
        }
        if new > old && !self.budget.keep((new - old) as u64) {
            return Err(StoreError::Other(
                "the store in memory is full: the container's memory limit leaves no room for it"
                    .to_owned(),
            ));
        }
        self.budget.give_up(old.saturating_sub(new) as u64);
        self.bytes = self.bytes - old + new;
        self.map.insert(key, value);
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        if let Some(old) = self.map.remove(key) {
            let size = size(key, &old);
            self.bytes -= size;
            self.budget.give_up(size as u64);
        }
    }

    fn increment(&mut self, key: String, delta: u64) -> Result<u64, StoreError> {
        let current = match self.map.get(&key) {
            None => 0,
            Some(value) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(|| StoreError::Other(format!("the value of {key:?} is no number")))?,
        };
        let sum = current
            .checked_add(delta)
            .ok_or_else(|| StoreError::Other(format!("the value of {key:?} is too large")))?;
        self.set(key, sum.to_string().into_bytes())?;
        Ok(sum)
    }
}

/// A handle of the guest. There is one store, so it holds nothing.
pub struct Bucket;

/// What the guest is told.
#[derive(Debug)]
pub enum StoreError {
    /// There is no store of that name.
    NoSuchStore,
    /// Another failure, in words.
    Other(String),
}

impl From<ResourceTableError> for StoreError {
    fn from(error: ResourceTableError) -> Self {
        Self::Other(error.to_string())
    }
}

struct View<'a> {
    entries: MutexGuard<'a, Entries>,
    table: &'a mut ResourceTable,
}

struct HasView;

impl HasData for HasView {
    type Data<'a> = View<'a>;
}

/// Offers the store to components.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    fn view(state: &mut State) -> View<'_> {
        let (key_value, table) = state.key_value_and_table();
        View {
            entries: key_value.0.lock().unwrap_or_else(PoisonError::into_inner),
            table,
        }
    }
    store::add_to_linker::<_, HasView>(linker, view)?;
    atomics::add_to_linker::<_, HasView>(linker, view)?;
    batch::add_to_linker::<_, HasView>(linker, view)
}

impl store::Host for View<'_> {
    fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, StoreError> {
        if !NAMES.contains(&identifier.as_str()) {
            return Err(StoreError::NoSuchStore);
        }
        Ok(self.table.push(Bucket)?)
    }

    fn convert_error(&mut self, error: StoreError) -> wasmtime::Result<store::Error> {
        Ok(match error {
            StoreError::NoSuchStore => store::Error::NoSuchStore,
            StoreError::Other(text) => store::Error::Other(text),
        })
    }
}

impl store::HostBucket for View<'_> {
    fn get(&mut self, _: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.entries.map.get(&key).cloned())
    }

    fn set(&mut self, _: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), StoreError> {
        self.entries.set(key, value)
    }

    fn delete(&mut self, _: Resource<Bucket>, key: String) -> Result<(), StoreError> {
        self.entries.delete(&key);
        Ok(())
    }

    fn exists(&mut self, _: Resource<Bucket>, key: String) -> Result<bool, StoreError> {
        Ok(self.entries.map.contains_key(&key))
    }

    fn list_keys(
        &mut self,
        _: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<store::KeyResponse, StoreError> {
        let start = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let keys: Vec<String> = self
            .entries
            .map
            .keys()
            .skip(start)
            .take(PAGE)
            .cloned()
            .collect();
        let next = start.saturating_add(keys.len());
        Ok(store::KeyResponse {
            cursor: (next < self.entries.map.len()).then_some(next as u64),
            keys,
        })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    fn increment(
        &mut self,
        _: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Result<u64, StoreError> {
        self.entries.increment(key, delta)
    }
}

impl batch::Host for View<'_> {
    fn get_many(
        &mut self,
        _: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, StoreError> {
        let found = keys.into_iter().map(|key| {
            let value = self.entries.map.get(&key).cloned();
            value.map(|value| (key, value))
        });
        Ok(found.collect())
    }

    fn set_many(
        &mut self,
        _: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        pairs
            .into_iter()
            .try_for_each(|(key, value)| self.entries.set(key, value))
    }

    fn delete_many(&mut self, _: Resource<Bucket>, keys: Vec<String>) -> Result<(), StoreError> {
        keys.iter().for_each(|key| self.entries.delete(key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::{Heap, MemoryLimit};

    fn entries(limit: Option<u64>) -> Entries {
        let limit = limit.map(|bytes| Arc::new(move || Some(bytes)) as MemoryLimit);
        let budget = MemoryBudget::new(limit, Heap::default(), None, Default::default());
        Entries::new(budget)
    }

    #[test]
    fn the_store_is_bounded_and_counts_what_it_holds() {
        let mut entries = entries(None);
        entries
            .set("a".into(), vec![0; CAPACITY - ENTRY - 1])
            .unwrap();
        assert!(entries.set("b".into(), vec![]).is_err());
        entries.set("a".into(), vec![0; 10]).unwrap();
        entries.set("b".into(), vec![0; 10]).unwrap();
        assert_eq!(entries.bytes, 2 * ENTRY + 22);
        entries.delete("a");
        entries.delete("a");
        assert_eq!(entries.bytes, ENTRY + 11);
    }

    /// A few bytes of an entry took up more than a hundred.
    #[test]
    fn small_entries_count_as_what_they_take_up() {
        let mut entries = entries(None);
        let stored = (0..)
            .take_while(|number: &u32| entries.set(format!("{number:06}"), vec![]).is_ok())
            .count();
        assert_eq!(stored, CAPACITY / (ENTRY + 6));
    }

    #[test]
    fn the_containers_memory_limit_holds_for_the_store() {
        // 6 MiB of it are usable.
        let mut entries = entries(Some(8 << 20));
        entries.set("a".into(), vec![0; 4 << 20]).unwrap();
        let Err(StoreError::Other(text)) = entries.set("b".into(), vec![0; 7 << 20]) else {
            panic!("it was stored");
        };
        assert!(text.contains("memory limit"), "{text}");
    }

    #[test]
    fn counters_count_from_nothing() {
        let mut entries = entries(None);
        assert_eq!(entries.increment("n".into(), 3).unwrap(), 3);
        assert_eq!(entries.increment("n".into(), 4).unwrap(), 7);
        entries.set("text".into(), b"x".to_vec()).unwrap();
        assert!(entries.increment("text".into(), 1).is_err());
        assert!(entries.increment("n".into(), u64::MAX).is_err());
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_there(
            calls in proptest::collection::vec(("[a-c]{0,2}", proptest::option::of(0..100usize)), 0..64),
        ) {
            let mut entries = entries(Some(64 << 20));
            for (key, value) in calls {
                match value {
                    Some(length) => entries.set(key, vec![0; length]).unwrap(),
                    None => entries.delete(&key),
                }
                let there: usize = entries.map.iter().map(|(key, value)| size(key, value)).sum();
                prop_assert_eq!(entries.bytes, there);
                prop_assert_eq!(entries.budget.kept(), there as u64);
            }
        }
    }
}
