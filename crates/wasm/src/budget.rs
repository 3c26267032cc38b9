//! The memory that all guests of a process may have together, with what the process keeps for them
//! and for their clients.
//!
//! A container that grows over its cgroup's limit is killed, with all requests in it. So growth
//! ends a little below: `memory.grow` fails, which a program can handle, and a new instance
//! of a service waits. Wasmtime's own limits count each memory alone.
//!
//! The process's own heap counts as a whole, as it is: buffers of connections, headers, bodies on their way,
//! `wasi:keyvalue`. So nothing of it has to be reserved before it is there, and nothing can be forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lighter_core::Counters;
use tokio::sync::Notify;
use wasmtime::{PoolingAllocatorMetrics, ResourceLimiter};

/// Tells the memory limit of the container's cgroup in bytes, as it is now.
pub type MemoryLimit = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Growths for which a limit that was found is taken for the present one. A limit that was raised is
/// found at the first growth that meets the old one.
const ASK_AGAIN: u32 = 64;

/// Bytes of a table's element, rounded up.
const ELEMENT: u64 = 16;

/// Bytes of the process's heap that are not the guests': the part that [`usable`] leaves has room for them.
const OWN_HEAP: u64 = 2 << 20;

/// The part of the usable memory that clients' connections may take up.
const CONNECTIONS_SHARE: u64 = 4;

/// What this process allocates itself, beside the memories of its guests.
#[derive(Clone, Copy, Debug)]
pub struct Heap {
    /// Tells the bytes that are allocated.
    pub bytes: fn() -> u64,
    /// Gives memory that was freed back to the system.
    pub trim: fn(),
}

impl Default for Heap {
    /// A heap of which nothing is known.
    fn default() -> Self {
        Self {
            bytes: || 0,
            trim: || (),
        }
    }
}

/// The part of a limit that guests may use. The rest is for the process itself: a start takes
/// up 2 MB, and each instance has a stack and the host's records of it.
fn usable(limit: u64) -> u64 {
    limit - (limit / 4).min((4 << 20) + limit / 32)
}

/// What the guests of a process have taken, and how much they may.
pub(crate) struct MemoryBudget {
    limit: Option<MemoryLimit>,
    heap: Heap,
    /// Bytes of the heap that the store of `wasi:keyvalue` has.
    key_value: AtomicU64,
    /// Tells what slots keep that no instance is in.
    idle: Option<PoolingAllocatorMetrics>,
    /// What [`MemoryBudget::usable`] last found.
    known: AtomicU64,
    /// Growths until it is asked again: asking is a system call, and an instance grows some
    /// times at its start.
    until_asked: AtomicU32,
    used: AtomicU64,
    counters: &'static Counters,
    /// Told whenever something is given back.
    freed: Notify,
}

impl MemoryBudget {
    /// A budget below `limit`, for guests that get their memory from the pool of `idle` and
    /// count it in `counters`.
    pub(crate) fn new(
        limit: Option<MemoryLimit>,
        heap: Heap,
        idle: Option<PoolingAllocatorMetrics>,
        counters: &'static Counters,
    ) -> Arc<Self> {
        Arc::new(Self {
            limit,
            heap,
            key_value: AtomicU64::new(0),
            idle,
            known: AtomicU64::new(0),
            until_asked: AtomicU32::new(0),
            used: AtomicU64::new(0),
            counters,
            freed: Notify::new(),
        })
    }

    /// The bytes that guests may have now; `None` for no limit.
    pub(crate) fn usable(&self) -> Option<u64> {
        self.limit.as_ref().and_then(|limit| limit()).map(usable)
    }

    /// Waits until something is given back after this call.
    pub(crate) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Whether nobody has anything.
    pub(crate) fn is_unused(&self) -> bool {
        self.used.load(Ordering::Relaxed) == 0
    }

    /// Bytes that idle slots keep. The only instance gets one of them, and counts whole.
    fn idle(&self) -> u64 {
        if self.is_unused() {
            return 0;
        }
        self.idle.as_ref().map_or(0, |idle| {
            (idle.unused_memory_bytes_resident() + idle.unused_table_bytes_resident()) as u64
        })
    }

    /// Bytes of the heap that guests and clients have caused.
    fn heap(&self) -> u64 {
        (self.heap.bytes)().saturating_sub(OWN_HEAP)
    }

