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
//! * *Hangs*: a store that has given no shard anything since a read was asked that now has had its whole time. All shards know it at
//!   once, nobody waits for it any more, and whoever asks reads elsewhere. Now and then a block that was asked for is read for
//!   nobody, to see whether it still does: what it was asked before may never come back. Such a look has a place of its own, whatever
//!   the bounds say of a store that keeps all that it was given.
//! * *Depth*: reads that a store is asked at once. More flights than that wait here, misses before what is read ahead, the oldest
//!   first; in the kernel they would wait in the order in which they came, and past the device's queue in a worker thread each. A read
//!   that has had its whole time, of a store that gives others, counts no more: it may be lost.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use diskstream_wire::ReadErrorCode;
use diskstream_wire::time::Nanos;

use super::flights::{Flight, Loader};
use super::limits::{PROBES_MAX, STORES_MAX};
use super::load::{BusyCause, Found};
use super::{DiskRead, Event, Limits, Outbox, Shard, ShardMessage};
use crate::cache::LoadTicket;

/// One in so many flights of a store's share is for what is loaded before anybody asks. Guessed: 64 blocks of 64 KiB keep any disk
/// busy while nobody misses. A share of fewer than four has none: nothing is loaded early then.
const EARLY_PART: usize = 4;
/// A session may have so many flights for each that is free. Derived: with the usual 256 flights it is 128 for a session that is alone,
/// what 64 reads of 64 KiB across two blocks each need.
const PART_OF_FREE: usize = 2;

/// How exactly shards tell each other when a store answered, so that they seldom write the line that they share. Guessed: small
/// beside the deadline of disk reads.
const ANSWER_GRAIN: Nanos = Nanos::from_millis(100);

/// Stores that hang, as the shards of a node find out.
#[derive(Debug, Default)]
pub struct HungStores {
    of: [Answers; STORES_MAX],
    names: Vec<String>,
}

#[derive(Debug, Default)]
struct Answers {
    hangs: AtomicBool,
    /// When it gave something last, to any shard, to [`ANSWER_GRAIN`].
    at: AtomicU64,
}

impl HungStores {
    /// Stores with these names, by their numbers; none hangs yet.
    #[must_use]
    pub fn named(names: Vec<String>) -> HungStores {
        HungStores { names, ..HungStores::default() }
    }

    /// The stores that have names: each its number and name, and whether it hangs.
    pub fn states(&self) -> impl Iterator<Item = (u16, &str, bool)> {
        (0..).zip(&self.names).map(|(store, name)| (store, name.as_str(), self.hangs(store)))
    }

    fn hangs(&self, store: u16) -> bool {
        self.of[usize::from(store)].hangs.load(Relaxed)
    }

    /// True when that is news. It is written only then: every read that a disk answers comes by here.
    pub(crate) fn set(&self, store: u16, hangs: bool) -> bool {
        let of = &self.of[usize::from(store)].hangs;
        of.load(Relaxed) != hangs && of.swap(hangs, Relaxed) != hangs
    }

    fn gave(&self, store: u16, now: Nanos) {
        let at = &self.of[usize::from(store)].at;
        if now.since(Nanos(at.load(Relaxed))) >= ANSWER_GRAIN {
            at.fetch_max(now.0, Relaxed);
        }
    }

    fn gave_since(&self, store: u16, then: Nanos) -> bool {
        self.of[usize::from(store)].at.load(Relaxed) > then.0
    }
}

/// What each store is asked at this moment.
#[derive(Debug)]
pub(super) struct Stores {
    of: [Store; STORES_MAX],
    share: usize,
    /// Stores that were found to hang during a walk over the flights, a bit each: what follows changes them.
    found: u16,
}
const _: () = assert!(STORES_MAX <= 16);

#[derive(Clone, Copy, Debug)]
struct Store {
    /// Reads that it is asked.
    reading: u16,
    /// Flights whose read waits for its turn.
    queued: u16,
    /// Reads that it may be asked at once.
    depth: u16,
    /// While it hangs: when it is asked again, to see whether it still does.
    probe_due: Nanos,
}

