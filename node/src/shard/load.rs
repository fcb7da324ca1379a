//! Blocks: found in the cache, loaded by this shard, or waited for.

use std::sync::atomic::Ordering::Relaxed;

use diskstream_ring::Errno;
use diskstream_vdisk::{BlockHashes, ImageMap, Place, Verdict};
use diskstream_wire::ReadErrorCode;
use diskstream_wire::limits::UNIT_BYTES;
use diskstream_wire::time::Nanos;

use super::flights::{Flight, Loader};
use super::jobs::{FLIGHT, SESSION};
use super::limits::PENDING_AFTER;
use super::read::to_usize;
use super::{DiskRead, Event, FileRef, Outbox, Shard, ShardMessage};
use crate::cache::{BlockKey, LoadTicket, Lookup, Pin, Purpose, WaitingShards};

/// What the length of a disk read is a multiple of: whole units satisfy every direct read.
const READ_ALIGNMENT: u32 = 4096;
const _: () = assert!(READ_ALIGNMENT as usize == UNIT_BYTES);

/// What a lookup comes to.
pub(super) enum Found {
    /// In the cache.
    Here(Pin),
    /// On its way: wait with this flight.
    Waits(u32),
    /// Come back later.
    Busy(BusyCause),
    /// The store does not give it: an error, or no answer in time.
    Failed(ReadErrorCode),
}

/// Which bound a read met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusyCause {
    SessionQueue,
    Jobs,
    Flights,
    CacheFull,
}

/// A run of bytes of a block that one disk read brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    file_index: u16,
    file_offset: u64,
    /// Where in the image.
    logical: u64,
    len: u64,
}

/// Which vDisk a block is loaded for, and why.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    vdisk: u32,
    early: bool,
    listed: Option<u32>,
}

/// How far the loading of a block came.
pub(super) enum Progress {
    /// A disk read is on its way.
    Reading(Loader),
    Published(Pin),
    Failed,
}

impl Shard {
    /// Looks a block up for a session, and starts to load it if it is nobody's yet.
    pub(super) fn find_block(
        &mut self,
        session: u32,
        key: BlockKey,
        now: Nanos,
        out: &mut Outbox,
    ) -> Found {
        let vdisk = self.sessions.get(session).vdisk;
        let ticket = match self.cache.lookup(key) {
            Lookup::Hit(pin) => {
                self.counters.cache_hits.inc();
                return Found::Here(pin);
            }
            Lookup::Wait => {
                self.counters.cache_coalesced.inc();
                return self.join_flight(session, key, now);
            }
            Lookup::Full => {
                self.counters.cache_full.inc();
                return match self.hangs_for(vdisk, key) {
                    true => Found::Failed(ReadErrorCode::StoreTimeout),
                    false => Found::Busy(BusyCause::CacheFull),
                };
            }
            Lookup::Load(ticket) => ticket,
        };
        self.counters.cache_misses.inc();
        let flight = match self.flights.find(key) {
            // A store that gives nothing any more is not busy: its devices have to know, to read at their other node.
            _ if self.hangs_for(vdisk, key) => {
                return self.ask_hung_store(vdisk, ticket, now, out);
            }
            // Another shard had it; its message is still on its way, and will find that we load it now.
            Some(flight) => flight,
            // However many of its flights a store keeps, where the image has nothing it need not be asked.
            None if self.store_hangs(vdisk) => return self.find_hole(vdisk, ticket, out),
            None => match self.refuses_miss(session) {
                Some(refusal) => {
                    self.hand_back(ticket, out);
                    return refusal;
                }
                None => self.add_flight(self.new_flight(session, key, now)),
            },
        };
        match self.begin(flight, ticket, now, out) {
            Progress::Reading(loader) => {
                self.flights.get_mut(flight).loader = loader;
                Found::Waits(flight)
            }
            Progress::Published(pin) => {
                let ours = self.cache.pin_again(&pin);
                self.arrived(flight, pin, now, out);
                Found::Here(ours)
            }
            Progress::Failed => {
                self.failed(flight);
                Found::Failed(ReadErrorCode::StoreError)
            }
        }
    }

    /// Whether nobody is to wait for a block, because its store hangs and it takes a disk read.
    fn hangs_for(&self, vdisk: u32, key: BlockKey) -> bool {
        self.store_hangs(vdisk) && {
            let entry = self.shared.vdisk(vdisk);
            let (start, valid) = self.extent_of(vdisk, key);
            next_piece(&*entry.map, start, start + valid as u64).is_some()
        }
    }

