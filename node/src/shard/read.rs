//! A read: is it valid, which of its units are zeros, which blocks hold the rest.

use std::sync::Arc;

use diskstream_vdisk::Place;
use diskstream_wire::limits::{
    READ_BYTES_MAX, READ_UNITS_MAX, SECTOR_BYTES, SINGLE_READ_BYTES_MAX, UNIT_BYTES,
};
use diskstream_wire::time::Nanos;
use diskstream_wire::{Capabilities, Flags, FragmentSize, Read, ReadErrorCode, SessionRole};

use super::fragments::{self, Part};
use super::jobs::{Data, NONE, NewJob, SESSION, Work};
use super::load::{BusyCause, Found};
use super::moment::Moment;
use super::session::{Phase, Session};
use super::{Asked, Named, Outbox, Shard, VdiskEntry};
use crate::cache::{BlockKey, Pin};

/// A valid read on its way to its answers.
pub(super) struct Reading {
    pub(super) session: u32,
    generation: u64,
    request_id: u64,
    arrived: Nanos,
    offset: u64,
    length: u32,
    attempt: u8,
    size: FragmentSize,
    single: bool,
    /// Fragments still without an answer.
    wanted: u64,
    /// Whether zeros may be marked.
    marks: bool,
    /// Units to mark.
    zero: u16,
    /// Why something of it must come back.
    busy: Option<BusyCause>,
    /// Something of it failed.
    failed: Option<ReadErrorCode>,
    /// It was waiting already.
    pending: bool,
}

impl Reading {
    /// Something of it will not come. An error of the store outweighs one that is only late.
    fn fail(&mut self, code: ReadErrorCode) {
        if self.failed != Some(ReadErrorCode::StoreError) {
            self.failed = Some(code);
        }
    }

    fn job(&self, work: Work) -> NewJob {
        NewJob {
            session: self.session,
            request_id: self.request_id,
            arrived: self.arrived,
            offset: self.offset,
            attempt: self.attempt,
            work,
        }
    }

    fn data(&self, wanted: u64, pin: Option<Pin>, straddles: bool) -> Work {
        Work::Data(Data {
            wanted,
            pin,
            second: None,
            length: self.length,
            size: self.size,
            straddles,
            single: self.single,
            pended: false,
        })
    }
}

impl Shard {
    pub(super) fn on_read(&mut self, read: &Read, asked: &Asked, now: Nanos, out: &mut Outbox) {
        let named = Named { request_id: read.request_id, ..Named::new(read.session, read.tag) };
        let Some(index) = self.recognise(named, asked, now, out) else { return };
        if self.pause.in_backlog() {
            // Its device has asked again meanwhile, or elsewhere; an answer now would only delay those that are wanted.
            return self.counters.reads_stale.inc();
        }
        let vdisk = self.vdisk_of(index);
        if let Err(code) = check(read, self.sessions.get(index), vdisk) {
            let work = Work::Error { length: read.length, code };
            let (request_id, offset, attempt) = (read.request_id, read.offset, read.attempt);
            let new = NewJob { session: index, request_id, arrived: now, offset, attempt, work };
            self.count_read_error(code);
            return self.queue_small(new, out);
        }
        self.count_read(read);
        let session = self.sessions.get_mut(index);
        (session.reads, session.read_at) = (session.reads + 1, Moment::at(now));
        if session.says == SessionRole::Standby && !read.flags.has(Flags::HEDGED) {
            self.set_role(index, SessionRole::Serving, now, out);
        }
        let session = self.sessions.get(index);
        let single = read.flags.has(Flags::SINGLE);
        let mut reading = Reading {
            session: index,
            generation: read.generation,
            request_id: read.request_id,
            arrived: now,
            offset: read.offset,
            length: read.length,
            attempt: read.attempt,
            size: read.fragment_size,
            single,
            wanted: if single { 1 } else { read.wanted },
            marks: !single && session.capabilities().has(Capabilities::ZERO_MARKS),
            zero: 0,
            busy: None,
            failed: None,
            pending: false,
        };
        self.join_earlier(&mut reading, read.flags);
        self.mark_holes(&mut reading);
        self.find_blocks(&mut reading, now, out);
        self.answer_small(&reading, out);
        self.look_ahead(index, read, now, out);
    }

