//! Whose turn it is, and what shares a send.
//!
//! Deficit round robin: each turn gives a session [`QUANTUM_BYTES`], of which it sends what it has ready. Fragments of one
//! size are equal datagrams, so those of several reads go into one send; small replies are padded to [`SMALL_BYTES`] and
//! share another one.

use diskstream_ring::{Errno, SendPlan};
use diskstream_wire::limits::{SEND_BYTES_MAX, SEND_SEGMENTS_MAX, UNIT_BYTES};
use diskstream_wire::time::Nanos;
use diskstream_wire::{Flags, ReadBusy, ReadData, ReadError, ReadPending, ReadZero};

use super::jobs::{Data, Job, NONE, NewJob, SESSION, Work};
use super::limits::{PLANS_PER_TURN, PLANS_RESERVED, QUANTUM_BYTES};
use super::pace::on_the_line;
use super::read::to_usize;
use super::session::Session;
use super::{Mutation, NO_SESSION, Outbox, Shard, SocketRole};
use crate::cache::Cache;

/// Bytes of every small reply of a session: the longest of them, so that they can share a send.
pub(super) const SMALL_BYTES: usize = ReadZero::BYTES;
const _: () = assert!(
    SMALL_BYTES >= ReadPending::BYTES
        && SMALL_BYTES >= ReadBusy::BYTES
        && SMALL_BYTES >= ReadError::BYTES
);
/// The most padding of a fragment whose datagram is padded: 1376 bytes in which 1344 are data.
const PAD_BYTES_MAX: usize = 32;
const _: () = assert!(3 * 1376 - UNIT_BYTES == PAD_BYTES_MAX);

/// What one datagram of a data job consists of, behind its header.
struct Fragment {
    /// Where in the read, in bytes.
    at: usize,
    pad: usize,
    data: usize,
}

impl Fragment {
    /// The next one of a job that has one.
    #[inline]
    fn next(data: &Data) -> Fragment {
        debug_assert!(data.wanted != 0, "a job without fragments is gone");
        if data.single {
            return Fragment { at: 0, pad: 0, data: data.length as usize };
        }
        let number = data.wanted.trailing_zeros() as usize;
        let range = data.size.range(number, data.length as usize).expect("wanted fragments exist");
        // The first unit of a datagram of two that lacks its second is short, not padded: a pad is at most 255 bytes.
        let pad = if data.size.units_each() == 1 { data.size.bytes() - range.bytes } else { 0 };
        Fragment { at: range.offset, pad, data: range.bytes }
    }

    /// Header, padding and data.
    #[inline]
    fn datagram_bytes(&self) -> usize {
        ReadData::BYTES + self.pad + self.data
    }
}

/// A send that is being made: datagrams of one size, of which the last may be shorter.
struct Train {
    plan: Box<SendPlan>,
    segments: usize,
    /// A shorter datagram was the last.
    closed: bool,
}

impl Train {
    /// Whether a datagram of `bytes` can join.
    fn has_room(&self, bytes: usize) -> bool {
        !self.closed
            && bytes <= usize::from(self.plan.segment_bytes)
            && self.plan.payload_bytes() + bytes <= SEND_BYTES_MAX
            && self.segments < SEND_SEGMENTS_MAX
    }

    /// Counts a datagram that joined.
    fn joined(&mut self, bytes: usize) {
        self.segments += 1;
        self.closed = bytes < usize::from(self.plan.segment_bytes);
    }
}

/// The sends of one session that are being made.
#[derive(Default)]
struct Trains {
    data: Option<Train>,
    small: Option<Train>,
}

/// What became of a session's turn.
#[derive(PartialEq, Eq)]
enum Turn {
    /// It used up its share, or has nothing left.
    Over,
    /// It has as many bytes out as it may.
    Blocked,
    /// There are no more plans.
    NoPlans,
}

impl Shard {
    /// Serves the sessions that have something ready, in turn, as far as the plans go.
    pub(super) fn serve(&mut self, now: Nanos, out: &mut Outbox) {
        let sends_before = out.sends.len();
        self.unfinished = false;
        self.pace.begin(now);
        while let Some(index) = self.round.pop_front() {
            if out.sends.len() - sends_before >= PLANS_PER_TURN {
                self.unfinished = true;
                self.round.push_front(index);
                break;
            }
            if !self.pace.may_send(&self.shared.line) {
                self.counters.turns_paced.inc();
                self.round.push_front(index);
                break;
            }
            self.sessions.get_mut(index).deficit += QUANTUM_BYTES;
            let turn = self.serve_session(index, now, out);
            let session = self.sessions.get_mut(index);
            if turn == Turn::NoPlans {
                // The next turn goes on here; what it was given and could not use is not given again.
                session.deficit -= QUANTUM_BYTES.min(session.deficit);
                self.round.push_front(index);
                break;
            }
            if session.queue.is_empty() || turn == Turn::Blocked {
                session.scheduled = false;
                session.deficit = 0;
            } else {
                self.round.push_back(index);
            }
        }
        self.pace.end(&self.shared.line);
        self.counters.jobs.set(self.jobs.in_use() as u64);
    }

