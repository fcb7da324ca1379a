//! One frame's life, in one atomic word.
//!
//! ```text
//!          begin            publish             evict (only without pins)
//!   Free ────────> Loading ────────> Ready ────────────────────────────> Evicting
//!    ^                │                                                      │
//!    └──── abandon ───┴──────────────────────── release ─────────────────────┘   (next incarnation)
//! ```
//!
//! The word is `incarnation:32 | phase:2 | pins:30`. A phase advances by adding [`STEP`], and the step out of `Evicting`
//! carries into the incarnation, so that a word never comes back while somebody still remembers it. All changes are
//! read-modify-writes: a lookup may add a pin in any phase (and takes it back when it finds the frame not ready or not
//! its own), so nobody may overwrite the word. Being all read-modify-writes, the word is one release sequence: whoever
//! pins with `Acquire` sees everything that was done before any earlier `Release` step.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::BlockKey;
use super::sync::{AtomicU8, AtomicU32, AtomicU64};

const STEP: u64 = 1 << 30;
const PINS: u64 = STEP - 1;
/// Far more than plans × segments can hold; beyond it something leaks.
const PINS_MAX: u64 = PINS / 2;

/// Where a frame is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Owned by the free list or by one thread; in no index entry.
    Free,
    /// Owned by one [`super::LoadTicket`]; the index names it.
    Loading,
    /// Bytes, sums and key are fixed; may be pinned.
    Ready,
    /// Owned by the evicting thread; about to leave the index.
    Evicting,
}

/// A reading of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u64);

impl State {
    pub(super) fn phase(self) -> Phase {
        match (self.0 / STEP) & 3 {
            0 => Phase::Free,
            1 => Phase::Loading,
            2 => Phase::Ready,
            _ => Phase::Evicting,
        }
    }

    pub(super) fn pins(self) -> u64 {
        self.0 & PINS
    }

    /// Counts the frame's lives; wraps after 2^32, while stale readings last microseconds.
    pub(super) fn incarnation(self) -> u32 {
        u32::try_from(self.0 >> 32).expect("32 bits are left")
    }

    /// Equal but for pins.
    fn same_life(self, other: State) -> bool {
        self.0 & !PINS == other.0 & !PINS
    }
}

/// What the index needs to know about a frame, and what a hit touches: one cache line, shared with no other frame.
#[repr(align(64))]
pub(super) struct Frame {
    state: AtomicU64,
    /// The key. Stored (`Release`) only by the owner of a free frame; see [`Frame::wait`] for why `Release`.
    generation: AtomicU64,
    block: AtomicU64,
    /// Shards to wake when the load ends. May hold stray bits of an earlier life: a stray wake-up is harmless.
    waiters: AtomicU64,
    /// The cache's epoch at the last counted use, and uses counted since it joined its queue (at most [`USES_MAX`]).
    /// Written without read-modify-write: a lost update costs a little accuracy of the policy, never correctness.
    /// [`UNTOUCHED`] and [`KEPT`] have a meaning of their own.
    touched: AtomicU32,
    uses: AtomicU8,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Frame>() == 64);

/// S3-FIFO counts uses in two bits (Yang et al., SOSP 2023).
pub(super) const USES_MAX: u8 = 3;
/// In place of uses: a frame that is in no queue and never evicted.
const KEPT: u8 = u8::MAX;
/// In place of an epoch: read ahead, and asked for by nobody yet. Epochs begin at 1 and wrap after 2^32 of them: then one block's
/// first use is miscounted.
const UNTOUCHED: u32 = 0;

/// Why a block was loaded: what the policy makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asked for it.
    Demand,
    /// Somebody may ask for it: its first use counts as the demand.
    Ahead,
    /// It is to stay: never evicted.
    Keep,
}

impl Frame {
    pub(super) fn new() -> Frame {
        Frame {
            state: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            block: AtomicU64::new(0),
            waiters: AtomicU64::new(0),
            touched: AtomicU32::new(0),
            uses: AtomicU8::new(0),
        }
    }

    pub(super) fn state(&self) -> State {
        State(self.state.load(Acquire))
    }

    pub(super) fn key(&self) -> BlockKey {
        BlockKey { generation: self.generation.load(Acquire), block: self.block.load(Acquire) }
    }

    /// Names the key of a free frame, by its only owner.
    pub(super) fn set_key(&self, key: BlockKey) {
        debug_assert_eq!(self.state().phase(), Phase::Free);
        self.generation.store(key.generation, Release);
        self.block.store(key.block, Release);
    }

    /// Free → Loading, by its only owner. Gives the incarnation.
    pub(super) fn begin(&self) -> u32 {
        self.advance(Phase::Free, STEP).incarnation()
    }

    /// Loading → Ready with one pin, by the owner of the ticket. `Release`: bytes, sums and flags are visible to whoever
    /// pins.
    pub(super) fn publish(&self, incarnation: u32, epoch: u32, purpose: Purpose) -> u64 {
        let (touched, uses) = match purpose {
            Purpose::Demand => (epoch, 0),
            Purpose::Ahead => (UNTOUCHED, 0),
            Purpose::Keep => (epoch, KEPT),
        };
        self.touched.store(touched, Relaxed);
        self.uses.store(uses, Relaxed);
        let before = self.advance(Phase::Loading, STEP + 1);
        assert!(before.incarnation() == incarnation, "the ticket is of an earlier life");
        self.waiters.swap(0, AcqRel)
    }

    /// Loading → Free, by the owner of the ticket, after the frame left the index.
    pub(super) fn abandon(&self, incarnation: u32) -> u64 {
        let before = self.advance(Phase::Loading, 3 * STEP);
        assert!(before.incarnation() == incarnation, "the ticket is of an earlier life");
        self.waiters.swap(0, AcqRel)
    }