    fn count_read(&self, read: &Read) {
        let c = &self.counters;
        c.reads.inc();
        let marks = [
            (Flags::AGAIN, &c.reads_again),
            (Flags::SINGLE, &c.reads_single),
            (Flags::HEDGED, &c.reads_hedged),
        ];
        // Most reads carry no mark at all.
        if read.flags != Flags::NONE {
            marks.iter().filter(|(flag, _)| read.flags.has(*flag)).for_each(|(_, c)| c.inc());
        }
    }

    pub(super) fn count_read_error(&self, code: ReadErrorCode) {
        let c = &self.counters;
        match code {
            ReadErrorCode::StoreError | ReadErrorCode::Other(_) => c.read_errors_store.inc(),
            ReadErrorCode::StoreTimeout => c.read_errors_timeout.inc(),
            ReadErrorCode::OutOfRange => c.read_errors_range.inc(),
            ReadErrorCode::WrongGeneration => c.read_errors_generation.inc(),
            ReadErrorCode::NotNegotiated => c.read_errors_negotiation.inc(),
        }
    }

    /// A repeat wants nothing twice that its first copy is still about to get. Waiting jobs are looked at for every read
    /// (the network repeats datagrams too); queued ones only for a read that says that it is a repeat, because a fast
    /// device has many, and an unmarked duplicate harms only itself.
    fn join_earlier(&mut self, reading: &mut Reading, flags: Flags) {
        let session = self.sessions.get(reading.session);
        let mut joined = false;
        let mut at = session.waiting.head;
        while at != NONE {
            let job = self.jobs.get_mut(at);
            if job.request_id == reading.request_id
                && job.offset == reading.offset
                && let Work::Data(data) = &mut job.work
                && data.wanted & reading.wanted != 0
                && data.size == reading.size
            {
                job.attempt = reading.attempt;
                data.pended = true;
                reading.wanted &= !data.wanted;
                reading.pending = true;
                joined = true;
            }
            at = self.jobs.next::<SESSION>(at);
        }
        if flags.has(Flags::AGAIN) {
            for at in self.jobs.iter::<SESSION>(session.queue) {
                let job = self.jobs.get(at);
                if job.request_id == reading.request_id
                    && job.offset == reading.offset
                    && let Work::Data(data) = &job.work
                    && data.size == reading.size
                    && data.wanted & reading.wanted != 0
                {
                    reading.wanted &= !data.wanted;
                    joined = true;
                }
            }
        }
        if joined {
            self.counters.reads_joined.inc();
        }
    }

    /// Takes the units that lie in holes out of what is wanted, and marks them.
    fn mark_holes(&self, reading: &mut Reading) {
        if !reading.marks || reading.wanted == 0 {
            return;
        }
        let count = reading.length as usize / UNIT_BYTES;
        let mut holes = 0u16;
        let vdisk = self.vdisk_of(reading.session);
        vdisk.map.visit(reading.offset, u64::from(reading.length), &mut |extent| {
            if extent.place == Place::Zero {
                let first = to_usize(extent.logical_offset - reading.offset) / UNIT_BYTES;
                let end = to_usize(extent.logical_end() - reading.offset).div_ceil(UNIT_BYTES);
                holes |= fragments::units(end) & !fragments::units(first);
            }
        });
        if holes == 0 {
            return;
        }
        self.mark(reading, holes, count);
    }

    /// Marks units instead of sending them, as far as whole fragments allow.
    fn mark(&self, reading: &mut Reading, zero: u16, count: usize) {
        let zero = fragments::markable(reading.size, zero, count)
            & fragments::units_of(reading.size, reading.wanted, count);
        reading.zero |= zero;
        reading.wanted &= !fragments::of_units(reading.size, zero);
    }

    /// Looks up each block that holds something of what is wanted.
    fn find_blocks(&mut self, reading: &mut Reading, now: Nanos, out: &mut Outbox) {
        let block_bytes = self.shared.cache.block_bytes() as u64;
        let end = reading.offset + u64::from(reading.length);
        let count = (reading.length as usize).div_ceil(UNIT_BYTES);
        let mut from = reading.offset;
        while from < end && reading.wanted != 0 {
            let block = from / block_bytes;
            let to = end.min((block + 1) * block_bytes);
            let part = if reading.single {
                Part { whole: 1, straddling: 0 }
            } else {
                let first = to_usize(from - reading.offset) / UNIT_BYTES;
                let end = to_usize(to - reading.offset) / UNIT_BYTES;
                fragments::part(reading.size, first, end, count)
            };
            let whole = part.whole & reading.wanted;
            if whole != 0 {
                self.find_whole(reading, block, whole, now, out);
            }
            let straddling = part.straddling & reading.wanted;
            if straddling != 0 {
                self.find_straddling(reading, block, straddling, now, out);
            }
            from = to;
        }
    }

