//! The end of a ring: submit what is queued, cancel everything, wait for it, and leak what does not end.
//!
//! A disk read on its way to a stuck device cannot be cancelled, and the kernel will write into its frame whenever the
//! device answers. Freeing that memory would let it write into whatever came to lie there. So what has not completed
//! within the bound stays allocated for the rest of the process, with a warning.

use std::mem::ManuallyDrop;
use std::time::Duration;

use diskstream_wire::time::Nanos;

use super::{Owned, Ring, SocketId};
use crate::clock;

/// How long a ring's end may take. Guessed: longer than a disk's own retries usually take, shorter than a service
/// manager's patience.
const DRAIN_MAX: Nanos = Nanos::from_secs(2);
const CANCEL_PATIENCE: Duration = Duration::from_millis(500);

impl Ring {
    /// True when the kernel uses none of the ring's memory any more.
    pub(super) fn drain(&mut self) -> bool {
        self.owned.waker.set_ring(None);
        let deadline = clock::now() + DRAIN_MAX;
        for index in 0..self.socket_capacity {
            if let Some(key) = self.owned.sockets.key(index) {
                self.remove_socket(SocketId(key));
            }
        }
        // The first pass submits what was queued: only the kernel can cancel it.
        while !self.idle() {
            let left = deadline.since(clock::now());
            if left.0 == 0 {
                return false;
            }
            if self.queues.enter(0, None).is_err() {
                return false;
            }
            self.reap_all();
            if self.idle() {
                break;
            }
            // ENOENT says that there is nothing left to cancel, ETIME that something takes its time.
            let _ = self.queues.cancel_all(CANCEL_PATIENCE.min(left.as_duration()));
            self.reap_all();
            if self.idle() {
                break;
            }
            let left = deadline.since(clock::now()).as_duration();
            if self.queues.enter(1, Some(left.min(CANCEL_PATIENCE))).is_err() {
                return false;
            }
            self.reap_all();
        }
        true
    }

    fn reap_all(&mut self) {
        self.queues.sync_completions();
        while let Some(entry) = self.queues.pop() {
            // Received buffers are not given back to the kernel: nothing shall be received any more.
            drop(self.reap(&entry));
        }
        self.queues.sync_completions();
    }

    fn idle(&self) -> bool {
        self.owned.sends.in_use() == 0
            && self.owned.reads.in_use() == 0
            && self.owned.messages.in_use() == 0
            && !self.bell_armed
            && self.owned.sockets.is_empty()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let drained = self.drain();
        if drained {
            // Here, and not by a thread of the kernel's that has everybody else's priority. An error: there were none.
            let _ = self.queues.submitter().unregister_buffers();
        }
        if drained {
            let owned = &mut *self.owned;
            owned.zero_copy.release_area(owned.arena.as_deref());
        }
        // SAFETY: taken once, here; what is dropped after this body does not use it.
        let owned = unsafe { ManuallyDrop::take(&mut self.owned) };
        if drained {
            // The kernel has no operation left that names this memory.
            return;
        }
        tracing::warn!(
            sends = owned.sends.in_use(),
            reads = owned.reads.in_use(),
            "operations of a ring did not end in time; their memory stays allocated"
        );
        let Owned { sends, receives, arena, bell, .. } = owned;
        std::mem::forget((sends, receives, arena, bell));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::arena::{Arena, ArenaConfig, HugePages};
    use crate::ring::{Ring, RingConfig};

    #[test]
    fn what_does_not_end_stays_allocated() {
        let config = ArenaConfig { bytes: 4096, huge_pages: HugePages::Off };
        let arena = Arc::new(Arena::new(&config).unwrap());
        let mut ring = Ring::new(&RingConfig::default(), Some(Arc::clone(&arena))).unwrap();
        // Stands for a read that the device never answers: its slot stays busy whatever is cancelled.
        ring.owned.reads.claim().unwrap();
        drop(ring);
        assert_eq!(
            Arc::strong_count(&arena),
            2,
            "the arena outlives the ring, for the kernel's sake"
        );
    }
}
