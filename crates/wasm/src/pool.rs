//! Where the instances of a service get their memory from: slots that are mapped once.
//!
//! A slot costs addresses until an instance writes to it, so that a new instance for each
//! request costs no system call but one that throws the old pages away.

use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Most memories and tables of one component, and core instances in it. Components that
/// componentize-py and jco make have one memory and less than 60 instances.
const MEMORIES: u32 = 4;
const TABLES: u32 = 16;
const CORE_INSTANCES: u32 = 256;

/// Bytes of a memory that stay with a slot between two instances; giving them back to the
/// system and taking them again would cost more than clearing them.
const KEPT_RESIDENT: usize = 128 << 10;

/// A pool for at most `instances` component instances at a time.
pub(crate) fn pool(instances: u32) -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::default();
    // `instances` at work, and those whose stores are being dropped meanwhile.
    let instances = instances.saturating_add(instances / 4 + 4);
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(64))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(4))
        .total_stacks(instances)
        .total_gc_heaps(instances)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .table_elements(100_000)
        .linear_memory_keep_resident(KEPT_RESIDENT)
        .table_keep_resident(16 << 10)
        .pagemap_scan(Enabled::No);
    InstanceAllocationStrategy::Pooling(pool)
}
