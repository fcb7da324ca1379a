//! Blocks that are loaded before anybody asks for them. They take the way of a miss - one load of a block at a time, checked
//! against its hash - but never its place: a quarter of the flights at most, none while misses have half of them, and none that
//! the cache has no frame for.

use diskstream_wire::time::Nanos;
use diskstream_wire::{Flags, Read};

use super::load::next_piece;
use super::record::BOOT_FOR;
use super::{Outbox, Shard};
use crate::cache::{BlockKey, Lookup};

/// What became of a wish to have a block early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// It is being loaded now.
    Begun,
    /// It is here, or on its way, or nothing to load: all zeros, or past the end.
    Needless,
    /// Misses need the room; or the vDisk is out of service.
    NoRoom,
}

impl Shard {
    /// Follows what a session reads, and loads what it is likely to ask for next. After the read has found its own blocks, which
    /// come first.
    #[inline]
    pub(super) fn look_ahead(&mut self, session: u32, read: &Read, now: Nanos, out: &mut Outbox) {
        // What was asked before, or of another node, says nothing about what comes.
        if read.flags.has(Flags::AGAIN) || read.flags.has(Flags::HEDGED) {
            return;
        }
        let shift = self.shared.cache.block_bytes().trailing_zeros();
        let first = read.offset >> shift;
        let last = (read.offset + u64::from(read.length) - 1) >> shift;
        if self.sessions.ahead_mut(session).boots() {
            self.record_boot(session, first, last, now);
        }
        if !self.shared.limits.read_ahead {
            return;
        }
        for block in first..=last {
            if let Some((from, count)) = self.sessions.ahead_mut(session).asks(block) {
                self.read_ahead(session, from, count, now, out);
            }
        }
    }

    /// A device that starts: what it reads is what the next ones will.
    fn record_boot(&mut self, session: u32, first: u64, last: u64, now: Nanos) {
        if now.since(self.sessions.cold(session).opened) >= BOOT_FOR {
            return self.sessions.ahead_mut(session).has_booted();
        }
        let entry = self.shared.vdisk(self.sessions.get(session).vdisk);
        match &entry.recorder {
            Some(recorder) => (first..=last).for_each(|block| recorder.note(block, now)),
            None => self.sessions.ahead_mut(session).has_booted(),
        }
    }

    #[cold]
    fn read_ahead(&mut self, session: u32, from: u32, count: u8, now: Nanos, out: &mut Outbox) {
        let (vdisk, generation) = {
            let session = self.sessions.get(session);
            (session.vdisk, session.generation)
        };
        for n in 0..count {
            let block = u64::from(from) + u64::from(n);
            match self.load_early(vdisk, BlockKey { generation, block }, now, out) {
                Early::Begun => self.counters.ahead_sequential.inc(),
                Early::Needless => {}
                Early::NoRoom => {
                    self.counters.ahead_no_room.inc();
                    return self.sessions.ahead_mut(session).take_back(count - n);
                }
            }
        }
    }

    /// Loads a block that nobody asked for, if nobody who asks for one suffers from it.
    pub(super) fn load_early(
        &mut self,
        vdisk: u32,
        key: BlockKey,
        now: Nanos,
        out: &mut Outbox,
    ) -> Early {
        let cache = &self.cache;
        let entry = self.shared.vdisk(vdisk);
        let block_bytes = cache.block_bytes() as u64;
        let start = key.block * block_bytes;
        let end = entry.size_bytes.min(start + block_bytes);
        if start >= end || cache.is_known(key) || self.flights.find(key).is_some() {
            return Early::Needless;
        }
        if next_piece(&*entry.map, start, end).is_none() {
            return Early::Needless;
        }
        if !entry.is_eligible() || !self.room_for_early(vdisk) {
            return Early::NoRoom;
        }
        let ticket = match cache.lookup(key) {
            Lookup::Load(ticket) => ticket,
            Lookup::Hit(pin) => {
                cache.unpin(pin);
                return Early::Needless;
            }
            Lookup::Wait => return Early::Needless,
            Lookup::Full => return Early::NoRoom,
        };
        let flight = self.add_flight(vdisk, key, now);
        self.flights.begin_early(flight);
        let progress = self.begin(flight, ticket, now, out);
        self.go_on(flight, progress, now, out);
        Early::Begun
    }

    /// Whether there are so few flights that one more that nobody waits for harms nobody; and the store of the vDisk answers.
    pub(super) fn room_for_early(&self, vdisk: u32) -> bool {
        let all = usize::from(self.shared.limits.flights_max);
        self.flights.early() < all.div_ceil(4)
            && self.flights.len() < all.div_ceil(2)
            && !self.flights.is_full()
            && !self.stores.is_busy(self.store_of(vdisk))
            && !self.flights.iter().any(|(_, flight)| flight.vdisk == vdisk && flight.overdue)
    }
}
