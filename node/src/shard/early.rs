//! Blocks that are loaded before anybody asks for them. They take the way of a miss - one load of a block at a time, checked
//! against its hash - but never its place: they have a quarter of their store's flights to themselves, none is begun while half of
//! the store's flights are taken or one of them is overdue, and none that the cache has no frame for.

use diskstream_wire::time::Nanos;
use diskstream_wire::{Flags, Read};

use super::flights::Flight;
use super::load::next_piece;
use super::record::BOOT_FOR;
use super::{Outbox, Shard};
use crate::cache::{BlockKey, Known, Lookup};

/// What became of a wish to have a block early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Early {
    /// It is being loaded now.
    Begun,
    /// It is here, or nothing to load: all zeros, or past the end.
    Here,
    /// Somebody loads it already.
    OnItsWay,
    /// Misses need the room, or every frame is in use; or the vDisk is out of service.
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
        let opened = self.sessions.cold(session).opened;
        if now.since(opened) >= BOOT_FOR {
            return self.sessions.ahead_mut(session).has_booted();
        }
        let entry = self.shared.vdisk(self.sessions.get(session).vdisk);
        match &entry.recorder {
            Some(recorder) => {
                recorder.boots(opened, now);
                (first..=last).for_each(|block| recorder.note(block));
            }
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
            match self.load_early(vdisk, BlockKey { generation, block }, None, now, out) {
                Early::Begun => self.counters.ahead_sequential.inc(),
                Early::Here | Early::OnItsWay => {}
                Early::NoRoom => {
                    self.counters.ahead_no_room.inc();
                    return self.sessions.ahead_mut(session).take_back(count - n);
                }
            }
        }
    }

    /// Loads a block that nobody asked for, if nobody who asks for one suffers from it; with its place, if it is one of a list.
    pub(super) fn load_early(
        &mut self,
        vdisk: u32,
        key: BlockKey,
        listed: Option<u32>,
        now: Nanos,
        out: &mut Outbox,
    ) -> Early {
        let cache = &self.cache;
        let entry = self.shared.vdisk(vdisk);
        let block_bytes = cache.block_bytes() as u64;
        let start = key.block * block_bytes;
        let end = entry.size_bytes.min(start + block_bytes);
        if start >= end {
            return Early::Here;
        }
        match cache.known(key) {
            Some(Known::Here) => return Early::Here,
            Some(Known::OnItsWay) => return Early::OnItsWay,
            // Another shard had it, and its message is still on its way.
            None if self.flights.find(key).is_some() => return Early::OnItsWay,
            None => {}
        }
        if next_piece(&*entry.map, start, end).is_none() {
            return Early::Here;
        }
        if !entry.is_eligible() || !self.room_for_early(vdisk) {
            return Early::NoRoom;
        }
        let ticket = match cache.lookup(key) {
            Lookup::Load(ticket) => ticket,
            Lookup::Hit(pin) => {
                cache.unpin(pin);
                return Early::Here;
            }
            Lookup::Wait => return Early::OnItsWay,
            Lookup::Full => return Early::NoRoom,
        };
        let new = Flight::new(key, vdisk, self.store_of(vdisk), now);
        let flight = self.add_flight(new.listed_at(listed));
        let progress = self.begin(flight, ticket, now, out);
        self.go_on(flight, progress, now, out);
        Early::Begun
    }

    /// Whether the vDisk's store answers, and has so few flights that one more that nobody waits for harms nobody.
    pub(super) fn room_for_early(&self, vdisk: u32) -> bool {
        let store = self.store_of(vdisk);
        let of = self.flights.of(store);
        usize::from(of.early) < self.stores.early_max()
            && usize::from(of.all) < self.stores.half_share()
            && of.overdue == 0
            && !self.store_hangs(vdisk)
            && !self.flights.is_full()
            && !self.stores.is_busy(store)
    }
}