impl Stores {
    pub(super) fn new(limits: &Limits) -> Stores {
        let share = usize::from(limits.flights_max) / usize::from(limits.stores.max(1));
        let store = |depth| Store { reading: 0, queued: 0, depth, probe_due: Nanos::ZERO };
        Stores { of: limits.store_depths.map(store), share: share.max(1), found: 0 }
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

    /// Whether it is time to look if a store that hangs still does; the next time is so much later.
    fn probe_is_due(&mut self, store: u16, now: Nanos, every: Nanos) -> bool {
        let due = now >= self.of[usize::from(store)].probe_due;
        if due {
            self.probe_at(store, now + every);
        }
        due
    }

    fn probe_at(&mut self, store: u16, due: Nanos) {
        self.of[usize::from(store)].probe_due = due;
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
        let flight = self.flights.get_mut(flight);
        // What looks whether the store still hangs takes nobody's turn, and waits for none.
        if flight.probes() || self.stores.begin(flight.store) {
            flight.has_turn = !flight.probes();
            self.counters.disk_reads.inc();
            out.reads.push(read);
        } else {
            flight.queued = Some(read);
            self.counters.disk_queued.inc();
        }
    }

    /// A flight's read has ended: the next one's turn.
    pub(super) fn store_answered(&mut self, flight: u32, now: Nanos, out: &mut Outbox) {
        self.store_gave(self.flights.get(flight).vdisk, now, out);
        self.end_turn(flight, now, out);
    }

    /// A flight's read is none any more of those that its store is asked at once: the turn goes to the next.
    fn end_turn(&mut self, flight: u32, now: Nanos, out: &mut Outbox) {
        let flight = self.flights.get_mut(flight);
        if !std::mem::take(&mut flight.has_turn) {
            return;
        }
        let store = flight.store;
        let of = &mut self.stores.of[usize::from(store)];
        if of.queued == 0 {
            of.reading -= 1;
            return;
        }
        of.queued -= 1;
        let waiting = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.queued.is_some() && flight.store == store);
        let next = waiting.min_by_key(|(_, flight)| (flight.is_early(), flight.started));
        let (index, _) = next.expect("queued reads are counted");
        let flight = self.flights.get_mut(index);
        let read = flight.queued.take().expect("it was just found");
        flight.has_turn = true;
        flight.loader.asked_at(now);
        if flight.is_overdue() {
            // It was never asked: its time begins now.
            flight.started = now;
            self.flights.set_overdue(index, false);
            self.flights_due = self.flights_due.earlier(now + self.shared.limits.disk_deadline);
        }
        self.counters.disk_reads.inc();
        out.reads.push(read);
    }

    pub(super) fn store_of(&self, vdisk: u32) -> u16 {
        self.shared.vdisk(vdisk).store
    }

    /// A store has given something.
    fn store_gave(&mut self, vdisk: u32, now: Nanos, out: &mut Outbox) {
        let store = self.store_of(vdisk);
        self.shared.hung_stores.gave(store, now);
        if self.shared.hung_stores.set(store, false) {
            self.event(Event::StoreAnswers { vdisk }, out);
            self.tell_of_store(store, out);
            self.look_at_store(store, now, out);
        }
    }

    /// Whether nobody is to wait for what this store is asked.
    pub(super) fn store_hangs(&self, vdisk: u32) -> bool {
        self.shared.hung_stores.hangs(self.store_of(vdisk))
    }

    /// A flight that began at `started` has had its whole time. A store that has given nothing since hangs; one that has gives others
    /// their turn instead. Part of a walk over the flights.
    pub(super) fn judge_store(
        &mut self,
        flight: u32,
        started: Nanos,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let (store, vdisk) = (self.flights.get(flight).store, self.flights.get(flight).vdisk);
        if self.shared.hung_stores.gave_since(store, started) {
            self.end_turn(flight, now, out);
        } else if self.shared.hung_stores.set(store, true) {
            self.event(Event::StoreHangs { vdisk }, out);
            self.tell_of_store(store, out);
            self.stores.found |= 1 << store;
        }
    }

