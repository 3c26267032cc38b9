//! Where the instances of a service get their memory from: slots that are mapped once.
//!
//! A slot costs addresses until an instance writes to it. Between two instances the pages that
//! were written to are cleared, or filled anew from the compiled code, and stay: so that a new
//! instance for each request takes no page from the system and gives none back.

use std::io;
use std::os::fd::RawFd;

use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::page_map::PageMap;

/// Most memories and tables of one component, and core instances in it. Components that
/// componentize-py and jco make have one memory and less than 60 instances.
const MEMORIES: u32 = 4;
const TABLES: u32 = 16;
const CORE_INSTANCES: u32 = 256;

/// Bytes that all idle slots may keep together, if all of them were in use at a time once.
const KEPT: u64 = 512 << 20;
/// The part of a limited container's memory that they may.
const SHARE_KEPT: u64 = 4;
/// Bytes that one idle slot may keep. A page costs far more when it is taken from the system
/// again than when it is cleared.
const LEAST_KEPT: u64 = 64 << 10;
const MOST_KEPT: u64 = 4 << 20;
/// The same of a table: enough for the 6,000 functions of an interpreter.
const TABLE_KEPT: usize = 64 << 10;
/// Without a page map all that a slot keeps is cleared, whether it was written to or not.
const KEPT_WITHOUT_PAGE_MAP: u64 = 128 << 10;

/// The memory of a service's instances.
pub(crate) struct Pool {
    slots: u32,
    kept: u64,
    /// The descriptor of Wasmtime's page map.
    page_map: Option<RawFd>,
}

impl Pool {
    /// A pool for at most `instances` component instances at a time, in a container that may
    /// use `memory` bytes.
    pub(crate) fn new(instances: u32, memory: Option<u64>) -> Self {
        // `instances` at work, and those whose stores are being dropped meanwhile.
        let slots = instances.saturating_add(instances / 4 + 4);
        let page_map = PageMap::find();
        Self {
            slots,
            kept: kept(slots, memory, page_map.is_some()),
            page_map,
        }
    }

    /// What Wasmtime is to do.
    pub(crate) fn strategy(&self) -> InstanceAllocationStrategy {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(self.slots)
            .total_core_instances(self.slots.saturating_mul(64))
            .total_memories(self.slots)
            .total_tables(self.slots.saturating_mul(4))
            .total_stacks(self.slots)
            .total_gc_heaps(self.slots)
            .max_core_instances_per_component(CORE_INSTANCES)
            .max_memories_per_component(MEMORIES)
            .max_tables_per_component(TABLES)
            .max_component_instance_size(4 << 20)
            .max_core_instance_size(4 << 20)
            .table_elements(100_000)
            .linear_memory_keep_resident(self.kept as usize)
            .table_keep_resident(TABLE_KEPT)
            .pagemap_scan(match self.page_map {
                Some(_) => Enabled::Yes,
                None => Enabled::No,
            });
        InstanceAllocationStrategy::Pooling(pool)
    }

    /// What has to be brought along into the container's process, and the bytes that an idle
    /// slot may keep.
    ///
    /// # Errors
    /// Nothing may run then: Wasmtime would clean slots by the map of another process.
    pub(crate) fn into_page_map(self) -> io::Result<Option<(PageMap, usize)>> {
        let kept = self.kept as usize;
        let page_map = self.page_map.map(PageMap::replace).transpose()?;
        Ok(page_map.map(|page_map| (page_map, kept)))
    }
}

/// Bytes that an idle slot keeps.
fn kept(slots: u32, memory: Option<u64>, page_map: bool) -> u64 {
    let together = memory.map_or(KEPT, |memory| KEPT.min(memory / SHARE_KEPT));
    let most = if page_map {
        MOST_KEPT
    } else {
        KEPT_WITHOUT_PAGE_MAP
    };
    (together / u64::from(slots.max(1))).clamp(LEAST_KEPT, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_slots_keep_a_bounded_part_of_the_memory() {
        assert_eq!(kept(256, None, true), 2 << 20);
        assert_eq!(kept(128, None, false), 128 << 10);
        assert_eq!(kept(4, None, true), 4 << 20);
        assert_eq!(kept(128, Some(128 << 20), true), 256 << 10);
        assert_eq!(kept(u32::MAX, Some(0), true), 64 << 10);
    }
}