    fn serve_session(&mut self, index: u32, now: Nanos, out: &mut Outbox) -> Turn {
        let mut trains = Trains::default();
        let turn = loop {
            let session = self.sessions.get(index);
            let head = session.queue.head;
            if head == NONE {
                break Turn::Over;
            }
            let served = match self.jobs.get(head).work {
                Work::Data(_) => self.serve_data(index, head, &mut trains, now, out),
                _ => self.serve_small(index, head, &mut trains, now, out),
            };
            if let Err(turn) = served {
                break turn;
            }
        };
        // A lone small reply rides behind the data: the last datagram of a send may be shorter.
        if let (Some(data), Some(small)) = (&mut trains.data, &trains.small)
            && small.segments == 1
            && data.has_room(SMALL_BYTES)
            && data.plan.push_scratch(small.plan.scratch()).is_ok()
        {
            let small = trains.small.take().expect("matched just now");
            self.put_back(small.plan, out);
        }
        for train in [trains.data, trains.small].into_iter().flatten() {
            self.ship_for(index, train.plan, out);
        }
        turn
    }

    /// Packs as many fragments of a data job as its session may send now.
    fn serve_data(
        &mut self,
        index: u32,
        head: u32,
        trains: &mut Trains,
        now: Nanos,
        out: &mut Outbox,
    ) -> Result<(), Turn> {
        loop {
            let Work::Data(data) = &self.jobs.get(head).work else {
                unreachable!("the caller looked")
            };
            let bytes = Fragment::next(data).datagram_bytes();
            if (self.sessions.get(index).deficit as usize) < bytes {
                return Err(Turn::Over);
            }
            if !trains.data.as_ref().is_some_and(|train| train.has_room(bytes)) {
                if let Some(full) = trains.data.take() {
                    self.ship_for(index, full.plan, out);
                }
                let segment = u16::try_from(bytes).expect("a datagram");
                trains.data = Some(self.begin_train(index, segment, out)?);
            }
            let train = trains.data.as_mut().expect("made just now");
            if self.pack(index, head, train, now) {
                return Ok(());
            }
        }
    }

    /// Puts fragments of a job into a send while they are equal, fit, and are paid for. True when the job is done, and gone.
    fn pack(&mut self, index: u32, head: u32, train: &mut Train, now: Nanos) -> bool {
        let flags = self.flags_of(index);
        let session = self.sessions.get_mut(index);
        let cache = &*self.shared.cache;
        let job = self.jobs.get_mut(head);
        let mut packer = Packer::new(job, session, flags, now);
        let (offset, Work::Data(data)) = (job.offset, &mut job.work) else {
            unreachable!("the caller looked")
        };
        let (mut fragments, mut bytes) = (0, 0);
        while data.wanted != 0 {
            let next = Fragment::next(data);
            let datagram = next.datagram_bytes();
            if (session.deficit as usize) < datagram || !train.has_room(datagram) {
                break;
            }
            session.deficit -= u32::try_from(datagram).expect("a datagram");
            packer.push(offset, data, &next, train, cache);
            data.wanted &= data.wanted - 1;
            fragments += 1;
            bytes += next.data as u64;
        }
        session.queued_fragments -= fragments;
        self.counters.data_fragments.add(fragments.into());
        self.counters.data_bytes.add(bytes);
        self.pin_for_plan(index, head, &mut train.plan, now)
    }

    /// The send holds its blocks until it is complete: with the job's own pins when that is done, else with further ones.
    fn pin_for_plan(&mut self, index: u32, head: u32, plan: &mut SendPlan, now: Nanos) -> bool {
        let cache = &self.cache;
        let Work::Data(data) = &mut self.jobs.get_mut(head).work else {
            unreachable!("the caller looked")
        };
        let done = data.wanted == 0;
        for pin in [&mut data.pin, &mut data.second] {
            let token = match pin {
                None => continue,
                Some(_) if done => pin.take().expect("matched just now").into_token(),
                Some(pin) => cache.pin_again(pin).into_token(),
            };
            plan.push_pin(token).expect("two pins for each segment at most");
        }
        if done {
            self.counters.request_latency.record(now.since(self.jobs.get(head).arrived));
            self.leave_queue(index, head);
        }
        done
    }

