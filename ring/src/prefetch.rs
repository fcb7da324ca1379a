//! Asking for memory before it is needed.

use crate::arena::Arena;

/// Bytes of a cache line. Where lines are longer, some are asked for twice.
const LINE_BYTES: usize = 64;

/// Tells the processor that `value` will be read soon. Changes nothing but the time that the read takes; where the
/// architecture has no stable way to say so, it does nothing.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault, whatever the address; this one is even a live reference. SSE is
        // part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for `len` bytes of the arena from `offset` on: the kernel copies them soon.
///
/// # Panics
/// When the range is not inside the arena.
#[inline]
pub fn prefetch_arena(arena: &Arena, offset: usize, len: usize) {
    let first = arena.address(offset, len);
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault, whatever the address; this one lies in the arena (checked). SSE is
        // part of every x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, LINE_BYTES);
}
