//! What a lookup hands out: promises about a frame, as values that must be given back.

use super::BlockKey;

/// A promise that a frame keeps its bytes. Give it back with `Cache::unpin`, or send it along as a token and give that back
/// with `Cache::unpin_token`; a dropped pin would keep the frame for ever, so debug builds panic on it.
#[derive(Debug)]
#[must_use = "a pin keeps its frame until it is given back"]
pub struct Pin {
    pub(super) frame: u32,
    pub(super) incarnation: u32,
    armed: Armed,
}

/// The right and duty to fill one frame: end it with `Cache::publish` or `Cache::abandon`.
#[derive(Debug)]
#[must_use = "a load must be published or abandoned, or everybody waits for it for ever"]
pub struct LoadTicket {
    pub(super) frame: u32,
    pub(super) incarnation: u32,
    pub(super) key: BlockKey,
    armed: Armed,
}

impl Pin {
    pub(super) fn new(frame: u32, incarnation: u32) -> Pin {
        Pin { frame, incarnation, armed: Armed("a Pin") }
    }

    /// The pin as a number, for a [`diskstream_ring::SendPlan`] to carry. The number is the pin now: spend it exactly once.
    #[must_use = "the token is the pin"]
    pub fn into_token(self) -> u64 {
        let token = u64::from(self.incarnation) << 32 | u64::from(self.frame);
        self.spend();
        token
    }

    pub(super) fn from_token(token: u64) -> Pin {
        let incarnation = u32::try_from(token >> 32).expect("32 bits are left");
        let frame = u32::try_from(token & 0xffff_ffff).expect("32 bits are left");
        Pin::new(frame, incarnation)
    }

    pub(super) fn spend(self) {
        std::mem::forget(self.armed);
    }
}

impl LoadTicket {
    pub(super) fn new(frame: u32, incarnation: u32, key: BlockKey) -> LoadTicket {
        LoadTicket { frame, incarnation, key, armed: Armed("a LoadTicket") }
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

/// Goes off when it is dropped; spent values forget it.
#[derive(Debug)]
struct Armed(&'static str);

impl Drop for Armed {
    fn drop(&mut self) {
        if cfg!(debug_assertions) && !std::thread::panicking() {
            panic!("{} was dropped instead of given back", self.0);
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