    /// Whether the session and the shard have room for one more job.
    fn room(&self, reading: &Reading, fragments: u64) -> Result<(), BusyCause> {
        let limits = &self.shared.limits;
        let session = self.sessions.get(reading.session);
        if session.jobs >= limits.session_jobs_max
            || session.queued_fragments + fragments.count_ones() > limits.session_fragments_max
        {
            return Err(BusyCause::SessionQueue);
        }
        if self.jobs.is_full() { Err(BusyCause::Jobs) } else { Ok(()) }
    }

    fn find_whole(
        &mut self,
        reading: &mut Reading,
        block: u64,
        whole: u64,
        now: Nanos,
        out: &mut Outbox,
    ) {
        if let Err(cause) = self.room(reading, whole) {
            reading.busy = Some(cause);
            return;
        }
        let key = BlockKey { generation: reading.generation, block };
        match self.find_block(reading.session, key, now, out) {
            Found::Here(pin) => {
                if reading.marks {
                    let zero = self.zero_units(&pin, reading.offset, reading.length, block);
                    if zero != 0 {
                        self.mark(reading, zero, reading.length as usize / UNIT_BYTES);
                    }
                }
                let whole = whole & reading.wanted;
                if whole == 0 {
                    return self.cache.unpin(pin);
                }
                self.foresee_reply(&pin, reading.offset, reading.length, block);
                let job = self.add_job(reading, whole, Some(pin), false);
                self.enqueue(job);
            }
            Found::Waits(flight) => {
                let job = self.add_job(reading, whole, None, false);
                self.wait(job, flight);
            }
            Found::Busy(cause) => reading.busy = Some(cause),
            Found::Failed(code) => reading.fail(code),
        }
    }

    fn find_straddling(
        &mut self,
        reading: &mut Reading,
        block: u64,
        fragment: u64,
        now: Nanos,
        out: &mut Outbox,
    ) {
        if let Err(cause) = self.room(reading, fragment) {
            reading.busy = Some(cause);
            return;
        }
        let key = BlockKey { generation: reading.generation, block };
        match self.find_block(reading.session, key, now, out) {
            Found::Here(first) => {
                let second = BlockKey { block: block + 1, ..key };
                match self.find_block(reading.session, second, now, out) {
                    Found::Here(second) => {
                        let job = self.add_job(reading, fragment, Some(first), true);
                        if let Work::Data(data) = &mut self.jobs.get_mut(job).work {
                            data.second = Some(second);
                        }
                        self.enqueue(job);
                    }
                    Found::Waits(flight) => {
                        let job = self.add_job(reading, fragment, Some(first), true);
                        self.wait(job, flight);
                    }
                    other => {
                        self.cache.unpin(first);
                        match other {
                            Found::Busy(cause) => reading.busy = Some(cause),
                            Found::Failed(code) => reading.fail(code),
                            Found::Here(_) | Found::Waits(_) => unreachable!("matched above"),
                        }
                    }
                }
            }
            Found::Waits(flight) => {
                let job = self.add_job(reading, fragment, None, true);
                self.wait(job, flight);
            }
            Found::Busy(cause) => reading.busy = Some(cause),
            Found::Failed(code) => reading.fail(code),
        }
    }

    fn add_job(
        &mut self,
        reading: &mut Reading,
        wanted: u64,
        pin: Option<Pin>,
        straddles: bool,
    ) -> u32 {
        let job = self.jobs.add(reading.job(reading.data(wanted, pin, straddles)));
        self.sessions.get_mut(reading.session).jobs += 1;
        job.expect("asked for room just now")
    }

