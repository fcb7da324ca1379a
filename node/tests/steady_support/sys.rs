//! An allocator that counts what every thread does: the one unsafe file of this test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Threads that are told apart; what further ones allocate counts with the last.
const THREADS: usize = 64;

/// A thread by the kernel's number, and its allocations.
static COUNTS: [(AtomicU32, AtomicU64); THREADS] =
    [const { (AtomicU32::new(0), AtomicU64::new(0)) }; THREADS];
static TAKEN: AtomicU32 = AtomicU32::new(0);

thread_local! {
    // `const`, and without a destructor: reading it allocates nothing, so the allocator may.
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The system's allocator with a count for each thread.
pub struct Counting;

// SAFETY: every call goes to `System` with the caller's own arguments, whose conditions are those of the same method
// there; the count neither allocates nor unwinds. Safe code cannot stand in: the trait itself is unsafe.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNTS[SLOT.get().unwrap_or_else(slot)].1.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s conditions, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` by `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The calling thread's place, at its first allocation.
fn slot() -> usize {
    let slot = (TAKEN.fetch_add(1, Relaxed) as usize).min(THREADS - 1);
    // SAFETY: it takes nothing and always succeeds. The standard library does not tell a thread's number.
    let thread = unsafe { libc::gettid() };
    COUNTS[slot].0.store(u32::try_from(thread).unwrap_or(0), Relaxed);
    SLOT.set(Some(slot));
    slot
}

/// Allocations of the thread with this number in `/proc/self/task`.
pub fn allocations_of(thread: u32) -> u64 {
    let counts = COUNTS.iter().filter(|(of, _)| of.load(Relaxed) == thread);
    counts.map(|(_, count)| count.load(Relaxed)).sum()
}
