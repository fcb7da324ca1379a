//! What a lookup hands out: promises about a frame, as values that must be given back.

use super::{BlockKey, SHARDS_MAX};

/// A promise that a frame keeps its bytes. Give it back to the shard that it came from with `ShardCache::unpin`, or send it along as a
/// token and give that back with `ShardCache::unpin_token`; a dropped pin would keep the frame for ever, so debug builds panic on it.
#[derive(Debug)]
#[must_use = "a pin keeps its frame until it is given back"]
pub struct Pin {
    pub(super) frame: u32,
    /// Which life of the frame, in as many bits as a token has for it: for checks only.
    pub(super) incarnation: u32,
    /// Whose table counts it.
    pub(super) shard: u16,
    armed: Armed<PIN>,
}

/// Bits of a frame's incarnation that a token carries, beside 32 of the frame and 6 of the shard.
const LIFE_BITS: u32 = 26;
const _: () = assert!(SHARDS_MAX == 64);

/// The right and duty to fill one frame: end it with `ShardCache::publish` or `ShardCache::abandon`.
#[derive(Debug)]
#[must_use = "a load must be published or abandoned, or everybody waits for it for ever"]
pub struct LoadTicket {
    pub(super) frame: u32,
    pub(super) incarnation: u32,
    pub(super) key: BlockKey,
    armed: Armed<TICKET>,
}

impl Pin {
    pub(super) fn new(frame: u32, incarnation: u32, shard: u16) -> Pin {
        Pin { frame, incarnation, shard, armed: Armed }
    }

    /// The pin as a number, for a [`diskstream_ring::SendPlan`] to carry. The number is the pin now: spend it exactly once.
    #[must_use = "the token is the pin"]
    pub fn into_token(self) -> u64 {
        let life = u64::from(self.incarnation) & ((1 << LIFE_BITS) - 1);
        let token = u64::from(self.shard) << (32 + LIFE_BITS) | life << 32 | u64::from(self.frame);
        self.spend();
        token
    }

    pub(super) fn from_token(token: u64) -> Pin {
        let bits = |low: u32, count: u32| {
            u32::try_from(token >> low & ((1 << count) - 1)).expect("32 bits at most")
        };
        let shard = u16::try_from(bits(32 + LIFE_BITS, 6)).expect("6 bits");
        Pin::new(bits(0, 32), bits(32, LIFE_BITS), shard)
    }

    /// Whether this is the life of the frame that was pinned, as far as a token remembers.
    pub(super) fn is_of_life(&self, incarnation: u32) -> bool {
        (self.incarnation ^ incarnation) & ((1 << LIFE_BITS) - 1) == 0
    }

    pub(super) fn spend(self) {
        std::mem::forget(self.armed);
    }
}

impl LoadTicket {
    pub(super) fn new(frame: u32, incarnation: u32, key: BlockKey) -> LoadTicket {
        LoadTicket { frame, incarnation, key, armed: Armed }
    }

    /// What is to be loaded.
    #[must_use]
    pub fn key(&self) -> BlockKey {
        self.key
    }

    pub(super) fn spend(self) {
        std::mem::forget(self.armed);
    }
}

const PIN: bool = true;
const TICKET: bool = false;

/// Goes off when it is dropped; spent values forget it.
#[derive(Debug)]
struct Armed<const OF: bool>;

impl<const OF: bool> Drop for Armed<OF> {
    fn drop(&mut self) {
        if cfg!(debug_assertions) && !std::thread::panicking() {
            let what = if OF == PIN { "a Pin" } else { "a LoadTicket" };
            panic!("{what} was dropped instead of given back");
        }
    }
}

/// Shards that asked for a block while it was being loaded: bit `n` is shard `n`. The loading shard's own bit is there when
/// it asked again. A bit may be stray; a woken shard looks at what it waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the waiting shards must be woken"]
pub struct WaitingShards(pub u64);

impl WaitingShards {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether shard `shard` waits.
    #[must_use]
    pub fn contains(self, shard: u16) -> bool {
        shard < 64 && self.0 >> shard & 1 == 1
    }

    /// The shards, ascending.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..64).filter(move |&shard| self.contains(shard))
    }
}
