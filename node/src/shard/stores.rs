//! How many reads each store is asked at once. A *store* is what may hang as a whole: a file system, found by its device number.
//!
//! The bounds are the shard's own, so that no store needs to know what others do:
//!
//! * *Share*: with several stores, each may have only its share of the flights. A store that does not answer keeps those, and as many
//!   frames, and its vDisks' devices are told so; the others never notice. A quarter of the share is for what is loaded before
//!   anybody asks, the rest for misses: neither can take the other's.
//! * *Part*: a session may be the first to ask for at most twice as many blocks as its store has flights free (a dynamic threshold, as
//!   switches share their buffers by). One greedy session leaves a third of the misses' flights free, two a fifth, k of them a part of
//!   2k + 1: whoever comes finds room at once, and its part as soon as theirs have been read.
//! * *Depth*: reads that a store is asked at once. More flights than that wait here, misses before what is read ahead, the oldest
//!   first; in the kernel they would wait in the order in which they came, and past the device's queue in a worker thread each.

use diskstream_wire::ReadErrorCode;
use diskstream_wire::time::Nanos;

use super::limits::STORES_MAX;
use super::load::{BusyCause, Found};
use super::{DiskRead, Limits, Outbox, Shard};

/// One in so many flights of a store's share is for what is loaded before anybody asks. Guessed: 64 blocks of 64 KiB keep any disk
/// busy while nobody misses. A share of fewer than four has none: nothing is loaded early then.
const EARLY_PART: usize = 4;
/// A session may have so many flights for each that is free. Derived: with the usual 256 flights it is 128 for a session that is alone,
/// what 64 reads of 64 KiB across two blocks each need.
const PART_OF_FREE: usize = 2;

/// What each store is asked at this moment.
#[derive(Debug)]
pub(super) struct Stores {
    of: [Store; STORES_MAX],
    share: usize,
}

#[derive(Clone, Copy, Debug)]
struct Store {
    /// Reads that it is asked.
    reading: u16,
    /// Flights whose read waits for its turn.
    queued: u16,
    /// Reads that it may be asked at once.
    depth: u16,
    /// It has answered a read since the last one became overdue.
    answered: bool,
}

impl Stores {
    pub(super) fn new(limits: &Limits) -> Stores {
        let share = usize::from(limits.flights_max) / usize::from(limits.stores.max(1));
        let store = |depth| Store { reading: 0, queued: 0, depth, answered: true };
        Stores { of: limits.store_depths.map(store), share: share.max(1) }
    }

    /// Flights that nobody has asked for that a store may have.
    pub(super) fn early_max(&self) -> usize {
        self.share / EARLY_PART
    }

    /// Flights for misses that a store may have.
    fn misses_max(&self) -> usize {
        self.share - self.early_max()
    }

    /// More flights than this of a store, and nothing more is loaded early.
    pub(super) fn half_share(&self) -> usize {
        self.share.div_ceil(2)
    }

    /// A read of the store has become overdue.
    pub(super) fn set_silent(&mut self, store: u16) {
        self.of[usize::from(store)].answered = false;
    }

    /// The store has given something.
    pub(super) fn set_answered(&mut self, store: u16) {
        self.of[usize::from(store)].answered = true;
    }

    /// Whether flights of the store wait for their turn.
    pub(super) fn is_busy(&self, store: u16) -> bool {
        self.of[usize::from(store)].queued > 0
    }

    /// A read is to begin: true when it may now; else it is queued.
    fn begin(&mut self, store: u16) -> bool {
        let store = &mut self.of[usize::from(store)];
        let now = store.reading < store.depth;
        if now {
            store.reading += 1;
        } else {
            store.queued += 1;
        }
        now
    }

    /// Reads under way and waiting, for the invariants.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u16, u16)> {
        self.of.iter().map(|store| (store.reading, store.queued))
    }
}

impl Shard {
    /// Starts a flight's read, or lets it wait for its turn.
    pub(super) fn ask_store(&mut self, flight: u32, read: DiskRead, out: &mut Outbox) {
        let store = self.store_of(read.file.vdisk);
        if self.stores.begin(store) {
            self.counters.disk_reads.inc();
            out.reads.push(read);
        } else {
            self.counters.disk_queued.inc();
            self.flights.get_mut(flight).queued = Some(read);
        }
    }

    /// A read of the store has ended: the next one's turn.
    pub(super) fn store_answered(&mut self, vdisk: u32, now: Nanos, out: &mut Outbox) {
        let store = self.store_of(vdisk);
        self.stores.set_answered(store);
        let of = &mut self.stores.of[usize::from(store)];
        of.reading -= 1;
        if of.queued == 0 {
            return;
        }
        // Its turn goes to the next.
        of.queued -= 1;
        of.reading += 1;
        let waiting = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.queued.is_some() && flight.store == store);
        let next = waiting.min_by_key(|(_, flight)| (flight.is_early(), flight.started));
        let (index, _) = next.expect("queued reads are counted");
        let flight = self.flights.get_mut(index);
        let read = flight.queued.take().expect("it was just found");
        flight.loader.asked_at(now);
        self.counters.disk_reads.inc();
        out.reads.push(read);
    }

    pub(super) fn store_of(&self, vdisk: u32) -> u16 {
        self.shared.vdisk(vdisk).store
    }

    /// What a session is told that may not wait for another block now; none: it may.
    pub(super) fn refuses_miss(&self, session: u32) -> Option<Found> {
        let store = self.store_of(self.sessions.get(session).vdisk);
        let of = self.flights.of(store);
        let free = self.stores.misses_max().saturating_sub(of.asked());
        let part = free * PART_OF_FREE;
        if !self.flights.is_full() && self.flights.owned(session, store) < part {
            return None;
        }
        // A store that gives nothing any more is not busy: its devices have to know, to read at their other node.
        Some(match of.overdue > 0 && !self.stores.of[usize::from(store)].answered {
            true => Found::Failed(ReadErrorCode::StoreTimeout),
            false => Found::Busy(BusyCause::Flights),
        })
    }
}
