//! An allocator that wipes what is given back, and in a guest's process counts what is there.
//!
//! Requests carry secrets: the environment of an exec, the limits and mounts of a container.
//! Every init is a copy of the shim, so what a request has left in freed memory would be in the
//! memory of the next container of the pod.
//!
//! A guest's process is the last of its kind, so that nothing has to be wiped there. But what it allocates
//! for its guest and for clients belongs to the container's memory, which has a limit.
// An allocator is made of raw memory.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Bytes that a thread allocates or frees before it tells the others.
const UNTOLD_BYTES: i64 = 32 << 10;

/// Whether what is freed is wiped.
static WIPES: AtomicBool = AtomicBool::new(true);

/// From now on nothing is wiped: this process is a guest's, and no other is made from it.
/// Wiping takes up a good part of a service's time.
pub(crate) fn stop_wiping() {
    WIPES.store(false, Ordering::Relaxed);
}

/// Bytes that were allocated since [`stop_wiping`] less those that were freed, as far as threads have
/// told.
static HEAP: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static UNTOLD: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that this process has allocated since [`stop_wiping`], but for some kilobytes for each thread.
pub(crate) fn heap_bytes() -> u64 {
    HEAP.load(Ordering::Relaxed).try_into().unwrap_or(0)
}

/// Gives memory that is free back to the system.
pub(crate) fn trim() {
    // SAFETY: the C library does this under its own locks.
    unsafe { libc::malloc_trim(0) };
}

fn count(bytes: i64) {
    UNTOLD.with(|untold| {
        let sum = untold.get() + bytes;
        if sum.abs() < UNTOLD_BYTES {
            untold.set(sum);
        } else {
            untold.set(0);
            HEAP.fetch_add(sum, Ordering::Relaxed);
        }
    });
}

/// Counts a block that was asked for, unless there was no memory for it.
fn count_new(memory: *mut u8, bytes: usize) -> *mut u8 {
    if !memory.is_null() && !WIPES.load(Ordering::Relaxed) {
        count(bytes as i64);
    }
    memory
}

/// The system's allocator, with memory set to zero before it is freed.
///
/// `realloc` moves by alloc, copy and dealloc as long as it wipes, so that the old place is wiped
/// as well.
pub(crate) struct WipingAllocator;

// SAFETY: memory comes from the system's allocator and goes back to it with the same layout.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        count_new(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        count_new(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if WIPES.load(Ordering::Relaxed) {
            // SAFETY: the block is the caller's and has this size; it is still allocated.
            unsafe { memory.write_bytes(0, layout.size()) };
            // Otherwise the compiler drops a write that nobody reads.
            std::hint::black_box(memory);
        } else {
            count(-(layout.size() as i64));
        }
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !WIPES.load(Ordering::Relaxed) {
            // SAFETY: the caller's duties are the same.
            let moved = unsafe { System.realloc(memory, layout, size) };
            if !moved.is_null() {
                count(size as i64 - layout.size() as i64);
            }
            return moved;
        }
        // SAFETY: the caller sees to it that the new size, rounded up, does not overflow. Both
        // blocks are allocated while the shorter of their lengths is copied, and the old one is
        // freed with its own layout.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(memory, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted_in_steps() {
        let told = || HEAP.load(Ordering::Relaxed);
        let before = told();
        for _ in 0..1000 {
            count(UNTOLD_BYTES / 10);
        }
        // Other tests allocate meanwhile.
        let counted = told() - before;
        assert!(
            (counted - 100 * UNTOLD_BYTES).abs() <= 4 * UNTOLD_BYTES,
            "{counted}"
        );
        for _ in 0..1000 {
            count(-UNTOLD_BYTES / 10);
        }
        assert!((told() - before).abs() <= 4 * UNTOLD_BYTES);
    }

    #[test]
    fn freed_memory_is_wiped() {
        let layout = Layout::array::<u8>(64).unwrap();
        // SAFETY: allocated and freed with one layout. The freed block is read on purpose: it is
        // still mapped, and the allocator's own marks are in its first 16 bytes.
        unsafe {
            let memory = WipingAllocator.alloc(layout);
            memory.write_bytes(0xaa, 64);
            WipingAllocator.dealloc(memory, layout);
            let left = std::slice::from_raw_parts(std::hint::black_box(memory).add(16), 48);
            assert!(left.iter().all(|byte| *byte != 0xaa), "{left:?}");
        }
    }
}
