//! The block cache: one arena of frames for all shards, and at most one load of a block at a time.
//!
//! ```text
//!   lookup(key) ── Index ── candidates ── Frame::pin ──> Hit(Pin)          one shared write: the pin
//!        │                      │
//!        │                      └ loading: Frame::wait ──> Wait            woken by the publisher
//!        └ absent: free frame, or one that the Policy gives up
//!                └ Index::insert ──> Load(LoadTicket) ── disk ── publish ──> Pin + shards to wake
//! ```
//!
//! | part | decides |
//! |---|---|
//! | [`frame`] | the life of a frame in one atomic word; why no pin and no wake-up is lost |
//! | [`index`] | one entry per key |
//! | [`policy`] | which frame to reuse (S3-FIFO) |
//! | [`pin`] | the promises that callers hold |
//! | [`sys`] | bytes, on the strength of those promises |
//!
//! A hit takes no lock, allocates nothing, and writes one shared word. Keys name the content's generation, so another
//! content never answers. `loom` checks the model in `model.rs`; proptest checks the whole against an oracle.

mod frame;
mod index;
mod pin;
mod policy;
mod sync;
#[expect(
    unsafe_code,
    reason = "turns pins and tickets into slices of the arena; each block says why"
)]
mod sys;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_ring::Arena;
use diskstream_wire::limits::UNIT_BYTES;

pub use frame::Purpose;
use frame::{Frame, Phase};
use index::{Index, Insertion};
pub use pin::{LoadTicket, Pin, WaitingShards};
use policy::Policy;
use sync::{AtomicU32, AtomicU64, Fifo, Relax};
use sys::Memory;

/// Shards that can share a cache: the width of the waiter mask.
pub const SHARDS_MAX: u16 = 64;
/// Smallest block: one unit.
pub const BLOCK_BYTES_MIN: usize = UNIT_BYTES;
/// Largest block.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// The usual block: the longest read of one request.
pub const BLOCK_BYTES_DEFAULT: usize = 64 << 10;

/// What is cached: a block of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// Generation of the content (the first 8 bytes of its id).
    pub generation: u64,
    /// Number of the block: offset in the image ÷ block size.
    pub block: u64,
}

impl BlockKey {
    /// Two rounds of multiply and shift (the finalizer of `MurmurHash3`). Not keyed: whoever makes keys collide slows his
    /// own blocks, because a crowded bucket lets its own entries go.
    #[inline]
    fn hash(self) -> u64 {
        let mut x = self.generation ^ self.block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ (x >> 33)
    }
}

/// What a lookup found.
#[derive(Debug)]
#[must_use]
pub enum Lookup {
    /// The block is here and pinned.
    Hit(Pin),
    /// The block is not here and the caller is the one to load it.
    Load(LoadTicket),
    /// Somebody is loading it. The caller's shard will be among the [`WaitingShards`] of that load's end; look up again then.
    Wait,
    /// Every frame that was looked at is pinned or being loaded: answer "busy", try again when something was released.
    Full,
}

/// Why there is no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Not a power of two in the range.
    #[error(
        "a cache block of {block_bytes} bytes is not possible; --block takes a power of two from 4K to 1M"
    )]
    BlockBytes {
        /// The size asked for.
        block_bytes: usize,
    },
    /// Not even one block fits, or more than can be numbered.
    #[error(
        "a cache of {arena_bytes} bytes cannot hold between 1 and 4 billion blocks of {block_bytes} bytes; change --cache or --block"
    )]
    Frames {
        /// Bytes of the arena.
        arena_bytes: usize,
        /// Bytes of a block.
        block_bytes: usize,
    },
}

