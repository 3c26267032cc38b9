//! An allocator that wipes what is given back.
//!
//! Requests carry secrets: the environment of an exec, the limits and mounts of a container.
//! Every init is a copy of the shim, so what a request has left in freed memory would be in the
//! memory of the next container of the pod.
// An allocator is made of raw memory.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with memory set to zero before it is freed.
///
/// `realloc` is not forwarded: the default moves by alloc, copy and dealloc, so that the old
/// place is wiped as well.
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
        // SAFETY: the block is the caller's and has this size; it is still allocated.
        unsafe { memory.write_bytes(0, layout.size()) };
        // Otherwise the compiler drops a write that nobody reads.
        std::hint::black_box(memory);
        // SAFETY: the caller's duties are the same.
        unsafe { System.dealloc(memory, layout) }
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
