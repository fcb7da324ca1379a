//! Whose turn it is, and what shares a send.
//!
//! Deficit round robin: each turn gives a session [`QUANTUM_BYTES`], of which it sends what it has ready. Fragments of one
//! size are equal datagrams, so those of several reads go into one send; small replies are padded to [`SMALL_BYTES`] and
//! share another one.

use diskstream_ring::{Errno, SendPlan};
use diskstream_wire::time::Nanos;
use diskstream_wire::{ReadBusy, ReadError, ReadPending, ReadZero};

use super::jobs::{NONE, NewJob, SESSION, Work};
use super::limits::{PLANS_PER_TURN, PLANS_RESERVED, QUANTUM_BYTES};
use super::pace::on_the_line;
use super::pack::{Packer, Train, next_datagram_bytes};
use super::{Mutation, NO_SESSION, Outbox, Shard, SocketRole};

/// Bytes of every small reply of a session: the longest of them, so that they can share a send.
pub(super) const SMALL_BYTES: usize = ReadZero::BYTES;
const _: () = assert!(
    SMALL_BYTES >= ReadPending::BYTES
        && SMALL_BYTES >= ReadBusy::BYTES
        && SMALL_BYTES >= ReadError::BYTES
);
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
            let bytes = next_datagram_bytes(data);
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
        let job = self.jobs.get_mut(head);
        let packer = Packer::new(job, session, flags, now);
        let Work::Data(data) = &mut job.work else { unreachable!("the caller looked") };
        let packed = packer.pack(data, session.deficit, train, &self.shared.cache);
        session.deficit -= packed.datagram_bytes;
        session.queued_fragments -= packed.fragments;
        self.counters.data_fragments.add(packed.fragments.into());
        self.counters.data_bytes.add(packed.data_bytes);
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
        train.joined(1, SMALL_BYTES);
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
        Ok(Train::new(plan))
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

pub(super) fn micros(time: Nanos) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
