//! Blocks that reads of this shard wait for: loaded by this shard, or by another one.

use diskstream_wire::time::Nanos;

use super::DiskRead;
use super::jobs::List;
use super::limits::STORES_MAX;
use crate::cache::{BlockKey, LoadTicket};

/// The owner of a flight that nobody has asked for.
const NOBODY: u32 = u32::MAX;

/// Who loads a block.
#[derive(Debug)]
pub(super) enum Loader {
    /// This shard. The frame's bytes are in place up to `reading`; the disk read under way brings the next `wanted`.
    Us { ticket: LoadTicket, reading: usize, wanted: u32, asked: Nanos },
    /// Another shard of this node, which sends a message when it is done.
    Other,
}

impl Loader {
    /// The disk is asked only now.
    pub(super) fn asked_at(&mut self, now: Nanos) {
        if let Loader::Us { asked, .. } = self {
            *asked = now;
        }
    }
}

/// A block on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) key: BlockKey,
    pub(super) vdisk: u32,
    /// What the vDisk lies on.
    pub(super) store: u16,
    pub(super) loader: Loader,
    pub(super) started: Nanos,
    /// Jobs that wait, the oldest first.
    pub(super) waiters: List,
    /// When the next of its waiters is due for `ReadPending`.
    pub(super) pending_due: Nanos,
    /// A disk read that waits for its store's turn.
    pub(super) queued: Option<DiskRead>,
    /// Its disk read is one of those that its store may be asked at once.
    pub(super) has_turn: bool,
    /// Its place in a vDisk's [`super::Feed`], if that is why it is loaded.
    pub(super) listed: Option<u32>,
    /// The deadline has passed: whoever waited was told, whoever comes is told at once. Changed by [`Flights`] alone, which counts
    /// these, as it does those of each owner.
    overdue: bool,
    /// The session that asked first, or [`NOBODY`].
    owner: u32,
    /// It looks whether a store still hangs: in no share, and nobody's.
    probes: bool,
}

impl Flight {
    /// A block that another shard loads, until we know better, and that nobody has asked for.
    pub(super) fn new(key: BlockKey, vdisk: u32, store: u16, now: Nanos) -> Flight {
        Flight {
            key,
            vdisk,
            store,
            loader: Loader::Other,
            started: now,
            waiters: List::EMPTY,
            pending_due: Nanos::NEVER,
            queued: None,
            has_turn: false,
            listed: None,
            overdue: false,
            owner: NOBODY,
            probes: false,
        }
    }

    /// The same, only to see whether the store gives it.
    pub(super) fn probing(self) -> Flight {
        Flight { probes: true, ..self }
    }

    /// The same, for a session that asks.
    pub(super) fn asked_by(self, session: u32) -> Flight {
        Flight { owner: session, ..self }
    }

    /// The same, with its place in a list.
    pub(super) fn listed_at(self, listed: Option<u32>) -> Flight {
        Flight { listed, ..self }
    }

    /// Nobody has asked for it yet.
    pub(super) fn is_early(&self) -> bool {
        self.owner == NOBODY && !self.probes
    }

    /// It looks whether a store still hangs.
    pub(super) fn probes(&self) -> bool {
        self.probes
    }

    /// The session whose part it is of. A read that does not come back is no session's any more: it would never have its part again.
    fn counts_for(&self) -> Option<u32> {
        (self.owner != NOBODY && !self.overdue).then_some(self.owner)
    }

    /// Its deadline has passed.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue
    }
}

/// Flights of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfStore {
    /// All of them, but those that look whether it still hangs.
    pub(super) all: u16,
    /// Those that nobody has asked for.
    pub(super) early: u16,
    /// Those whose deadline has passed.
    pub(super) overdue: u16,
    /// Those that look whether it still hangs.
    pub(super) probes: u16,
}

impl OfStore {
    /// Those that somebody has asked for.
    pub(super) fn asked(self) -> usize {
        usize::from(self.all - self.early)
    }
}

/// Flights that one session was the first to ask for. By store too: the slot of a session that ended may be another's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    session: u32,
    store: u16,
    flights: u16,
}