    /// Where a block begins, and how many of its bytes are the image's.
    fn extent_of(&self, vdisk: u32, key: BlockKey) -> (u64, usize) {
        let block_bytes = self.shared.cache.block_bytes() as u64;
        let start = key.block * block_bytes;
        (start, to_usize(block_bytes.min(self.shared.vdisk(vdisk).size_bytes - start)))
    }

    /// Whether its hashes, or at least its unchanged file, vouch for what a vDisk's store gives.
    fn is_vouched_for(&self, vdisk: u32) -> bool {
        let entry = self.shared.vdisk(vdisk);
        let block_bytes = self.shared.cache.block_bytes() as u64;
        (entry.hashes.is_some() && BlockHashes::can_verify(block_bytes)) || entry.is_eligible()
    }

    /// A block of which the image has nothing: zeros, for which no store is asked.
    fn find_hole(&mut self, vdisk: u32, mut ticket: LoadTicket, out: &mut Outbox) -> Found {
        let (_, valid) = self.extent_of(vdisk, ticket.key());
        self.shared.cache.load_bytes(&mut ticket)[..valid].fill(0);
        let progress = match self.is_vouched_for(vdisk) {
            true => self.publish(Wanted { vdisk, early: false, listed: None }, ticket, valid, out),
            false => self.give_up(ticket, out),
        };
        match progress {
            Progress::Published(pin) => Found::Here(pin),
            Progress::Failed | Progress::Reading(_) => Found::Failed(ReadErrorCode::StoreError),
        }
    }

    /// A block is not to be loaded after all. Nothing failed: whoever waits may look again.
    pub(super) fn hand_back(&mut self, ticket: LoadTicket, out: &mut Outbox) {
        let key = ticket.key();
        let waiting = self.cache.abandon(ticket);
        self.wake_shards(waiting, ShardMessage::Loaded(key), out);
    }

    fn join_flight(&mut self, session: u32, key: BlockKey, now: Nanos) -> Found {
        if self.hangs_for(self.sessions.get(session).vdisk, key) {
            return Found::Failed(ReadErrorCode::StoreTimeout);
        }
        match self.flights.find(key) {
            Some(flight) if self.flights.get(flight).is_overdue() => {
                Found::Failed(ReadErrorCode::StoreTimeout)
            }
            Some(flight) => Found::Waits(flight),
            None => match self.refuses_miss(session) {
                Some(refusal) => refusal,
                None => Found::Waits(self.add_flight(self.new_flight(session, key, now))),
            },
        }
    }

    /// A block that a session asks for.
    fn new_flight(&self, session: u32, key: BlockKey, now: Nanos) -> Flight {
        let vdisk = self.sessions.get(session).vdisk;
        Flight::new(key, vdisk, self.store_of(vdisk), now).asked_by(session)
    }

    pub(super) fn add_flight(&mut self, flight: Flight) -> u32 {
        let due = flight.started + self.shared.limits.disk_deadline;
        self.flights_due = self.flights_due.earlier(due);
        let flight = self.flights.add(flight);
        self.counters.flights.set(self.flights.len() as u64);
        flight
    }

    pub(super) fn remove_flight(&mut self, index: u32) -> Flight {
        let flight = self.flights.remove(index);
        self.counters.flights.set(self.flights.len() as u64);
        self.feeding.has_room();
        flight
    }

    /// Lets a job wait for a block.
    pub(super) fn wait(&mut self, index: u32, flight: u32) {
        let job = self.jobs.get_mut(index);
        job.flight = flight;
        let (session, due) = (job.session, job.arrived + PENDING_AFTER);
        let waiters = &mut self.flights.get_mut(flight).waiters;
        self.jobs.push::<FLIGHT>(waiters, index);
        self.jobs.push::<SESSION>(&mut self.sessions.get_mut(session).waiting, index);
        if self.flights.want(flight, session) {
            self.counters.ahead_late.inc();
        }
        let flight = self.flights.get_mut(flight);
        flight.pending_due = flight.pending_due.earlier(due);
        self.flights_due = self.flights_due.earlier(due);
    }

    /// Starts to load a block, with its whole time before it.
    pub(super) fn begin(
        &mut self,
        index: u32,
        ticket: LoadTicket,
        now: Nanos,
        out: &mut Outbox,
    ) -> Progress {
        self.flights.get_mut(index).started = now;
        self.flights.set_overdue(index, false);
        self.flights_due = self.flights_due.earlier(now + self.shared.limits.disk_deadline);
        self.load(index, ticket, 0, now, out)
    }