    /// Units of a read, counted from its first byte, that are zero in this block.
    pub(super) fn zero_units(&self, pin: &Pin, offset: u64, length: u32, block: u64) -> u16 {
        let block_bytes = self.shared.cache.block_bytes() as u64;
        let start = block * block_bytes;
        let from = offset.max(start);
        let to = (offset + u64::from(length)).min(start + block_bytes);
        let mut zero = 0;
        let mut at = from;
        while at < to {
            let unit = to_usize(at - start) / UNIT_BYTES;
            if self.shared.cache.unit_is_zero(pin, unit) {
                zero |= 1 << (to_usize(at - offset) / UNIT_BYTES);
            }
            at += UNIT_BYTES as u64;
        }
        zero
    }

    /// What a read gets besides its data: a mark for its zeros, and word of what it has to wait for.
    fn answer_small(&mut self, reading: &Reading, out: &mut Outbox) {
        if reading.zero != 0 {
            self.queue_small(reading.job(Work::Zero(reading.zero)), out);
        }
        if reading.pending {
            let waited_ms = self.longest_wait_ms(reading.session, reading.arrived);
            self.counters.read_pending.inc();
            self.queue_small(reading.job(Work::Pending { waited_ms }), out);
        }
        if let Some(code) = reading.failed {
            self.count_read_error(code);
            self.queue_small(reading.job(Work::Error { length: reading.length, code }), out);
        } else if let Some(cause) = reading.busy {
            let wait_ms = self.busy_wait_ms(cause);
            self.queue_small(reading.job(Work::Busy { wait_ms }), out);
        }
    }

    fn longest_wait_ms(&self, session: u32, now: Nanos) -> u32 {
        let waiting = self.sessions.get(session).waiting;
        let first = self.jobs.iter::<SESSION>(waiting).next().map(|job| self.jobs.get(job).arrived);
        first.map_or(0, |arrived| u32::try_from(now.since(arrived).as_millis()).unwrap_or(u32::MAX))
    }
}

/// Whether a read can be answered with bytes at all.
fn check(read: &Read, session: &Session, vdisk: &Arc<VdiskEntry>) -> Result<(), ReadErrorCode> {
    if read.generation != vdisk.generation {
        return Err(ReadErrorCode::WrongGeneration);
    }
    let length = read.length as usize;
    let end = read.offset.checked_add(u64::from(read.length)).ok_or(ReadErrorCode::OutOfRange)?;
    if read.flags.has(Flags::SINGLE) {
        return check_single(read, end, vdisk);
    }
    if session.phase != Phase::Open || length > READ_BYTES_MAX {
        return Err(ReadErrorCode::NotNegotiated);
    }
    let datagram = read.fragment_size.datagram_bytes();
    let jumbo = read.fragment_size.bytes() >= UNIT_BYTES;
    if datagram > usize::from(session.datagram_bytes)
        || (jumbo && !session.capabilities().has(Capabilities::JUMBO))
    {
        return Err(ReadErrorCode::NotNegotiated);
    }
    let whole_units = length.is_multiple_of(UNIT_BYTES)
        && read.offset.is_multiple_of(UNIT_BYTES as u64)
        && length != 0;
    if !whole_units || end > vdisk.size_bytes.next_multiple_of(UNIT_BYTES as u64) {
        return Err(ReadErrorCode::OutOfRange);
    }
    debug_assert!(length / UNIT_BYTES <= READ_UNITS_MAX);
    if read.wanted == 0 || read.wanted & !read.fragment_size.all(length) != 0 {
        return Err(ReadErrorCode::OutOfRange);
    }
    Ok(())
}

/// In single-read mode: whole sectors within one unit and inside the image, one fragment of the smallest size.
fn check_single(read: &Read, end: u64, vdisk: &VdiskEntry) -> Result<(), ReadErrorCode> {
    let length = read.length as usize;
    if length > SINGLE_READ_BYTES_MAX {
        return Err(ReadErrorCode::NotNegotiated);
    }
    let sectors = length.is_multiple_of(SECTOR_BYTES)
        && read.offset.is_multiple_of(SECTOR_BYTES as u64)
        && length != 0;
    let unit = UNIT_BYTES as u64;
    let one_unit = sectors && read.offset / unit == (end - 1) / unit;
    if one_unit && end <= vdisk.size_bytes { Ok(()) } else { Err(ReadErrorCode::OutOfRange) }
}

pub(super) fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a distance within a read or a block")
}