/// The flights of a shard: a slab whose used slots are listed densely with their keys, so that finding a key is a walk
/// over at most [`super::Limits::flights_max`] × 24 bytes. Only misses walk.
#[derive(Debug)]
pub(super) struct Flights {
    slots: Vec<Slot>,
    free: Vec<u16>,
    used: Vec<(BlockKey, u16)>,
    of: [OfStore; STORES_MAX],
    /// Sessions that own flights, each with at least one; in no order.
    owners: Vec<Owner>,
    /// So many may be others than those that look whether a store still hangs.
    max: usize,
    /// Those that look.
    probes: usize,
}

#[derive(Debug)]
struct Slot {
    /// Counts the slot's uses, so that a token of an earlier one is recognised.
    serial: u32,
    flight: Option<Flight>,
}

impl Flights {
    /// Room for `max` flights, and for `probes` that look whether a store still hangs.
    pub(super) fn new(max: u16, probes: u16) -> Flights {
        let count = max + probes;
        Flights {
            slots: (0..count).map(|_| Slot { serial: 0, flight: None }).collect(),
            free: (0..count).rev().collect(),
            used: Vec::with_capacity(usize::from(count)),
            of: [OfStore::default(); STORES_MAX],
            owners: Vec::with_capacity(usize::from(count)),
            max: usize::from(max),
            probes: 0,
        }
    }

    /// Flights of a store.
    pub(super) fn of(&self, store: u16) -> OfStore {
        self.of[usize::from(store)]
    }

    /// Flights of a store that a session was the first to ask for. A walk over the sessions that wait, 12 bytes each.
    pub(super) fn owned(&self, session: u32, store: u16) -> usize {
        self.owner(session, store).map_or(0, |at| usize::from(self.owners[at].flights))
    }

    fn owner(&self, session: u32, store: u16) -> Option<usize> {
        self.owners.iter().position(|owner| owner.session == session && owner.store == store)
    }

    /// A session asks for it; true when nobody had.
    pub(super) fn want(&mut self, index: u32, session: u32) -> bool {
        let flight = self.get_mut(index);
        let was_early = flight.is_early();
        if was_early {
            flight.owner = session;
            let (store, counts_for) = (flight.store, flight.counts_for());
            self.of[usize::from(store)].early -= 1;
            self.own(counts_for, store);
        }
        was_early
    }

    fn own(&mut self, session: Option<u32>, store: u16) {
        let Some(session) = session else { return };
        match self.owner(session, store) {
            Some(at) => self.owners[at].flights += 1,
            None => self.owners.push(Owner { session, store, flights: 1 }),
        }
    }

    fn disown(&mut self, session: Option<u32>, store: u16) {
        let Some(session) = session else { return };
        let at = self.owner(session, store).expect("its owner is listed");
        self.owners[at].flights -= 1;
        if self.owners[at].flights == 0 {
            self.owners.swap_remove(at);
        }
    }

