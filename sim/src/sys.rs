//! Arena bytes for the simulated disk and the simulated card.

use diskstream_ring::Arena;

/// Appends arena bytes to `out`, as a card reads what it sends.
pub fn copy_from(arena: &Arena, offset: usize, len: usize, out: &mut Vec<u8>) {
    // SAFETY: the simulator runs in one thread, and nobody holds a reference into the arena while this copies. A real
    // card reads such bytes at any time until its completion; that they do not change is what the judge of pins checks.
    let bytes = unsafe { arena.bytes(offset, len) };
    out.extend_from_slice(bytes);
}

/// Writes arena bytes, as a disk does while a read is in flight.
pub fn copy_to(arena: &Arena, offset: usize, bytes: &[u8]) {
    // SAFETY: one thread, as above; the range is the frame that the machine lent to this read until its completion.
    let frame = unsafe { arena.bytes_mut(offset, bytes.len()) };
    frame.copy_from_slice(bytes);
}