/// Figures of the cache, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Frames of the arena.
    pub frames: usize,
    /// Bytes of a frame.
    pub block_bytes: usize,
    /// Frames that hold nothing.
    pub frames_free: usize,
    /// Frames in the queue of newcomers.
    pub frames_small: usize,
    /// Frames in the queue of blocks that proved useful.
    pub frames_main: usize,
    /// Blocks loaded and published.
    pub loads: u64,
    /// Blocks evicted.
    pub evictions: u64,
    /// Blocks that moved from the newcomers to the proven.
    pub promotions: u64,
    /// Loads of blocks that had been evicted too early.
    pub ghost_hits: u64,
    /// Blocks read ahead.
    pub ahead: u64,
    /// Those of them that somebody asked for afterwards.
    pub ahead_used: u64,
    /// Those of them that were evicted before anybody did.
    pub ahead_wasted: u64,
    /// Frames that are never evicted.
    pub frames_kept: u64,
    /// Loads that failed.
    pub abandoned: u64,
    /// Lookups that found every frame in use.
    pub full: u64,
}

/// The shared block cache. See the module's documentation.
pub struct Cache {
    memory: Memory,
    block_bytes: usize,
    units: usize,
    frames: Box<[Frame]>,
    index: Index,
    policy: Policy,
    free: Fifo,
    /// CRC32C of each unit, `units` per frame. Written before the frame is ready, read under a pin; the frame's word orders both.
    sums: Box<[AtomicU32]>,
    /// One bit per unit that is all zero, `zero_words` words per frame. Ordered like `sums`.
    zeros: Box<[AtomicU64]>,
    zero_words: usize,
    abandoned: AtomicU64,
    full: AtomicU64,
}