    /// Starts or goes on loading: the frame is in place up to `filled`.
    fn load(
        &mut self,
        flight: u32,
        mut ticket: LoadTicket,
        filled: usize,
        now: Nanos,
        out: &mut Outbox,
    ) -> Progress {
        let vdisk = self.flights.get(flight).vdisk;
        let token = self.flights.token(flight);
        let (start, valid) = self.extent_of(vdisk, ticket.key());
        if !self.is_vouched_for(vdisk) {
            return self.give_up(ticket, out);
        }
        let shared = &self.shared;
        let entry = shared.vdisk(vdisk);
        let Some(piece) = next_piece(&*entry.map, start + filled as u64, start + valid as u64)
        else {
            shared.cache.load_bytes(&mut ticket)[filled..valid].fill(0);
            return self.publish(self.wanted(flight), ticket, valid, out);
        };
        let reading = to_usize(piece.logical - start);
        shared.cache.load_bytes(&mut ticket)[filled..reading].fill(0);
        let wanted = u32::try_from(piece.len).expect("no longer than a block");
        // Whole units, so that a direct read is aligned at the end of an odd image too; the file ends before.
        let len = wanted.next_multiple_of(READ_ALIGNMENT);
        let read = DiskRead {
            file: FileRef { vdisk, file_index: piece.file_index },
            file_offset: piece.file_offset,
            arena_offset: shared.cache.load_offset(&ticket) + reading,
            len,
            token,
        };
        self.ask_store(flight, read, out);
        Progress::Reading(Loader::Us { ticket, reading, wanted, asked: now })
    }

    fn wanted(&self, flight: u32) -> Wanted {
        let flight = self.flights.get(flight);
        Wanted { vdisk: flight.vdisk, early: flight.is_early(), listed: flight.listed }
    }

    /// Checks a complete block against its hash and makes it visible.
    fn publish(
        &mut self,
        wanted: Wanted,
        mut ticket: LoadTicket,
        valid: usize,
        out: &mut Outbox,
    ) -> Progress {
        let Wanted { vdisk, early, listed } = wanted;
        let shared = &self.shared;
        let entry = shared.vdisk(vdisk);
        let key = ticket.key();
        let start = key.block * shared.cache.block_bytes() as u64;
        if let Some(hashes) = &entry.hashes
            && BlockHashes::can_verify(shared.cache.block_bytes() as u64)
        {
            let verdict = hashes.verify(start, &shared.cache.load_bytes(&mut ticket)[..valid]);
            if let Verdict::Mismatch { block } = verdict {
                let offset = u64::from(block) * diskstream_vdisk::VERIFY_BLOCK_BYTES;
                entry.damaged.store(true, Relaxed);
                if !entry.last_copy.load(Relaxed) {
                    entry.eligible.store(false, Relaxed);
                }
                self.counters.disk_mismatches.inc();
                self.event(Event::ContentDiffers { vdisk, offset }, out);
                // The sweep tells the sessions, here and at the other shards.
                self.sweep_due = Nanos::ZERO;
                return self.give_up(ticket, out);
            }
            assert!(
                verdict.is_match(),
                "whole blocks inside the image can be verified: {verdict:?}"
            );
        }
        let purpose = match early {
            _ if entry.kept => Purpose::Keep,
            true => Purpose::Ahead,
            false => Purpose::Demand,
        };
        // All blocks of what is kept are listed, in their order: also those that somebody has asked for.
        let kept = || u32::try_from(key.block).ok().filter(|_| entry.kept);
        if let Some(place) = listed.or_else(kept) {
            entry.feed.settle(place);
        }
        let (pin, waiting) = self.cache.publish(ticket, valid, purpose);
        self.wake_shards(waiting, ShardMessage::Loaded(key), out);
        Progress::Published(pin)
    }

    fn give_up(&mut self, ticket: LoadTicket, out: &mut Outbox) -> Progress {
        let key = ticket.key();
        let waiting = self.cache.abandon(ticket);
        self.wake_shards(waiting, ShardMessage::LoadFailed(key), out);
        Progress::Failed
    }

    fn wake_shards(&self, waiting: WaitingShards, message: ShardMessage, out: &mut Outbox) {
        let shards = u16::try_from(self.shared.io_endpoints.len()).expect("at most SHARDS_MAX");
        // A stray bit may name this shard, or one that never was.
        for shard in waiting.iter().filter(|&shard| shard != self.index && shard < shards) {
            out.messages.push((shard, message));
        }
    }

