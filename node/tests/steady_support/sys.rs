//! An allocator that counts what every thread does but those that said that they do not count: the one unsafe file of this test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // `const`, and without a destructor: reading it allocates nothing, so the allocator may.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator with one count.
pub struct Counting;

// SAFETY: every call goes to `System` with the caller's own arguments, whose conditions are those of the same method
// there; the count neither allocates nor unwinds. Safe code cannot stand in: the trait itself is unsafe.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !APART.get() {
            COUNT.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s conditions, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` by `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What the calling thread allocates from now on does not count.
pub fn stand_apart() {
    APART.set(true);
}

/// Allocations of all threads but those that stand apart.
pub fn allocations() -> u64 {
    COUNT.load(Relaxed)
}
