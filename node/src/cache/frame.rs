//! One frame's life, in one atomic word.
//!
//! ```text
//!          begin            publish             evict (only without pins)
//!   Free ────────> Loading ────────> Ready ────────────────────────────> Evicting
//!    ^                │                                                      │
//!    └──── abandon ───┴──────────────────────── release ─────────────────────┘   (next incarnation)
//! ```
//!
//! The word is `incarnation:32 | phase:2`. A phase advances by one, and the step out of `Evicting` carries into the incarnation, so
//! that a word of an earlier life never comes back while somebody still remembers it. All steps but one are taken by the frame's only
//! owner (of a free frame, of the ticket, of the eviction) and are plain `Release` stores; the step from `Ready` to `Evicting` is a
//! compare-exchange, and is undone when a shard turns out to hold the frame. Pins are not part of the word: see [`super::pins`].

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use super::pins::PinTables;
use super::sync::{self, AtomicU8, AtomicU32, AtomicU64, Mistake};
use super::{BlockKey, Pin};

/// Values of a word: 34 bits.
const WORDS: u64 = 1 << 34;

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
        match self.0 & 3 {
            0 => Phase::Free,
            1 => Phase::Loading,
            2 => Phase::Ready,
            _ => Phase::Evicting,
        }
    }

    /// Counts the frame's lives; wraps after 2^32, while stale readings last microseconds.
    pub(super) fn incarnation(self) -> u32 {
        u32::try_from(self.0 >> 2).expect("32 bits are left")
    }

    fn plus(self, steps: u64) -> State {
        State((self.0 + steps) % WORDS)
    }
}

/// What the index needs to know about a frame, and what a hit reads of it: one cache line, shared with no other frame, and written by
/// a hit once per epoch.
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
        self.step(Phase::Free, 1, Release).incarnation()
    }

    /// Loading → Ready, by the owner of the ticket. `Release`: bytes, sums and flags are visible to whoever pins, and the
    /// publisher's own pin to whoever evicts.
    pub(super) fn publish(&self, incarnation: u32, epoch: u32, purpose: Purpose) -> u64 {
        let (touched, uses) = match purpose {
            Purpose::Demand => (epoch, 0),
            Purpose::Ahead => (UNTOUCHED, 0),
            Purpose::Keep => (epoch, KEPT),
        };
        self.touched.store(touched, Relaxed);
        self.uses.store(uses, Relaxed);
        let order = if sync::planted(Mistake::PublishRelaxed) { Relaxed } else { Release };
        let before = self.step(Phase::Loading, 1, order);
        assert!(before.incarnation() == incarnation, "the ticket is of an earlier life");
        self.waiters.swap(0, AcqRel)
    }

    /// Loading → Free, by the owner of the ticket, after the frame left the index.
    pub(super) fn abandon(&self, incarnation: u32) -> u64 {
        let before = self.step(Phase::Loading, 3, Release);
        assert!(before.incarnation() == incarnation, "the ticket is of an earlier life");
        self.waiters.swap(0, AcqRel)
    }

    /// The word, read so that it is certain to be current after [`super::pins::Pins::announce`]; see there.
    #[inline]
    pub(super) fn state_after_announcement(&self) -> State {
        State(self.state.load(SeqCst))
    }

    /// Whether this is a good pin on the frame. For debug checks of those who hold one: an eviction may be trying, in vain.
    pub(super) fn is_pinned_by(&self, pin: &Pin) -> bool {
        let now = self.state();
        matches!(now.phase(), Phase::Ready | Phase::Evicting) && pin.is_of_life(now.incarnation())
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
        sync::planted(Mistake::WaitWithoutLook) || self.state() == before
    }

    /// Ready → Evicting, if no shard holds the frame. For the thread that took its number out of a queue, and so the only one.
    pub(super) fn evict(&self, number: u32, pins: &PinTables) -> bool {
        let now = State(self.state.load(Relaxed));
        // A look first: an attempt in vain would make lookups of the block wait for us.
        if now.phase() != Phase::Ready || pins.hold(number) {
            return false;
        }
        let attempt = now.plus(1).0;
        if self.state.compare_exchange(now.0, attempt, SeqCst, Relaxed).is_err() {
            return false;
        }
        sync::fence_of_evictions();
        if pins.hold(number) && !sync::planted(Mistake::EvictWithoutLook) {
            self.state.store(now.0, Release);
            return false;
        }
        true
    }

    /// Evicting → Free, by the evicting thread, after the frame left the index.
    pub(super) fn release(&self) {
        self.step(Phase::Evicting, 1, Release);
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

    /// A step by the frame's only owner.
    fn step(&self, from: Phase, by: u64, order: std::sync::atomic::Ordering) -> State {
        let before = State(self.state.load(Relaxed));
        assert!(before.phase() == from, "a frame left {from:?} while it was {:?}", before.phase());
        self.state.store(before.plus(by).0, order);
        before
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::Arc;

    use super::*;

    const KEY: BlockKey = BlockKey { generation: 1, block: 2 };

    #[test]
    fn a_life() {
        let (frame, tables) = (Frame::new(), Arc::new(PinTables::new(1)));
        let pins = tables.take(7);
        frame.set_key(KEY);
        let life = frame.begin();
        assert!(!frame.evict(0, &tables), "it is being loaded");
        assert!(frame.wait(KEY, 3));
        assert!(!frame.wait(BlockKey { block: 9, ..KEY }, 4));
        pins.add(0);
        assert_eq!(frame.publish(life, 0, Purpose::Demand), 1 << 3);
        assert!(!frame.wait(KEY, 5), "published: nothing to wait for");
        pins.add(0);
        pins.remove(0);
        assert!(!frame.evict(0, &tables), "one pin is left");
        assert_eq!(frame.state().phase(), Phase::Ready);
        pins.remove(0);
        assert!(frame.evict(0, &tables));
        assert!(!frame.evict(0, &tables), "once");
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
    fn lives_wrap() {
        let frame = Frame::new();
        frame.state.store(WORDS - 1, Relaxed);
        frame.release();
        assert_eq!((frame.state().phase(), frame.state().incarnation()), (Phase::Free, 0));
    }
}
