//! An allocator that wipes what is given back.
//!
//! Requests carry secrets: the environment of an exec, the limits and mounts of a container.
//! Every init is a copy of the shim, so what a request has left in freed memory would be in the
//! memory of the next container of the pod.
// An allocator is made of raw memory.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether what is freed is wiped.
static WIPES: AtomicBool = AtomicBool::new(true);

/// From now on nothing is wiped: this process is a guest's, and no other is made from it.
/// Wiping takes up a good part of a service's time.
pub(crate) fn stop_wiping() {
    WIPES.store(false, Ordering::Relaxed);
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
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if WIPES.load(Ordering::Relaxed) {
            // SAFETY: the block is the caller's and has this size; it is still allocated.
            unsafe { memory.write_bytes(0, layout.size()) };
            // Otherwise the compiler drops a write that nobody reads.
            std::hint::black_box(memory);
        }
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !WIPES.load(Ordering::Relaxed) {
            // SAFETY: the caller's duties are the same.
            return unsafe { System.realloc(memory, layout, size) };
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
