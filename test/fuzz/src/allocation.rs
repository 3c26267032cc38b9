//! Memory that a parser may take for its input.
//!
//! libFuzzer's `-malloc_limit_mb` needs a sanitizer, which stable Rust does not have, and its
//! `-rss_limit_mb` looks once a second. So the targets' allocator counts by itself.
// An allocator has no safe form.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Bytes at which the process ends.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Counting {
    fn add(bytes: usize) {
        let live = LIVE.fetch_add(bytes, Relaxed).wrapping_add(bytes);
        if live > LIMIT.load(Relaxed) {
            // The message allocates, too.
            LIMIT.store(usize::MAX, Relaxed);
            eprintln!("an allocation of {bytes} bytes is above the bound for this input");
            std::process::abort();
        }
    }
}

// SAFETY: everything is passed on to the system's allocator; the numbers beside it are atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: the caller's promise is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while the contents are copied.
        Self::add(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What any input may take: buffers, and the text of an error.
const BASE: usize = 64 << 10;

/// Does `work` on an input of `length` bytes. The process ends, which is a finding, if it has ever
/// more than `factor` times that and 64 KiB on the heap.
pub fn bounded<T>(length: usize, factor: usize, work: impl FnOnce() -> T) -> T {
    let limit = LIVE.load(Relaxed) + BASE + length * factor;
    LIMIT.store(limit, Relaxed);
    let result = work();
    LIMIT.store(usize::MAX, Relaxed);
    result
}