    fn leave_queue(&mut self, index: u32, head: u32) {
        let session = self.sessions.get_mut(index);
        self.jobs.unlink::<SESSION>(&mut session.queue, head);
        session.jobs -= 1;
        self.jobs.remove(head);
    }

    fn serve_small(
        &mut self,
        index: u32,
        head: u32,
        trains: &mut Trains,
        now: Nanos,
        out: &mut Outbox,
    ) -> Result<(), Turn> {
        let bytes = u32::try_from(SMALL_BYTES).expect("76");
        if self.sessions.get(index).deficit < bytes {
            return Err(Turn::Over);
        }
        if !trains.small.as_ref().is_some_and(|train| train.has_room(SMALL_BYTES)) {
            if let Some(full) = trains.small.take() {
                self.ship_for(index, full.plan, out);
            }
            let segment = u16::try_from(SMALL_BYTES).expect("76");
            trains.small = Some(self.begin_train(index, segment, out)?);
        }
        let job = self.jobs.get(head);
        let new = NewJob {
            session: index,
            request_id: job.request_id,
            arrived: job.arrived,
            offset: job.offset,
            attempt: job.attempt,
            work: match job.work {
                Work::Zero(units) => Work::Zero(units),
                Work::Pending { waited_ms } => Work::Pending { waited_ms },
                Work::Busy { wait_ms } => Work::Busy { wait_ms },
                Work::Error { length, code } => Work::Error { length, code },
                Work::Data(_) => unreachable!("the caller looked"),
            },
        };
        let mut encoded = [0; SMALL_BYTES];
        self.encode_small(&new, now, &mut encoded);
        let train = trains.small.as_mut().expect("made just now");
        train.plan.push_scratch(&encoded).expect("64 small replies fit");
        train.joined(SMALL_BYTES);
        self.sessions.get_mut(index).deficit -= bytes;
        if let Work::Zero(units) = new.work {
            self.counters.zero_marks.inc();
            self.counters.zero_units.add(u64::from(units.count_ones()));
            self.counters.request_latency.record(now.since(new.arrived));
        }
        self.leave_queue(index, head);
        Ok(())
    }

    /// Writes a small reply; the rest of `out` is padding.
    pub(super) fn encode_small(&self, job: &NewJob, now: Nanos, out: &mut [u8; SMALL_BYTES]) {
        let flags = self.flags_of(job.session);
        let tag = self.sessions.get(job.session).tag;
        let (request_id, attempt, offset) = (job.request_id, job.attempt, job.offset);
        match job.work {
            Work::Zero(zero_units) => {
                let generation = self.vdisk_of(job.session).generation;
                let service_us = micros(now.since(job.arrived));
                ReadZero {
                    flags,
                    tag,
                    request_id,
                    generation,
                    offset,
                    zero_units,
                    attempt,
                    service_us,
                    ..Default::default()
                }
                .encode(out)
            }
            Work::Pending { waited_ms } => {
                ReadPending { flags, tag, request_id, waited_ms, attempt, ..Default::default() }
                    .encode(out)
            }
            Work::Busy { wait_ms } => {
                ReadBusy { flags, tag, request_id, wait_ms, attempt, ..Default::default() }
                    .encode(out)
            }
            Work::Error { length, code } => ReadError {
                flags,
                tag,
                request_id,
                offset,
                length,
                code,
                attempt,
                ..Default::default()
            }
            .encode(out),
            Work::Data(_) => unreachable!("data is not small"),
        };
    }

    /// A plan for datagrams of one size to a session.
    fn begin_train(
        &mut self,
        index: u32,
        segment_bytes: u16,
        out: &mut Outbox,
    ) -> Result<Train, Turn> {
        let session = self.sessions.get(index);
        if session.inflight_bytes >= self.shared.limits.session_inflight_bytes_max {
            return Err(Turn::Blocked);
        }
        if out.free_plans() <= PLANS_RESERVED {
            return Err(Turn::NoPlans);
        }
        let (peer, local) = (session.peer(), session.local());
        let token = u64::from(session.serial) << 32 | u64::from(index);
        let mut plan = self.take_plan(peer, local, out).ok_or(Turn::NoPlans)?;
        plan.segment_bytes = segment_bytes;
        plan.token = token;
        Ok(Train { plan, segments: 0, closed: false })
    }

    fn put_back(&mut self, mut plan: Box<SendPlan>, out: &mut Outbox) {
        plan.reset();
        self.plans_out -= 1;
        out.free_plans.push(plan);
    }