    /// Whether connections have to give something up: they have more than their share, or there is not
    /// enough left for what is there already.
    pub(crate) fn is_short_for_connections(&self) -> bool {
        if self.limit.is_none() {
            return false;
        }
        let usable = self.known_usable();
        let heap = self.heap();
        let of_connections = heap.saturating_sub(self.key_value.load(Ordering::Relaxed));
        let taken = heap + self.used.load(Ordering::Relaxed);
        // Idle slots keep a quarter at most, and to ask for them takes locks: this is asked at each read.
        of_connections > usable / CONNECTIONS_SHARE
            || (taken > usable / 2 && taken + self.idle() > usable)
    }

    /// Bytes that connections may take up together.
    pub(crate) fn share_of_connections(&self) -> u64 {
        self.known_usable() / CONNECTIONS_SHARE
    }

    fn known_usable(&self) -> u64 {
        match self.known.load(Ordering::Relaxed) {
            // No guest has grown yet.
            0 => self.ask(),
            known => known,
        }
    }

    /// Gives memory that was freed back to the system: to the kernel it is the process's until then.
    pub(crate) fn trim(&self) {
        (self.heap.trim)();
    }

    /// Takes `bytes` for the store of `wasi:keyvalue`, if there is room for them.
    pub(crate) fn keep(&self, bytes: u64) -> bool {
        let taken = self.used.load(Ordering::Relaxed) + self.idle() + self.heap();
        let has_room = self.limit.is_none() || taken.saturating_add(bytes) <= self.ask();
        if has_room {
            self.key_value.fetch_add(bytes, Ordering::Relaxed);
        }
        has_room
    }

    /// Gives back what [`MemoryBudget::keep`] took.
    pub(crate) fn give_up(&self, bytes: u64) {
        if bytes > 0 {
            self.key_value.fetch_sub(bytes, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Bytes that the store of `wasi:keyvalue` has.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> u64 {
        self.key_value.load(Ordering::Relaxed)
    }

    /// What is usable now. From here on it is known.
    fn ask(&self) -> u64 {
        let usable = self.usable().unwrap_or(u64::MAX);
        self.known.store(usable, Ordering::Relaxed);
        self.until_asked.store(ASK_AGAIN, Ordering::Relaxed);
        usable
    }

    fn take(&self, bytes: u64) -> bool {
        if self.limit.is_none() {
            return self.take_below(bytes, u64::MAX);
        }
        let taken = self.idle() + self.heap();
        let soon = |growths: u32| growths.checked_sub(1);
        let is_known = self
            .until_asked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, soon)
            .is_ok();
        let before = self.known.load(Ordering::Relaxed).saturating_sub(taken);
        if is_known && self.take_below(bytes, before) {
            return true;
        }
        self.take_below(bytes, self.ask().saturating_sub(taken))
    }

    fn take_below(&self, bytes: u64, usable: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= usable)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }
}

/// The part of the budget that one store has; given back when the store goes.
pub(crate) struct StoreBudget {
    budget: Arc<MemoryBudget>,
    held: u64,
    /// The part of it that is linear memory.
    linear: u64,
    /// What was taken last; given back when the system then had no memory after all.
    last: u64,
    refused: bool,
}

impl StoreBudget {
    pub(crate) fn of(budget: &Arc<MemoryBudget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            held: 0,
            linear: 0,
            last: 0,
            refused: false,
        }
    }

    /// Whether the budget has refused this store anything.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }

    /// Bytes that the container's limit leaves beside what other stores have; `None` for no limit.
    pub(crate) fn beside_others(&self) -> Option<u64> {
        let others = self.budget.used.load(Ordering::Relaxed) - self.held;
        let usable = self.budget.usable()?;
        Some(usable.saturating_sub(others + self.budget.idle() + self.budget.heap()))
    }

    fn grow(&mut self, bytes: u64) -> bool {
        if !self.budget.take(bytes) {
            self.refused = true;
            return false;
        }
        self.held += bytes;
        self.last = bytes;
        true
    }

    /// Answers what is given back.
    fn growth_failed(&mut self) -> u64 {
        let last = std::mem::take(&mut self.last);
        self.held -= last;
        self.budget.give_back(last);
        last
    }
}

impl Drop for StoreBudget {
    fn drop(&mut self) {
        self.budget.counters.memory_given_back(self.linear);
        self.budget.give_back(self.held);
    }
}