    pub(super) fn on_disk_done(
        &mut self,
        token: u64,
        result: Result<u32, Errno>,
        now: Nanos,
        out: &mut Outbox,
    ) {
        let index = self.flights.of_token(token);
        let flight = self.flights.get_mut(index);
        let (vdisk, key) = (flight.vdisk, flight.key);
        let loader = std::mem::replace(&mut flight.loader, Loader::Other);
        let Loader::Us { ticket, reading, wanted, asked } = loader else {
            unreachable!("a disk token names a flight of ours");
        };
        let latency = now.since(asked);
        self.counters.disk_latency.record(latency);
        // An eighth of each new value: smooth over some tens of reads.
        self.disk_us = (self.disk_us * 7 + latency.as_micros()) / 8;
        let offset = key.block * self.shared.cache.block_bytes() as u64 + reading as u64;
        // Before its next piece is asked for, if it has one: whoever waits longest comes first.
        self.store_answered(index, now, out);
        let progress = match result {
            Ok(got) if got >= wanted => {
                self.counters.disk_read_bytes.add(u64::from(got));
                self.load(index, ticket, reading + wanted as usize, now, out)
            }
            Ok(got) => {
                self.counters.disk_short.inc();
                self.event(Event::DiskShort { vdisk, offset, wanted, got }, out);
                self.give_up(ticket, out)
            }
            Err(errno) => {
                self.counters.disk_errors.inc();
                self.event(Event::DiskFailed { vdisk, offset, errno }, out);
                self.give_up(ticket, out)
            }
        };
        self.go_on(index, progress, now, out);
    }

    pub(super) fn go_on(&mut self, flight: u32, progress: Progress, now: Nanos, out: &mut Outbox) {
        match progress {
            Progress::Reading(loader) => self.flights.get_mut(flight).loader = loader,
            Progress::Published(pin) => self.arrived(flight, pin, now, out),
            Progress::Failed => self.failed(flight),
        }
    }

    pub(super) fn on_message(&mut self, message: ShardMessage, now: Nanos, out: &mut Outbox) {
        let key = match message {
            ShardMessage::Loaded(key) | ShardMessage::LoadFailed(key) => key,
            ShardMessage::ListStarted => return self.feeding.look(),
            ShardMessage::StoreChanged(store) => return self.look_at_store(store, now, out),
        };
        let flight = self.flights.find(key).filter(|&flight| {
            // What we load ourselves by now needs no word from others.
            matches!(self.flights.get(flight).loader, Loader::Other)
        });
        let Some(index) = flight else { return self.counters.stale_messages.inc() };
        // That the store gave something, if it did, the sender has said to all.
        if let ShardMessage::LoadFailed(_) = message {
            return self.failed(index);
        }
        match self.cache.lookup(key) {
            Lookup::Hit(pin) => self.arrived(index, pin, now, out),
            Lookup::Wait => {}
            Lookup::Load(ticket) if self.hangs_for(self.flights.get(index).vdisk, key) => {
                self.hand_back(ticket, out);
                self.abandon_flight(index);
            }
            // Evicted before we looked, or handed back: our turn to load it.
            Lookup::Load(ticket) => {
                let progress = self.begin(index, ticket, now, out);
                self.go_on(index, progress, now, out);
            }
            Lookup::Full => self.send_back(index),
        }
    }
}

/// The next run of bytes of `from..to` that one disk read brings: from the first byte that lies in a file to the last one
/// that follows it in the same file at the same distance. A hole between two such runs is read along: it gives zeros.
pub(super) fn next_piece(map: &dyn ImageMap, from: u64, to: u64) -> Option<Piece> {
    let mut piece: Option<Piece> = None;
    let mut ended = false;
    map.visit(from, to - from, &mut |extent| {
        let Place::File { file_index, file_offset } = extent.place else { return };
        match &mut piece {
            None => {
                let logical = extent.logical_offset;
                piece = Some(Piece { file_index, file_offset, logical, len: extent.len });
            }
            Some(piece) => {
                let distance = extent.logical_offset - piece.logical;
                if ended
                    || file_index != piece.file_index
                    || piece.file_offset.checked_add(distance) != Some(file_offset)
                {
                    ended = true;
                } else {
                    piece.len = extent.logical_end() - piece.logical;
                }
            }
        }
    });
    piece
}