    /// The deadline has passed, or counts anew.
    pub(super) fn set_overdue(&mut self, index: u32, overdue: bool) {
        let flight = self.get_mut(index);
        let (store, before) = (flight.store, flight.counts_for());
        let was = std::mem::replace(&mut flight.overdue, overdue);
        let after = flight.counts_for();
        let count = &mut self.of[usize::from(store)].overdue;
        *count = *count + u16::from(overdue) - u16::from(was);
        self.disown(before, store);
        self.own(after, store);
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether there is room only for those that look whether a store still hangs.
    pub(super) fn is_full(&self) -> bool {
        self.used.len() - self.probes >= self.max
    }

    /// Takes a slot for a block that has none.
    pub(super) fn add(&mut self, flight: Flight) -> u32 {
        debug_assert!(self.find(flight.key).is_none(), "one flight for each block");
        let slot = self.free.pop().expect("the caller asked is_full");
        self.used.push((flight.key, slot));
        let of = &mut self.of[usize::from(flight.store)];
        of.all += u16::from(!flight.probes);
        of.probes += u16::from(flight.probes);
        of.early += u16::from(flight.is_early());
        of.overdue += u16::from(flight.overdue);
        self.probes += usize::from(flight.probes);
        self.own(flight.counts_for(), flight.store);
        let entry = &mut self.slots[usize::from(slot)];
        entry.serial = entry.serial.wrapping_add(1);
        entry.flight = Some(flight);
        u32::from(slot)
    }

    pub(super) fn remove(&mut self, index: u32) -> Flight {
        let slot = u16::try_from(index).expect("slots are numbered by u16");
        let at = self.used.iter().position(|&(_, used)| used == slot).expect("a used slot");
        self.used.swap_remove(at);
        self.free.push(slot);
        let flight = self.slots[usize::from(slot)].flight.take();
        let flight = flight.expect("a used slot has its flight");
        let of = &mut self.of[usize::from(flight.store)];
        of.all -= u16::from(!flight.probes);
        of.probes -= u16::from(flight.probes);
        of.early -= u16::from(flight.is_early());
        of.overdue -= u16::from(flight.overdue);
        self.probes -= usize::from(flight.probes);
        self.disown(flight.counts_for(), flight.store);
        flight
    }

    pub(super) fn find(&self, key: BlockKey) -> Option<u32> {
        self.used.iter().find(|(used, _)| *used == key).map(|&(_, slot)| u32::from(slot))
    }

    pub(super) fn get(&self, index: u32) -> &Flight {
        self.slots[index as usize].flight.as_ref().expect("a used slot has its flight")
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut Flight {
        self.slots[index as usize].flight.as_mut().expect("a used slot has its flight")
    }

    /// The flight's name on a disk read.
    pub(super) fn token(&self, index: u32) -> u64 {
        u64::from(self.slots[index as usize].serial) << 32 | u64::from(index)
    }

    /// The flight of a token.
    ///
    /// # Panics
    /// When the token is none of a flight under way: a completion that belongs to nobody is a broken invariant.
    pub(super) fn of_token(&self, token: u64) -> u32 {
        let index = u32::try_from(token & 0xffff_ffff).expect("32 bits");
        let slot = self.slots.get(index as usize).expect("a disk token names a flight");
        let serial = u32::try_from(token >> 32).expect("32 bits");
        assert!(slot.serial == serial && slot.flight.is_some(), "a disk read is done once");
        index
    }

    /// The flights at this moment; the `n`th, for walks that change them.
    pub(super) fn nth(&self, n: usize) -> Option<u32> {
        self.used.get(n).map(|&(_, slot)| u32::from(slot))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Flight)> {
        self.used.iter().map(|&(_, slot)| (u32::from(slot), self.get(u32::from(slot))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compares what is counted with what there is.
    fn check(flights: &Flights) {
        for store in 0..3 {
            let of = || flights.iter().map(|(_, f)| f).filter(|f| f.store == store);
            let counted = flights.of(store);
            assert_eq!(usize::from(counted.all), of().filter(|f| !f.probes()).count());
            assert_eq!(usize::from(counted.probes), of().filter(|f| f.probes()).count());
            assert_eq!(usize::from(counted.early), of().filter(|f| f.is_early()).count());
            assert_eq!(usize::from(counted.overdue), of().filter(|f| f.is_overdue()).count());
            for session in 0..4 {
                let owned = of().filter(|f| f.owner == session && !f.overdue).count();
                assert_eq!(flights.owned(session, store), owned);
            }
        }
        assert!(
            flights.owners.len() <= flights.len() && flights.owners.iter().all(|o| o.flights > 0)
        );
    }

    proptest! {
        #[test]
        fn counts_follow_whatever_becomes_of_flights(
            steps in proptest::collection::vec((0u8..5, 0usize..10, 0u32..4, 0u16..3), 0..200)
        ) {
            let mut flights = Flights::new(8, 2);
            for (number, (what, nth, session, store)) in (0..).zip(steps) {
                let at = flights.nth(nth);
                match (what, at) {
                    (0, _) if !flights.is_full() => {
                        let key = BlockKey { generation: 1, block: number };
                        let new = Flight::new(key, 0, store, Nanos::ZERO);
                        flights.add(if session == 3 { new } else { new.asked_by(session) });
                    }
                    (4, _) if flights.probes < 2 => {
                        let key = BlockKey { generation: 1, block: number };
                        flights.add(Flight::new(key, 0, store, Nanos::ZERO).probing());
                    }
                    (1, Some(at)) => drop(flights.remove(at)),
                    (2, Some(at)) => drop(flights.want(at, session)),
                    (3, Some(at)) => flights.set_overdue(at, session % 2 == 0),
                    _ => {}
                }
                check(&flights);
            }
        }
    }
}
