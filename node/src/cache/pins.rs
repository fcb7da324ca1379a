//! Who holds which frame: for each shard a table of counts, one for each frame, that only this shard writes.
//!
//! A hit writes nothing that another shard writes or that a hit of another shard reads; unpinning neither. The price is paid by
//! evictions, of which each costs a disk read anyway: they look into every shard's table. These are hazard pointers (Michael, IEEE
//! TPDS 2004) with counts, in a dense table, so that nothing is searched and nothing overflows.
//!
//! ```text
//!   shard                                evicting thread
//!   1. count[frame] := 1  (SeqCst)       1. word: Ready → Evicting  (SeqCst)
//!   2. word is Ready, key is ours?       2. is any shard's count[frame] > 0?
//!      (SeqCst) no: count := 0              (SeqCst) yes: word back to Ready
//! ```
//!
//! All four are sequentially consistent, so at least one side sees the other: either the shard finds the frame not ready and
//! takes its count back, or the evicting thread finds the count and leaves the frame. A count that is not zero keeps the frame ready
//! (or in an attempt that will be undone), so a shard that holds a frame already counts further pins with a plain store.
//!
//! Memory: 4 bytes × frames × shards. 16 bits would not do: every job of a shard may wait for one block.

use std::sync::atomic::AtomicU64 as PlainU64;
use std::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use std::sync::{Arc, OnceLock};

use super::SHARDS_MAX;
use super::sync::{self, AtomicU32, AtomicU64, Mistake};

/// Far more than jobs and plans can hold; beyond it something leaks.
const PINS_MAX: u32 = 1 << 31;
/// Counts in a cache line.
const LINE: usize = 16;

#[repr(align(64))]
struct Line([AtomicU32; LINE]);

/// One shard's counts, in lines of their own.
pub(super) struct Counts(Box<[Line]>);

impl Counts {
    fn new(frames: usize) -> Counts {
        let line = || Line(std::array::from_fn(|_| AtomicU32::new(0)));
        Counts((0..frames.div_ceil(LINE)).map(|_| line()).collect())
    }

    #[inline]
    fn of(&self, frame: u32) -> &AtomicU32 {
        &self.0[frame as usize / LINE].0[frame as usize % LINE]
    }
}

/// The tables of all shards that have come.
pub(super) struct PinTables {
    /// Bit n: shard n has a table. Set once, before its first pin.
    known: AtomicU64,
    /// Bit n: somebody has the right to write shard n's table. Not the model checker's: nothing else hangs on it.
    taken: PlainU64,
    tables: [OnceLock<Arc<Counts>>; SHARDS_MAX as usize],
    frames: usize,
}

/// The right to write one shard's counts: one at a time for each shard, used by one thread at a time.
pub(super) struct Pins {
    counts: Arc<Counts>,
    tables: Arc<PinTables>,
    shard: u16,
}

impl PinTables {
    pub(super) fn new(frames: usize) -> PinTables {
        PinTables {
            known: AtomicU64::new(0),
            taken: PlainU64::new(0),
            tables: [const { OnceLock::new() }; SHARDS_MAX as usize],
            frames,
        }
    }

    /// The right to write the counts of `shard`. Counts that an earlier owner left behind stay: what nobody gives back, keeps its frame.
    pub(super) fn take(self: &Arc<PinTables>, shard: u16) -> Pins {
        assert!(shard < SHARDS_MAX, "shard {shard} does not fit the waiter mask");
        let bit = 1 << shard;
        let taken = self.taken.fetch_or(bit, SeqCst);
        assert!(taken & bit == 0, "shard {shard} has its part of the cache already");
        let counts =
            self.tables[usize::from(shard)].get_or_init(|| Arc::new(Counts::new(self.frames)));
        // In the order of all sequentially consistent operations this comes before the shard's pins, so that an evicting
        // thread which has to see such a pin sees the table.
        self.known.fetch_or(bit, SeqCst);
        Pins { counts: Arc::clone(counts), tables: Arc::clone(self), shard }
    }

    /// Whether any shard holds the frame. The other half of [`Pins::announce`]: sequentially consistent, and with it `Acquire`, so that
    /// what was read under a pin that is gone happened before.
    pub(super) fn hold(&self, frame: u32) -> bool {
        self.counts_of(frame).any(|count| count > 0)
    }

    /// Each shard's count of a frame.
    fn counts_of(&self, frame: u32) -> impl Iterator<Item = u32> {
        let known = self.known.load(SeqCst);
        self.tables.iter().zip(0..).filter(move |&(_, shard)| known >> shard & 1 == 1).map(
            move |(table, _)| {
                table.get().expect("known shards have a table").of(frame).load(SeqCst)
            },
        )
    }
}

impl Pins {
    pub(super) fn shard(&self) -> u16 {
        self.shard
    }

    /// A pin on the frame comes soon: asks for the count's line.
    #[inline]
    pub(super) fn foresee(&self, frame: u32) {
        diskstream_ring::prefetch(self.counts.of(frame));
    }

    /// Whether this shard holds the frame, and so keeps it as it is.
    #[inline]
    pub(super) fn holds(&self, frame: u32) -> bool {
        self.counts.of(frame).load(Relaxed) > 0
    }

    /// The first pin on a frame that this shard does not hold. It counts only if the frame is found ready afterwards, by a `SeqCst`
    /// load; else [`Pins::remove`] it.
    #[inline]
    pub(super) fn announce(&self, frame: u32) {
        sync::store_before_loads(self.counts.of(frame), 1);
    }

    /// One more pin on a frame that is held, or that nobody can evict because it is being loaded.
    #[inline]
    pub(super) fn add(&self, frame: u32) {
        let count = self.counts.of(frame);
        let held = count.load(Relaxed);
        assert!(held < PINS_MAX, "pins leak");
        count.store(held + 1, Relaxed);
    }

    /// One pin less. `Release`: what was read under it happened before any reuse ([`PinTables::hold`] acquires).
    #[inline]
    pub(super) fn remove(&self, frame: u32) {
        let count = self.counts.of(frame);
        let held = count.load(Relaxed);
        assert!(held > 0, "a pin was given back twice, or is of another cache");
        let order = if sync::planted(Mistake::UnpinRelaxed) { Relaxed } else { Release };
        count.store(held - 1, order);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.tables.taken.fetch_and(!(1 << self.shard), SeqCst);
    }
}