    fn ship_for(&mut self, index: u32, plan: Box<SendPlan>, out: &mut Outbox) {
        let bytes = plan.payload_bytes();
        let session = self.sessions.get_mut(index);
        session.inflight_bytes += u32::try_from(bytes).expect("one send");
        let ipv6 = session.peer().is_ipv6();
        self.bytes_out += bytes as u64;
        self.pace.sent(&self.shared.line, on_the_line(bytes, plan.segments(), ipv6));
        self.ship(SocketRole::Io, plan, out);
    }

    /// A send is complete: its pins are given back and its session may go on.
    pub(super) fn on_sent(
        &mut self,
        mut plan: Box<SendPlan>,
        result: Result<u32, Errno>,
        out: &mut Outbox,
    ) {
        match result {
            Ok(_) => {}
            Err(errno) if errno.is_throttle() => self.counters.sends_dropped.inc(),
            Err(_) => self.counters.sends_failed.inc(),
        }
        let twice = self.mutation == Some(Mutation::UnpinTwice);
        for pin in plan.drain_pins() {
            self.cache.unpin_token(pin);
            if twice {
                self.cache.unpin_token(pin);
            }
        }
        let (token, bytes) = (plan.token, plan.payload_bytes());
        self.put_back(plan, out);
        if token == NO_SESSION {
            return;
        }
        let index = u32::try_from(token & 0xffff_ffff).expect("32 bits");
        let serial = u32::try_from(token >> 32).expect("32 bits");
        if let Some(session) = self.sessions.by_serial(index, serial) {
            session.inflight_bytes -= u32::try_from(bytes).expect("one send");
            self.bytes_out -= bytes as u64;
            self.schedule(index);
        }
    }
}

/// Appends the datagrams of one job to a send: header and padding copied, data by reference. The header is encoded once; each
/// copy is stamped with what is its own.
struct Packer {
    header: ReadData,
    /// The header as encoded for datagrams of `encoded_for` bytes, and padding.
    head: [u8; ReadData::BYTES + PAD_BYTES_MAX],
    encoded_for: usize,
}

impl Packer {
    fn new(job: &Job, session: &Session, flags: Flags, now: Nanos) -> Packer {
        let header = ReadData {
            flags,
            tag: session.tag,
            request_id: job.request_id,
            generation: session.generation,
            service_us: micros(now.since(job.arrived)),
            attempt: job.attempt,
            ..Default::default()
        };
        Packer { header, head: [0; ReadData::BYTES + PAD_BYTES_MAX], encoded_for: 0 }
    }

    #[inline]
    fn push(
        &mut self,
        job_offset: u64,
        data: &Data,
        fragment: &Fragment,
        train: &mut Train,
        cache: &Cache,
    ) {
        const FITS: &str =
            "Train::has_room bounds segments and bytes; pieces and scratch are sized for them";
        let pin = data.pin.as_ref().expect("a queued job has its blocks");
        let block_bytes = cache.block_bytes();
        let offset = job_offset + fragment.at as u64;
        let within = in_block(offset, block_bytes);
        let header = &mut self.header;
        header.offset = offset;
        header.data_bytes = u16::try_from(fragment.data).expect("at most 8192");
        if data.single {
            header.flags = header.flags.with(Flags::SINGLE);
            header.unit_sum = crc32c::crc32c(&cache.bytes(pin)[within..within + fragment.data]);
        } else {
            let unit = within / UNIT_BYTES;
            header.fragment = u8::try_from(data.wanted.trailing_zeros()).expect("below 64");
            header.pad_bytes = u8::try_from(fragment.pad).expect("PAD_BYTES_MAX fits");
            header.unit_sum = cache.unit_sum(pin, unit);
            header.second_unit_sum = match &data.second {
                _ if fragment.data <= UNIT_BYTES => 0,
                Some(second) => cache.unit_sum(second, 0),
                None => cache.unit_sum(pin, unit + 1),
            };
        }
        let datagram = fragment.datagram_bytes();
        if datagram != self.encoded_for {
            header.encode_head(datagram, &mut self.head);
            self.encoded_for = datagram;
        }
        let plan = &mut train.plan;
        let head = &self.head[..ReadData::BYTES + fragment.pad];
        header.stamp(plan.push_scratch_mut(head).expect(FITS));
        let here = fragment.data.min(block_bytes - within);
        plan.push_arena(cache.arena_offset(pin) + within, here).expect(FITS);
        if here < fragment.data {
            let second = data.second.as_ref().expect("a job that straddles has two blocks");
            plan.push_arena(cache.arena_offset(second), fragment.data - here).expect(FITS);
        }
        train.joined(datagram);
    }
}

/// Where in its block an offset of the image lies; block sizes are powers of two (the cache takes no others).
fn in_block(offset: u64, block_bytes: usize) -> usize {
    to_usize(offset & (block_bytes as u64 - 1))
}

fn micros(time: Nanos) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