    /// Pins the frame if it is ready and holds `key`; gives the incarnation. The one shared write of a hit.
    #[inline]
    pub(super) fn pin(&self, key: BlockKey) -> Option<u32> {
        let before = State(self.state.fetch_add(1, Acquire));
        assert!(before.pins() < PINS_MAX, "pins leak");
        // The key is read under the pin: a ready frame with a pin is not evicted, so this is the key until the unpin.
        if before.phase() == Phase::Ready && self.key() == key {
            return Some(before.incarnation());
        }
        self.state.fetch_sub(1, Release);
        None
    }

    /// One more pin on a frame that the caller has pinned.
    #[inline]
    pub(super) fn pin_again(&self, incarnation: u32) {
        let before = State(self.state.fetch_add(1, Relaxed));
        assert!(before.pins() < PINS_MAX, "pins leak");
        before.assert_pinned(incarnation);
    }

    /// Gives a pin back. `Release`: what was read under the pin happened before any reuse (`evict` acquires).
    #[inline]
    pub(super) fn unpin(&self, incarnation: u32) {
        State(self.state.fetch_sub(1, Release)).assert_pinned(incarnation);
    }

    /// Registers `shard` for the wake-up at the end of the load of `key`; false when there is no such load any more.
    ///
    /// No wake-up is lost: the publisher first leaves `Loading`, then swaps the mask. If our bit came before the swap, it
    /// is in the mask that the publisher got. If it came after, our `fetch_or` reads what the swap wrote and so sees the
    /// later phase, and we answer false. And the load is the one of `key`: the key's loads are `Acquire` and its stores
    /// `Release`, so having read a later life's key means seeing that life's (or a later) word afterwards.
    pub(super) fn wait(&self, key: BlockKey, shard: u16) -> bool {
        let before = self.state();
        if before.phase() != Phase::Loading || self.key() != key {
            return false;
        }
        self.waiters.fetch_or(1 << shard, AcqRel);
        self.state().same_life(before)
    }

    /// Ready → Evicting, if nobody holds a pin. `Acquire` pairs with `unpin`.
    pub(super) fn evict(&self) -> bool {
        let now = State(self.state.load(Relaxed));
        now.phase() == Phase::Ready
            && now.pins() == 0
            && self.state.compare_exchange(now.0, now.0 + STEP, Acquire, Relaxed).is_ok()
    }

    /// Evicting → Free, by the evicting thread, after the frame left the index.
    pub(super) fn release(&self) {
        self.advance(Phase::Evicting, STEP);
    }

    /// Counts a use, at most one per epoch: a device that reads a block unit by unit used it once. True for the first use of
    /// a block that was read ahead, which stands for the demand that would have loaded it.
    #[inline]
    pub(super) fn touch(&self, epoch: u32) -> bool {
        let touched = self.touched.load(Relaxed);
        if touched == epoch {
            return false;
        }
        self.touched.store(epoch, Relaxed);
        if touched == UNTOUCHED {
            return true;
        }
        let uses = self.uses.load(Relaxed);
        if uses < USES_MAX {
            self.uses.store(uses + 1, Relaxed);
        }
        false
    }

    /// Read ahead, and never used.
    pub(super) fn is_untouched(&self) -> bool {
        self.touched.load(Relaxed) == UNTOUCHED
    }

    /// Never to be evicted.
    pub(super) fn is_kept(&self) -> bool {
        self.uses() == KEPT
    }

    pub(super) fn uses(&self) -> u8 {
        self.uses.load(Relaxed)
    }

    pub(super) fn set_uses(&self, uses: u8) {
        self.uses.store(uses, Relaxed);
    }

    fn advance(&self, from: Phase, by: u64) -> State {
        let before = State(self.state.fetch_add(by, AcqRel));
        assert!(before.phase() == from, "a frame left {from:?} while it was {:?}", before.phase());
        before
    }
}

impl State {
    fn assert_pinned(self, incarnation: u32) {
        assert!(
            self.phase() == Phase::Ready && self.pins() > 0 && self.incarnation() == incarnation,
            "a pin was given back twice, or is of another cache: {self:?}"
        );
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const KEY: BlockKey = BlockKey { generation: 1, block: 2 };

    #[test]
    fn a_life() {
        let frame = Frame::new();
        frame.set_key(KEY);
        let life = frame.begin();
        assert_eq!(frame.pin(KEY), None);
        assert!(!frame.evict());
        assert!(frame.wait(KEY, 3));
        assert!(!frame.wait(BlockKey { block: 9, ..KEY }, 4));
        assert_eq!(frame.publish(life, 0, Purpose::Demand), 1 << 3);
        assert!(!frame.wait(KEY, 5), "published: nothing to wait for");
        assert_eq!(frame.pin(KEY), Some(life));
        assert_eq!(frame.state().pins(), 2);
        frame.unpin(life);
        assert!(!frame.evict());
        frame.unpin(life);
        assert!(frame.evict());
        assert_eq!(frame.pin(KEY), None);
        frame.release();
        assert_eq!((frame.state().phase(), frame.state().incarnation()), (Phase::Free, life + 1));
    }

    #[test]
    fn abandoning_starts_the_next_life() {
        let frame = Frame::new();
        frame.set_key(KEY);
        let life = frame.begin();
        assert!(frame.wait(KEY, 63));
        assert_eq!(frame.abandon(life), 1 << 63);
        assert_eq!((frame.state().phase(), frame.state().incarnation()), (Phase::Free, life + 1));
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn unpinning_twice_is_caught() {
        let frame = Frame::new();
        frame.set_key(KEY);
        let life = frame.begin();
        frame.publish(life, 0, Purpose::Demand);
        frame.unpin(life);
        frame.unpin(life);
    }
}