    fn tell_of_store(&self, store: u16, out: &mut Outbox) {
        let shards = u16::try_from(self.shared.io_endpoints.len()).expect("at most SHARDS_MAX");
        let others = (0..shards).filter(|&shard| shard != self.index);
        out.messages.extend(others.map(|shard| (shard, ShardMessage::StoreChanged(store))));
    }

    /// What the walk just done found out.
    pub(super) fn look_at_hung_stores(&mut self, now: Nanos, out: &mut Outbox) {
        let found = std::mem::take(&mut self.stores.found);
        for store in (0u16..).take(STORES_MAX).filter(|store| found & (1 << store) != 0) {
            self.look_at_store(store, now, out);
        }
    }

    /// A store hangs now, or answers again, as this shard or another found out.
    pub(super) fn look_at_store(&mut self, store: u16, now: Nanos, out: &mut Outbox) {
        if self.shared.hung_stores.hangs(store) {
            let every = self.probe_distance(store);
            self.stores.probe_at(store, now + every);
            self.wait_no_more(store, out);
        } else {
            // What it was asked before it hung, and has not given yet, may be lost.
            let mut n = 0;
            while let Some(index) = self.flights.nth(n) {
                n += 1;
                let flight = self.flights.get(index);
                if flight.store == store && flight.is_overdue() {
                    self.end_turn(index, now, out);
                }
            }
        }
    }

    /// Nobody waits for a store, and what it was not even asked gives its flights and frames back.
    fn wait_no_more(&mut self, store: u16, out: &mut Outbox) {
        let mut n = 0;
        while let Some(index) = self.flights.nth(n) {
            let flight = self.flights.get_mut(index);
            if flight.store != store {
                n += 1;
            } else if flight.queued.take().is_some() {
                self.stores.of[usize::from(store)].queued -= 1;
                let Loader::Us { ticket, .. } =
                    std::mem::replace(&mut flight.loader, Loader::Other)
                else {
                    unreachable!("a read that waits for its turn is ours");
                };
                self.hand_back(ticket, out);
                // Another comes to its place.
                self.abandon_flight(index);
            } else {
                self.give_up_waiting(index);
                n += 1;
            }
        }
    }

    /// How long after one look at a store that hangs comes the next: twice as long for each that did not come back.
    fn probe_distance(&self, store: u16) -> Nanos {
        Nanos(self.shared.limits.disk_deadline.0 << self.flights.of(store).probes)
    }

    /// What a session gets of a store that hangs: nothing. Its block is read for nobody if it is time to look whether the store still
    /// hangs. Such reads may never come back; there are few, and they have flights of their own.
    pub(super) fn ask_hung_store(
        &mut self,
        vdisk: u32,
        ticket: LoadTicket,
        now: Nanos,
        out: &mut Outbox,
    ) -> Found {
        let (store, key) = (self.store_of(vdisk), ticket.key());
        let room = self.flights.find(key).is_none() && self.flights.of(store).probes < PROBES_MAX;
        if room && self.stores.probe_is_due(store, now, self.probe_distance(store)) {
            let flight = self.add_flight(Flight::new(key, vdisk, store, now).probing());
            let progress = self.begin(flight, ticket, now, out);
            self.go_on(flight, progress, now, out);
        } else {
            self.hand_back(ticket, out);
        }
        Found::Failed(ReadErrorCode::StoreTimeout)
    }

    /// What a session is told that may not wait for another block now; none: it may.
    pub(super) fn refuses_miss(&self, session: u32) -> Option<Found> {
        let store = self.store_of(self.sessions.get(session).vdisk);
        let of = self.flights.of(store);
        if usize::from(of.overdue) >= self.stores.misses_max() {
            // All that it may be asked has had its time: that is no store to wait for.
            return Some(Found::Failed(ReadErrorCode::StoreTimeout));
        }
        let free = self.stores.misses_max().saturating_sub(of.asked());
        let part = free * PART_OF_FREE;
        if !self.flights.is_full() && self.flights.owned(session, store) < part {
            return None;
        }
        Some(Found::Busy(BusyCause::Flights))
    }
}
