//! A shard's access to the cache: everything that takes or gives back a promise.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use diskstream_wire::limits::UNIT_BYTES;

use super::frame::Phase;
use super::index::Insertion;
use super::pins::Pins;
use super::sync::{self, Mistake, Relax};
use super::{BlockKey, Cache, LoadTicket, Lookup, Pin, Purpose, WaitingShards};

/// The cache as one shard uses it. There is one for each shard number at a time, and one thread uses it at a time: that is why a
/// pin costs no read-modify-write. What needs no promise is the [`Cache`]'s own, which this derefs to.
pub struct ShardCache {
    pub(super) cache: Arc<Cache>,
    pins: Pins,
    /// May move to another thread, may not be shared.
    not_sync: PhantomData<Cell<()>>,
}

enum Probe {
    Settled(Lookup),
    /// The key's frame is changing its phase.
    Unsettled,
    Absent,
}

impl Deref for ShardCache {
    type Target = Cache;

    fn deref(&self) -> &Cache {
        &self.cache
    }
}

impl ShardCache {
    pub(super) fn new(cache: Arc<Cache>, shard: u16) -> ShardCache {
        let pins = cache.pins.take(shard);
        ShardCache { cache, pins, not_sync: PhantomData }
    }

    /// Finds a block. See [`Lookup`].
    #[inline]
    pub fn lookup(&self, key: BlockKey) -> Lookup {
        let hash = key.hash();
        match self.probe(key, hash) {
            Probe::Settled(lookup) => lookup,
            Probe::Unsettled | Probe::Absent => self.miss(key, hash),
        }
    }

    /// A lookup of `key` comes soon, and [`Cache::foresee`] was called for it: asks for the lines of its frame.
    #[inline]
    pub fn foresee_frame(&self, key: BlockKey, unit: usize) {
        let Some(number) = self.index.candidates(key.hash()).next() else { return };
        let frame = number as usize;
        diskstream_ring::prefetch(&self.frames[frame]);
        diskstream_ring::prefetch(&self.zeros[frame * self.zero_words]);
        diskstream_ring::prefetch(&self.sums[frame * self.units + unit.min(self.units - 1)]);
        self.pins.foresee(number);
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
        self.sum_units(&mut ticket);
        // Before the frame is ready: nobody evicts it before it has our pin.
        self.pins.add(ticket.frame);
        let frame = &self.frames[ticket.frame as usize];
        let waiters = frame.publish(ticket.incarnation, self.policy.epoch(), purpose);
        self.policy.admit(ticket.frame, ticket.key.hash(), purpose);
        let pin = Pin::new(ticket.frame, ticket.incarnation, self.pins.shard());
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
        self.assert_ours(pin);
        assert!(self.pins.holds(pin.frame), "a pin that was given back");
        self.pins.add(pin.frame);
        Pin::new(pin.frame, pin.incarnation, pin.shard)
    }

    /// Gives a pin back.
    ///
    /// # Panics
    /// When it is another shard's, or the shard holds no pin on that frame.
    #[inline]
    pub fn unpin(&self, pin: Pin) {
        self.assert_ours(&pin);
        self.pins.remove(pin.frame);
        pin.spend();
    }

    /// Gives back a pin that went along as a token ([`Pin::into_token`]). Each token is spent once; a second time is caught
    /// as long as this shard has no other pin on the frame, and in debug builds when the frame was reused since.
    #[inline]
    pub fn unpin_token(&self, token: u64) {
        self.unpin(Pin::from_token(token));
    }

    #[inline]
    fn assert_ours(&self, pin: &Pin) {
        assert!(pin.shard == self.pins.shard(), "a pin of shard {}", pin.shard);
        debug_assert!(
            self.frames[pin.frame as usize].is_pinned_by(pin),
            "a pin was given back twice, or is of another cache"
        );
    }

    #[inline]
    fn probe(&self, key: BlockKey, hash: u64) -> Probe {
        for number in self.index.candidates(hash) {
            let frame = &self.frames[number as usize];
            if frame.key() != key {
                continue;
            }
            if let Some(incarnation) = self.pin(number, key) {
                if frame.touch(self.policy.epoch()) {
                    self.policy.ahead_used();
                }
                return Probe::Settled(Lookup::Hit(Pin::new(
                    number,
                    incarnation,
                    self.pins.shard(),
                )));
            }
            if frame.wait(key, self.pins.shard()) {
                return Probe::Settled(Lookup::Wait);
            }
            return Probe::Unsettled;
        }
        Probe::Absent
    }

    /// Pins a frame if it is ready and holds `key`; gives the incarnation. Writes the shard's own table and nothing else.
    #[inline]
    pub(super) fn pin(&self, number: u32, key: BlockKey) -> Option<u32> {
        let frame = &self.frames[number as usize];
        if self.pins.holds(number) {
            // A frame that we hold keeps its key, and the key was seen under that hold.
            self.pins.add(number);
            return Some(frame.state().incarnation());
        }
        self.pins.announce(number);
        let state = frame.state_after_announcement();
        // The key is read again: a ready frame with a pin is not evicted, so this is the key until the unpin.
        let same = sync::planted(Mistake::KeyNotReread) || frame.key() == key;
        if state.phase() == Phase::Ready && same {
            return Some(state.incarnation());
        }
        self.pins.remove(number);
        None
    }

    /// Everything but a plain hit.
    #[cold]
    fn miss(&self, key: BlockKey, hash: u64) -> Lookup {
        let mut relax = Relax::new();
        let mut spare = None;
        let found = loop {
            match self.probe(key, hash) {
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
            let hash_of = |number: u32| self.frames[number as usize].key().hash();
            let number = self.policy.evict(&self.frames, &self.cache.pins, hash_of)?;
            // First out of the index, then free: whoever finds a key in the index finds the frame that has it.
            self.index.remove(hash_of(number), number);
            self.frames[number as usize].release();
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

    /// Sums each unit of a block and notes which are zero, before it is published.
    fn sum_units(&self, ticket: &mut LoadTicket) {
        let frame = ticket.frame as usize;
        let bytes = &*self.memory.bytes_mut(ticket);
        let sums = &self.sums[frame * self.units..][..self.units];
        for (sum, unit) in sums.iter().zip(bytes.chunks_exact(UNIT_BYTES)) {
            sum.store(crc32c::crc32c(unit), Relaxed);
        }
        let zeros = &self.zeros[frame * self.zero_words..][..self.zero_words];
        for (word, units) in zeros.iter().zip(bytes.chunks(64 * UNIT_BYTES)) {
            word.store(zero_units(units), Relaxed);
        }
    }
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