impl ResourceLimiter for StoreBudget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = desired.saturating_sub(current) as u64;
        let granted = self.grow(bytes);
        if granted {
            self.linear += bytes;
            self.budget.counters.memory_taken(bytes);
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let bytes = self.growth_failed();
        self.linear -= bytes;
        self.budget.counters.memory_given_back(bytes);
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64 * ELEMENT))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.growth_failed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limited(bytes: u64) -> Arc<MemoryBudget> {
        MemoryBudget::new(
            Some(Arc::new(move || Some(bytes))),
            Heap::default(),
            None,
            Default::default(),
        )
    }

    #[test]
    fn a_part_of_every_limit_is_usable() {
        assert_eq!(usable(32 << 20), 27 << 20);
        assert_eq!(usable(4 << 20), 3 << 20);
        assert_eq!(usable(0), 0);
        assert!(usable(8 << 30) > 7 << 30);
    }

    #[test]
    fn the_limit_is_asked_at_each_growth() {
        let limit = Arc::new(AtomicU64::new(100 << 20));
        let shared = Arc::clone(&limit);
        let ask: MemoryLimit = Arc::new(move || Some(shared.load(Ordering::Relaxed)));
        let budget = MemoryBudget::new(Some(ask), Heap::default(), None, Default::default());
        let mut store = StoreBudget::of(&budget);
        assert!(store.memory_growing(0, 80 << 20, None).unwrap());
        assert!(!store.memory_growing(80 << 20, 200 << 20, None).unwrap());
        limit.store(300 << 20, Ordering::Relaxed);
        assert!(store.memory_growing(80 << 20, 200 << 20, None).unwrap());
    }

    #[test]
    fn without_a_limit_everything_is_granted() {
        let heap = Heap {
            bytes: || 1 << 40,
            ..Heap::default()
        };
        let budget = MemoryBudget::new(None, heap, None, Default::default());
        let mut store = StoreBudget::of(&budget);
        assert!(store.memory_growing(0, 1 << 40, None).unwrap());
        assert!(!store.was_refused());
        assert!(!budget.is_short_for_connections());
        assert!(budget.keep(1 << 40));
    }

    #[test]
    fn the_heap_of_the_process_is_a_part_of_what_guests_have() {
        let with_heap = |bytes: fn() -> u64| {
            let heap = Heap {
                bytes,
                ..Heap::default()
            };
            // 60 MiB of it are usable, and 15 of these for connections.
            let limit: MemoryLimit = Arc::new(|| Some(66 << 20));
            MemoryBudget::new(Some(limit), heap, None, Default::default())
        };
        let grows = |budget: &Arc<MemoryBudget>, mebibytes: usize| {
            let mut store = StoreBudget::of(budget);
            store.memory_growing(0, mebibytes << 20, None).unwrap()
        };
        // What a start takes up is not the guests'.
        let started = with_heap(|| OWN_HEAP);
        assert!(grows(&started, 59));
        assert!(!started.is_short_for_connections());
        let half = with_heap(|| OWN_HEAP + (30 << 20));
        assert!(grows(&half, 29));
        assert!(!grows(&half, 31));
        assert!(half.is_short_for_connections());
        // What the store of `wasi:keyvalue` has is not the connections'.
        assert!(half.keep(20 << 20));
        assert!(!half.is_short_for_connections());
        half.give_up(20 << 20);
        assert!(half.is_short_for_connections());
        assert!(!half.keep(31 << 20));
        let full = with_heap(|| OWN_HEAP + (10 << 20));
        let mut store = StoreBudget::of(&full);
        assert!(store.memory_growing(0, 49 << 20, None).unwrap());
        assert!(!full.is_short_for_connections());
        assert!(!full.keep(2 << 20));
    }

    proptest! {
        #[test]
        fn all_stores_together_stay_below_and_give_everything_back(
            growths in proptest::collection::vec((0..4usize, 0..64usize, any::<bool>()), 0..64),
        ) {
            let budget = limited(64 << 20);
            let mut stores: Vec<StoreBudget> = (0..4).map(|_| StoreBudget::of(&budget)).collect();
            for (which, mebibytes, fails) in growths {
                let granted = stores[which].memory_growing(0, mebibytes << 20, None).unwrap();
                if granted && fails {
                    stores[which].memory_grow_failed(wasmtime::Error::msg("x")).unwrap();
                }
                let held: u64 = stores.iter().map(|store| store.held).sum();
                prop_assert_eq!(held, budget.used.load(Ordering::Relaxed));
                prop_assert!(held <= usable(64 << 20));
            }
            drop(stores);
            prop_assert!(budget.is_unused());
        }
    }
}
