//! How many reads each store is asked at once. A *store* is what may hang as a whole: a file system, found by its device number.
//!
//! Two bounds, both the shard's own, so that no store needs to know what others do:
//!
//! * *Share*: with several stores, each may have only its share of the flights. A store that does not answer keeps those, and as many
//!   frames, and its vDisks' devices are told "busy"; the others never notice.
//! * *Depth*: reads that a store is asked at once. More flights than that wait here, misses before what is read ahead, the oldest
//!   first; in the kernel they would wait in the order in which they came, and past the device's queue in a worker thread each.

use diskstream_wire::time::Nanos;

use super::limits::STORES_MAX;
use super::{DiskRead, Limits, Outbox, Shard};

/// What each store is asked at this moment.
#[derive(Debug)]
pub(super) struct Stores {
    reading: [u16; STORES_MAX],
    /// Flights whose read waits for its turn.
    queued: [u16; STORES_MAX],
    depth: u16,
    share: usize,
}

impl Stores {
    pub(super) fn new(limits: &Limits) -> Stores {
        let share = usize::from(limits.flights_max) / usize::from(limits.stores.max(1));
        Stores {
            reading: [0; STORES_MAX],
            queued: [0; STORES_MAX],
            depth: limits.store_depth,
            share: share.max(1),
        }
    }

    /// Flights that a store may have.
    pub(super) fn share(&self) -> usize {
        self.share
    }

    /// Whether flights of the store wait for their turn.
    pub(super) fn is_busy(&self, store: u16) -> bool {
        self.queued[usize::from(store)] > 0
    }

    /// A read is to begin: true when it may now; else it is queued.
    fn begin(&mut self, store: u16) -> bool {
        let at = usize::from(store);
        if self.reading[at] < self.depth {
            self.reading[at] += 1;
            return true;
        }
        self.queued[at] += 1;
        false
    }

    /// Reads under way and waiting, for the invariants.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u16, u16)> {
        self.reading.iter().copied().zip(self.queued.iter().copied())
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
        let at = usize::from(store);
        self.stores.reading[at] -= 1;
        if self.stores.queued[at] == 0 {
            return;
        }
        let waiting = self.flights.iter().filter(|(_, flight)| {
            flight.queued.is_some_and(|read| self.store_of(read.file.vdisk) == store)
        });
        let next = waiting.min_by_key(|(_, flight)| (flight.is_early(), flight.started));
        let (index, _) = next.expect("queued reads are counted");
        let flight = self.flights.get_mut(index);
        let read = flight.queued.take().expect("it was just found");
        flight.loader.asked_at(now);
        self.stores.queued[at] -= 1;
        self.stores.reading[at] += 1;
        self.counters.disk_reads.inc();
        out.reads.push(read);
    }

    pub(super) fn store_of(&self, vdisk: u32) -> u16 {
        self.shared.vdisk(vdisk).store
    }

    /// Flights of a store.
    pub(super) fn flights_of(&self, store: u16) -> usize {
        self.flights.iter().filter(|(_, flight)| self.store_of(flight.vdisk) == store).count()
    }
}
