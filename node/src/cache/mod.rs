//! The block cache: one arena of frames for all shards, and at most one load of a block at a time.
//!
//! ```text
//!   lookup(key) ── Index ── candidates ── Pins ──────────> Hit(Pin)        writes the shard's own table, nothing else
//!        │                      │
//!        │                      └ loading: Frame::wait ──> Wait            woken by the publisher
//!        └ absent: free frame, or one that the Policy gives up and no shard holds
//!                └ Index::insert ──> Load(LoadTicket) ── disk ── publish ──> Pin + shards to wake
//! ```
//!
//! | part | decides |
//! |---|---|
//! | [`handle`] | what a shard does: look up, load, pin, give back |
//! | [`frame`] | the life of a frame in one atomic word; why no wake-up is lost |
//! | [`pins`] | which shard holds which frame; why no pin is overlooked |
//! | [`index`] | one entry per key, and room for every frame |
//! | [`policy`] | which frame to reuse (S3-FIFO) |
//! | [`pin`] | the promises that callers hold |
//! | [`sys`] | bytes, on the strength of those promises |
//!
//! A hit takes no lock, allocates nothing, and writes no word that another shard's hit reads, except that the first hit on a block in
//! each epoch notes it in the frame's line. Keys name the content's generation, so another content never answers. `loom` checks the
//! model in `model.rs`; proptest checks the whole against an oracle.

mod frame;
mod handle;
mod index;
mod pin;
mod pins;
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
pub use handle::ShardCache;
use index::Index;
pub use pin::{LoadTicket, Pin, WaitingShards};
use pins::PinTables;
use policy::Policy;
use sync::{AtomicU32, AtomicU64, Fifo};
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
    /// own blocks: a bucket's list is short, and past its end its own entries go.
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

/// What is known of a block at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is in the cache.
    Here,
    /// Somebody is loading it.
    OnItsWay,
}

/// Why there is no cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Not a power of two in the range.
    #[error(
        "a cache block of {block_bytes} bytes is not possible: a cache takes powers of two from 4K to 1M, and --block of them those from 64K"
    )]
    BlockBytes {
        /// The size asked for.
        block_bytes: usize,
    },
    /// Not even one block fits beside what rings keep for headers, or more than can be numbered.
    #[error(
        "a cache of {arena_bytes} bytes cannot hold between 1 and 4 billion blocks of {block_bytes} bytes beside the headers of sends \
         without a copy; change --cache or --block"
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
    /// Frames that can hold a block.
    pub frames: usize,
    /// Frames that hold none, because rings keep headers there.
    pub frames_reserved: usize,
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
    /// How many of them can hold a block.
    usable_frames: usize,
    index: Index,
    policy: Policy,
    pins: Arc<PinTables>,
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
        let memory = Memory::new(arena, frames, block_bytes);
        // What rings keep for headers holds no block.
        let numbers = 0..u32::try_from(frames).expect("checked above");
        let usable: Vec<u32> = numbers.filter(|&frame| !memory.is_reserved(frame)).collect();
        if usable.is_empty() {
            return Err(CacheError::Frames { arena_bytes, block_bytes });
        }
        Ok(Cache::build(memory, frames, &usable, block_bytes))
    }

    fn build(memory: Memory, frames: usize, usable: &[u32], block_bytes: usize) -> Cache {
        let units = block_bytes / UNIT_BYTES;
        let zero_words = units.div_ceil(64);
        let free = Fifo::new(usable.len());
        usable.iter().for_each(|&frame| free.push(frame));
        Cache {
            memory,
            block_bytes,
            units,
            frames: (0..frames).map(|_| Frame::new()).collect(),
            usable_frames: usable.len(),
            index: Index::new(frames),
            policy: Policy::new(usable.len()),
            pins: Arc::new(PinTables::new(frames)),
            free,
            sums: (0..frames * units).map(|_| AtomicU32::new(0)).collect(),
            zeros: (0..frames * zero_words).map(|_| AtomicU64::new(0)).collect(),
            zero_words,
            abandoned: AtomicU64::new(0),
            full: AtomicU64::new(0),
        }
    }

    /// The cache as shard number `shard` uses it. Allocates the shard's table of pins: for the start of the shard.
    ///
    /// # Panics
    /// When `shard` is not below [`SHARDS_MAX`], or somebody else is this shard.
    #[must_use]
    pub fn for_shard(self: &Arc<Cache>, shard: u16) -> ShardCache {
        ShardCache::new(Arc::clone(self), shard)
    }

    /// Whether a block is here or on its way, at this moment. A look that leaves no trace: for those who only consider loading it.
    #[must_use]
    pub fn known(&self, key: BlockKey) -> Option<Known> {
        self.index.candidates(key.hash()).find_map(|number| {
            let frame = &self.frames[number as usize];
            match frame.state().phase() {
                _ if frame.key() != key => None,
                Phase::Ready => Some(Known::Here),
                Phase::Loading => Some(Known::OnItsWay),
                _ => None,
            }
        })
    }

    /// A lookup of `key` comes soon: asks for the index's line. Call [`ShardCache::foresee_frame`] when that has had time to arrive.
    ///
    /// A hit on a block of a large cache misses the processor's caches three times in a row (index, frame, sums), some 100 ns
    /// each; asked for ahead, those of a batch of reads overlap.
    #[inline]
    pub fn foresee(&self, key: BlockKey) {
        self.index.foresee(key.hash());
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

    /// The frame of a load, to fill or to check. A frame may hold bytes of other blocks until it is filled; [`ShardCache::publish`]
    /// zeroes what the load does not vouch for.
    ///
    /// The caller has no disk read into this frame in flight: it submits at most one for a ticket, and looks at the bytes
    /// after its completion.
    pub fn load_bytes<'a>(&'a self, ticket: &'a mut LoadTicket) -> &'a mut [u8] {
        self.memory.bytes_mut(ticket)
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

    /// The sums of all units of the pinned block.
    #[inline]
    #[must_use]
    pub(crate) fn unit_sums(&self, pin: &Pin) -> &[AtomicU32] {
        &self.sums[pin.frame as usize * self.units..][..self.units]
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

    /// Frames that can hold a block: all of the arena's but those where rings keep headers.
    #[must_use]
    pub fn usable_frames(&self) -> usize {
        self.usable_frames
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
            frames: self.usable_frames,
            frames_reserved: self.frames.len() - self.usable_frames,
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
        let frames = u32::try_from(self.frames.len()).expect("checked when it was made");
        (0..frames).filter(|&frame| self.pins.hold(frame)).count()
    }
}
