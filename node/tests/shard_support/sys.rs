//! The fake disk and the fake network touch the arena like the kernel does: by offset.

use diskstream_ring::Arena;

/// Appends arena bytes, as a send reads them.
pub fn read_arena(arena: &Arena, offset: usize, len: usize, out: &mut Vec<u8>) {
    // SAFETY: the range is named by a send plan that is out, whose pins keep its frames unchanged; the tests run on one
    // thread, so nothing writes during the call. Safe code cannot know about pins.
    let bytes = unsafe { arena.bytes(offset, len) };
    out.extend_from_slice(bytes);
}

/// Puts bytes into the arena, as a disk read does.
pub fn write_arena(arena: &Arena, offset: usize, bytes: &[u8]) {
    // SAFETY: the range is named by a disk read that is under way, whose load ticket owns the frame; the tests run on one
    // thread, so nobody looks during the call. Safe code cannot know about tickets.
    let target = unsafe { arena.bytes_mut(offset, bytes.len()) };
    target.copy_from_slice(bytes);
}