impl Cache {
    /// A cache over all of `arena`, in blocks of `block_bytes`.
    ///
    /// # Errors
    /// [`CacheError`] when the block size or the number of blocks is impossible.
    pub fn new(arena: Arc<Arena>, block_bytes: usize) -> Result<Cache, CacheError> {
        let arena_bytes = arena.len();
        if !block_bytes.is_power_of_two()
            || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes)
        {
            return Err(CacheError::BlockBytes { block_bytes });
        }
        let frames = arena_bytes / block_bytes;
        // An index entry holds the frame's number plus one in 32 bits.
        if frames == 0 || u32::try_from(frames + 1).is_err() {
            return Err(CacheError::Frames { arena_bytes, block_bytes });
        }
        Ok(Cache::build(Memory::new(arena, frames, block_bytes), frames, block_bytes))
    }

    fn build(memory: Memory, frames: usize, block_bytes: usize) -> Cache {
        let units = block_bytes / UNIT_BYTES;
        let zero_words = units.div_ceil(64);
        let free = Fifo::new(frames);
        for frame in 0..u32::try_from(frames).expect("checked by the caller") {
            free.push(frame);
        }
        Cache {
            memory,
            block_bytes,
            units,
            frames: (0..frames).map(|_| Frame::new()).collect(),
            index: Index::new(frames),
            policy: Policy::new(frames),
            free,
            sums: (0..frames * units).map(|_| AtomicU32::new(0)).collect(),
            zeros: (0..frames * zero_words).map(|_| AtomicU64::new(0)).collect(),
            zero_words,
            abandoned: AtomicU64::new(0),
            full: AtomicU64::new(0),
        }
    }

    /// Finds a block for shard number `shard`. See [`Lookup`].
    ///
    /// # Panics
    /// When `shard` is not below [`SHARDS_MAX`].
    #[inline]
    pub fn lookup(&self, key: BlockKey, shard: u16) -> Lookup {
        assert!(shard < SHARDS_MAX, "shard {shard} does not fit the waiter mask");
        let hash = key.hash();
        match self.probe(key, hash, shard) {
            Probe::Settled(lookup) => lookup,
            Probe::Unsettled | Probe::Absent => self.miss(key, hash, shard),
        }
    }

    /// Whether a block is here or on its way, at this moment. A look that leaves no trace: for those who only consider loading it.
    #[must_use]
    pub fn is_known(&self, key: BlockKey) -> bool {
        self.index.candidates(key.hash()).any(|number| {
            let frame = &self.frames[number as usize];
            frame.key() == key && matches!(frame.state().phase(), Phase::Ready | Phase::Loading)
        })
    }

    /// A lookup of `key` comes soon: asks for the index's line. Call [`Cache::foresee_frame`] when that has had time to arrive.
    ///
    /// A hit on a block of a large cache misses the processor's caches three times in a row (index, frame, sums), some 100 ns
    /// each; asked for ahead, those of a batch of reads overlap.
    #[inline]
    pub fn foresee(&self, key: BlockKey) {
        self.index.foresee(key.hash());
    }

    /// A lookup of `key` comes soon, and [`Cache::foresee`] was called for it: asks for the lines of its frame.
    #[inline]
    pub fn foresee_frame(&self, key: BlockKey, unit: usize) {
        let Some(frame) = self.index.candidates(key.hash()).next() else { return };
        let frame = frame as usize;
        diskstream_ring::prefetch(&self.frames[frame]);
        diskstream_ring::prefetch(&self.zeros[frame * self.zero_words]);
        diskstream_ring::prefetch(&self.sums[frame * self.units + unit.min(self.units - 1)]);
    }

    /// These bytes of the pinned block will be sent soon: asks for them.
    ///
    /// # Panics
    /// When they are not inside the arena.
    #[inline]
    pub fn foresee_bytes(&self, pin: &Pin, from: usize, len: usize) {
        self.memory.foresee(pin.frame, from, len);
    }

    /// Where the frame of a load begins in the arena: the target of the disk read.
    #[must_use]
    pub fn load_offset(&self, ticket: &LoadTicket) -> usize {
        ticket.frame as usize * self.block_bytes
    }

    /// The frame of a load, to fill or to check. A frame may hold bytes of other blocks until it is filled; `publish`
    /// zeroes what the load does not vouch for.
    ///
    /// The caller has no disk read into this frame in flight: it submits at most one for a ticket, and looks at the bytes
    /// after its completion.
    pub fn load_bytes<'a>(&'a self, ticket: &'a mut LoadTicket) -> &'a mut [u8] {
        self.memory.bytes_mut(ticket)
    }

    /// Ends a load well: `valid_bytes` from the frame's start are the block's content, the rest becomes zero. Sums every
    /// unit, then makes the block visible, with the life that its `purpose` earns it. Gives the loader's own pin, and whom to wake.
    ///
    /// # Panics
    /// When `valid_bytes` is more than a block.
    pub fn publish(
        &self,
        mut ticket: LoadTicket,
        valid_bytes: usize,
        purpose: Purpose,
    ) -> (Pin, WaitingShards) {
        let bytes = self.memory.bytes_mut(&mut ticket);
        bytes[valid_bytes..].fill(0);
        let frame = ticket.frame as usize;
        let bytes = &*self.memory.bytes_mut(&mut ticket);
        let sums = &self.sums[frame * self.units..][..self.units];
        for (sum, unit) in sums.iter().zip(bytes.chunks_exact(UNIT_BYTES)) {
            sum.store(crc32c::crc32c(unit), Relaxed);
        }
        let zeros = &self.zeros[frame * self.zero_words..][..self.zero_words];
        for (word, units) in zeros.iter().zip(bytes.chunks(64 * UNIT_BYTES)) {
            word.store(zero_units(units), Relaxed);
        }
        let waiters = self.frames[frame].publish(ticket.incarnation, self.policy.epoch(), purpose);
        self.policy.admit(ticket.frame, ticket.key.hash(), purpose);
        let pin = Pin::new(ticket.frame, ticket.incarnation);
        ticket.spend();
        (pin, WaitingShards(waiters))
    }

    /// Ends a load that failed: the key is forgotten and the next lookup of it loads again. The caller wakes the shards and
    /// tells them of the failure.
    pub fn abandon(&self, ticket: LoadTicket) -> WaitingShards {
        self.index.remove(ticket.key.hash(), ticket.frame);
        let waiters = self.frames[ticket.frame as usize].abandon(ticket.incarnation);
        self.free.push(ticket.frame);
        self.abandoned.fetch_add(1, Relaxed);
        ticket.spend();
        WaitingShards(waiters)
    }

    /// A second pin on the same frame.
    #[inline]
    pub fn pin_again(&self, pin: &Pin) -> Pin {
        self.frames[pin.frame as usize].pin_again(pin.incarnation);
        Pin::new(pin.frame, pin.incarnation)
    }

    /// Gives a pin back.
    #[inline]
    pub fn unpin(&self, pin: Pin) {
        self.frames[pin.frame as usize].unpin(pin.incarnation);
        pin.spend();
    }

    /// Gives back a pin that went along as a token ([`Pin::into_token`]). Each token is spent once; a second time is caught
    /// as long as the frame has no other pin or was reused since.
    #[inline]
    pub fn unpin_token(&self, token: u64) {
        self.unpin(Pin::from_token(token));
    }

    /// CRC32C of a unit of the block.
    ///
    /// # Panics
    /// When the block has no such unit.
    #[inline]
    #[must_use]
    pub fn unit_sum(&self, pin: &Pin, unit: usize) -> u32 {
        assert!(unit < self.units, "unit {unit} of a block of {}", self.units);
        self.sums[pin.frame as usize * self.units + unit].load(Relaxed)
    }

    /// Whether a unit of the block is all zero.
    ///
    /// # Panics
    /// When the block has no such unit.
    #[inline]
    #[must_use]
    pub fn unit_is_zero(&self, pin: &Pin, unit: usize) -> bool {
        assert!(unit < self.units, "unit {unit} of a block of {}", self.units);
        let word = &self.zeros[pin.frame as usize * self.zero_words + unit / 64];
        word.load(Relaxed) >> (unit % 64) & 1 == 1
    }

    /// Where the pinned block begins in the arena.
    #[inline]
    #[must_use]
    pub fn arena_offset(&self, pin: &Pin) -> usize {
        pin.frame as usize * self.block_bytes
    }

    /// The bytes of the pinned block, a whole frame.
    #[must_use]
    pub fn bytes<'a>(&'a self, pin: &'a Pin) -> &'a [u8] {
        self.memory.bytes(pin)
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Makes every block of a content unfindable: it was replaced or is not trusted any more. Existing pins stay good, loads
    /// under way end as usual, the frames age out. Looks at every frame: for the control path. Lookups of this generation
    /// that go on meanwhile may bring blocks of it back; stop asking first.
    pub fn forget_generation(&self, generation: u64) {
        for (frame, number) in self.frames.iter().zip(0u32..) {
            let key = frame.key();
            if key.generation == generation && frame.state().phase() != Phase::Free {
                self.index.remove(key.hash(), number);
                let kept = frame.is_kept();
                frame.set_uses(0);
                if kept {
                    self.policy.let_go(number);
                }
            }
        }
    }

    /// Starts a new period for counting uses. Misses do so by themselves; a cache that only hits learns nothing about what
    /// is used often unless somebody calls this now and then. Guessed: once a second, by one thread.
    pub fn tick(&self) {
        self.policy.advance_epoch();
    }

    /// Figures for metrics. Consistent only when nobody uses the cache meanwhile.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let policy = self.policy.stats();
        CacheStats {
            frames: self.frames.len(),
            block_bytes: self.block_bytes,
            frames_free: self.free.len(),
            frames_small: policy.small,
            frames_main: policy.main,
            loads: policy.loads,
            evictions: policy.evictions,
            promotions: policy.promotions,
            ghost_hits: policy.ghost_hits,
            ahead: policy.ahead,
            ahead_used: policy.ahead_used,
            ahead_wasted: policy.ahead_wasted,
            frames_kept: policy.kept,
            abandoned: self.abandoned.load(Relaxed),
            full: self.full.load(Relaxed),
        }
    }

    /// Frames with at least one pin. Looks at every frame: for tests and for the end of a drain, where it must be 0.
    #[must_use]
    pub fn frames_pinned(&self) -> usize {
        self.frames.iter().filter(|frame| frame.state().pins() > 0).count()
    }

    #[inline]
    fn probe(&self, key: BlockKey, hash: u64, shard: u16) -> Probe {
        for number in self.index.candidates(hash) {
            let frame = &self.frames[number as usize];
            // Pin first, ask afterwards: a look before would fetch the line twice when shards contend for it.
            if let Some(incarnation) = frame.pin(key) {
                if frame.touch(self.policy.epoch()) {
                    self.policy.ahead_used();
                }
                return Probe::Settled(Lookup::Hit(Pin::new(number, incarnation)));
            }
            if frame.wait(key, shard) {
                return Probe::Settled(Lookup::Wait);
            }
            if frame.key() == key {
                return Probe::Unsettled;
            }
        }
        Probe::Absent
    }

    /// Everything but a plain hit.
    #[cold]
    fn miss(&self, key: BlockKey, hash: u64, shard: u16) -> Lookup {
        let mut relax = Relax::new();
        let mut spare = None;
        let found = loop {
            match self.probe(key, hash, shard) {
                Probe::Settled(lookup) => break lookup,
                // Published, evicted or abandoned under our eyes; the next look tells.
                Probe::Unsettled => {
                    relax.wait();
                    continue;
                }
                Probe::Absent => {}
            }
            let Some(number) = spare.take().or_else(|| self.claim()) else { break Lookup::Full };
            match self.insert(key, hash, number) {
                Ok(ticket) => return Lookup::Load(ticket),
                Err(Insertion::Crowded) => {
                    self.free.push(number);
                    break Lookup::Full;
                }
                Err(_) => spare = Some(number),
            }
        };
        if let Some(number) = spare {
            self.free.push(number);
        }
        if matches!(found, Lookup::Full) {
            self.full.fetch_add(1, Relaxed);
        }
        found
    }

    /// A frame of the caller's own, in phase `Free`.
    fn claim(&self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let number = self.policy.evict(&self.frames, |frame| frame.key().hash())?;
            let frame = &self.frames[number as usize];
            // First out of the index, then free: whoever finds a key in the index finds the frame that has it.
            self.index.remove(frame.key().hash(), number);
            frame.release();
            Some(number)
        })
    }

    fn insert(&self, key: BlockKey, hash: u64, number: u32) -> Result<LoadTicket, Insertion> {
        let frame = &self.frames[number as usize];
        frame.set_key(key);
        let mut incarnation = 0;
        let done = self.index.insert(
            hash,
            number,
            |other| self.frames[other as usize].key() == key,
            |other| {
                let other = &self.frames[other as usize];
                (other.state().phase() == Phase::Ready && !other.is_kept()).then(|| other.uses())
            },
            || incarnation = frame.begin(),
        );
        match done {
            Insertion::Done => Ok(LoadTicket::new(number, incarnation, key)),
            other => Err(other),
        }
    }
}

enum Probe {
    Settled(Lookup),
    /// The key's frame is changing its phase.
    Unsettled,
    Absent,
}

/// One bit per unit that is all zero.
fn zero_units(units: &[u8]) -> u64 {
    units
        .chunks_exact(UNIT_BYTES)
        .enumerate()
        .fold(0, |word, (unit, bytes)| word | u64::from(is_zero(bytes)) << unit)
}

/// Looks at 256 bytes at a time: wide enough for vector code, and most data ends the search in the first.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(256).all(|chunk| chunk.iter().fold(0, |any, &byte| any | byte) == 0)
}
