//! The frames' bytes. The only unsafe code of the cache: it turns the promises of [`Pin`] and [`LoadTicket`] into slices.

#[cfg(not(loom))]
mod imp {
    use std::sync::Arc;

    use diskstream_ring::Arena;

    use super::{LoadTicket, Pin};

    /// The arena, cut into frames.
    pub(in crate::cache) struct Memory {
        arena: Arc<Arena>,
        block_bytes: usize,
    }

    impl Memory {
        pub(in crate::cache) fn new(
            arena: Arc<Arena>,
            _frames: usize,
            block_bytes: usize,
        ) -> Memory {
            Memory { arena, block_bytes }
        }

        /// Whether the arena keeps some of the frame for itself.
        pub(in crate::cache) fn is_reserved(&self, frame: u32) -> bool {
            self.arena.is_reserved(frame as usize * self.block_bytes, self.block_bytes)
        }

        /// The bytes of a pinned frame.
        pub(in crate::cache) fn bytes<'a>(&'a self, pin: &'a Pin) -> &'a [u8] {
            let offset = pin.frame as usize * self.block_bytes;
            // SAFETY: the arena asks that nothing writes to the range while the slice lives. A `Pin` is made only by
            // `ShardCache`, which counts it for its shard, on a frame that is ready; such a frame is not given to a loader before
            // the count is back at zero (`Frame::evict`; `pins` says why none is overlooked), and writes need a
            // `LoadTicket`, of which there is none for a ready frame. The slice cannot outlive the borrow of the pin. Safe code will not do: the pin is counted at run time, across threads and kernel operations.
            unsafe { self.arena.bytes(offset, self.block_bytes) }
        }

        /// Asks for bytes of a frame.
        pub(in crate::cache) fn foresee(&self, frame: u32, from: usize, len: usize) {
            let offset = frame as usize * self.block_bytes + from;
            diskstream_ring::prefetch_arena(&self.arena, offset, len);
        }

        /// The bytes of a frame that is being loaded.
        pub(in crate::cache) fn bytes_mut<'a>(
            &'a self,
            ticket: &'a mut LoadTicket,
        ) -> &'a mut [u8] {
            let offset = ticket.frame as usize * self.block_bytes;
            // SAFETY: the arena asks that nothing else touches the range while the slice lives. There is one `LoadTicket`
            // for a frame in phase `Loading` (`Frame::begin` asserts the phase before), nobody reads the bytes of such a
            // frame, and the slice borrows the ticket exclusively. The disk read that fills the frame is over when its
            // owner has the ticket at hand again; `Cache::load_bytes` states that duty.
            unsafe { self.arena.bytes_mut(offset, self.block_bytes) }
        }
    }
}

#[cfg(loom)]
mod imp {
    use std::sync::Arc;

    use diskstream_ring::Arena;
    use loom::cell::UnsafeCell;

    use super::{LoadTicket, Pin};

    /// Not the arena's bytes, but as many frames whose accesses the model checker watches: an overlap of a write with any access fails the model.
    pub(in crate::cache) struct Memory {
        frames: Vec<UnsafeCell<Box<[u8]>>>,
    }

    // SAFETY: the cells are shared under the same promises as the arena's bytes (see the other `Memory`); that they hold
    // is what the model checks.
    unsafe impl Sync for Memory {}

    impl Memory {
        pub(in crate::cache) fn new(_: Arc<Arena>, frames: usize, block_bytes: usize) -> Memory {
            let frame = || UnsafeCell::new(vec![0u8; block_bytes].into_boxed_slice());
            Memory { frames: (0..frames).map(|_| frame()).collect() }
        }

        pub(in crate::cache) fn foresee(&self, _: u32, _: usize, _: usize) {}

        pub(in crate::cache) fn is_reserved(&self, _: u32) -> bool {
            false
        }

        pub(in crate::cache) fn bytes<'a>(&'a self, pin: &'a Pin) -> &'a [u8] {
            // SAFETY: a pinned frame has no writer; checked by the model at this very access.
            self.frames[pin.frame as usize].with(|bytes| unsafe { &**bytes })
        }

        pub(in crate::cache) fn bytes_mut<'a>(
            &'a self,
            ticket: &'a mut LoadTicket,
        ) -> &'a mut [u8] {
            // SAFETY: a loading frame has no other user; checked by the model at this very access.
            self.frames[ticket.frame as usize].with_mut(|bytes| unsafe { &mut **bytes })
        }
    }
}

pub(super) use imp::Memory;

use super::{LoadTicket, Pin};
