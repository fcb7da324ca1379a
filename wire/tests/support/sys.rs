//! An allocator that counts: the one unsafe file of these tests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // `const`, and without a destructor: reading it allocates nothing, so the allocator may.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a count for each thread.
pub struct Counting;

// SAFETY: every call goes to `System` with the caller's own arguments, whose conditions are those of the same method
// there; the count neither allocates nor unwinds. Safe code cannot stand in: the trait itself is unsafe.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s conditions, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` by `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Allocations of this thread so far.
pub fn allocations() -> u64 {
    COUNT.get()
}
