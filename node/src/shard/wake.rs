//! What the arrival or the failure of a block, or mere waiting, means to those who wait for it.

use diskstream_wire::limits::UNIT_BYTES;
use diskstream_wire::time::Nanos;
use diskstream_wire::{Capabilities, ReadErrorCode};

use super::flights::Loader;
use super::jobs::{FLIGHT, List, NONE, NewJob, SESSION, Work};
use super::limits::PENDING_AFTER;
use super::load::{BusyCause, Found};
use super::{Event, Mutation, Outbox, Shard, fragments};
use crate::cache::{BlockKey, Pin};

impl Shard {
    /// A block is here: whoever waited for it goes on.
    pub(super) fn arrived(&mut self, index: u32, pin: Pin, now: Nanos, out: &mut Outbox) {
        let mut flight = self.remove_flight(index);
        while !flight.waiters.is_empty() {
            let job = flight.waiters.head;
            self.leave_flight(&mut flight.waiters, job);
            if self.mutation == Some(Mutation::ForgetWaiter) && flight.waiters.is_empty() {
                break;
            }
            let pin = self.cache.pin_again(&pin);
            self.supply(job, pin, flight.key, now, out);
        }
        self.cache.unpin(pin);
    }

    fn leave_flight(&mut self, waiters: &mut List, job: u32) {
        self.jobs.unlink::<FLIGHT>(waiters, job);
        self.jobs.get_mut(job).flight = NONE;
    }

    /// Gives a waiting job the block that it waited for.
    fn supply(&mut self, index: u32, pin: Pin, key: BlockKey, now: Nanos, out: &mut Outbox) {
        let job = self.jobs.get_mut(index);
        let session = job.session;
        self.jobs.unlink::<SESSION>(&mut self.sessions.get_mut(session).waiting, index);
        let Work::Data(data) = &mut self.jobs.get_mut(index).work else {
            unreachable!("only data waits for blocks");
        };
        if !data.straddles {
            data.pin = Some(pin);
            return self.ready(index, key.block, out);
        }
        if data.pin.is_some() {
            data.second = Some(pin);
            return self.enqueue(index);
        }
        data.pin = Some(pin);
        let next = BlockKey { block: key.block + 1, ..key };
        match self.find_block(session, next, now, out) {
            Found::Here(second) => {
                if let Work::Data(data) = &mut self.jobs.get_mut(index).work {
                    data.second = Some(second);
                }
                self.enqueue(index);
            }
            Found::Waits(flight) => self.wait(index, flight),
            Found::Busy(cause) => {
                let wait_ms = self.busy_wait_ms(cause);
                self.turn_into(index, Work::Busy { wait_ms });
            }
            Found::Failed(code) => self.turn_into_error(index, code),
        }
    }

    /// Queues a job whose block is here; units that turned out to be zero become a mark.
    fn ready(&mut self, index: u32, block: u64, out: &mut Outbox) {
        let job = self.jobs.get(index);
        let Work::Data(data) = &job.work else { unreachable!("only data waits for blocks") };
        let capabilities = self.sessions.get(job.session).capabilities();
        if data.single || !capabilities.has(Capabilities::ZERO_MARKS) {
            return self.enqueue(index);
        }
        let pin = data.pin.as_ref().expect("the block is here");
        let count = data.length as usize / UNIT_BYTES;
        // Only fragments that lie in this block wholly are wanted of it, so no mark reaches beyond it.
        let zero = self.zero_units(pin, job.offset, data.length, block);
        let zero = fragments::markable(data.size, zero, count)
            & fragments::units_of(data.size, data.wanted, count);
        if zero == 0 {
            return self.enqueue(index);
        }
        let rest = data.wanted & !fragments::of_units(data.size, zero);
        if rest == 0 {
            return self.turn_into(index, Work::Zero(zero));
        }
        let mark = NewJob {
            session: job.session,
            request_id: job.request_id,
            arrived: job.arrived,
            offset: job.offset,
            attempt: job.attempt,
            work: Work::Zero(zero),
        };
        if let Work::Data(data) = &mut self.jobs.get_mut(index).work {
            data.wanted = rest;
        }
        self.queue_small(mark, out);
        self.enqueue(index);
    }

    /// Makes a small reply of a job that is in no list, and queues it.
    fn turn_into(&mut self, index: u32, work: Work) {
        let job = self.jobs.get_mut(index);
        if let Work::Data(data) = std::mem::replace(&mut job.work, work) {
            for pin in [data.pin, data.second].into_iter().flatten() {
                self.cache.unpin(pin);
            }
        }
        self.enqueue(index);
    }

    fn turn_into_error(&mut self, index: u32, code: ReadErrorCode) {
        let Work::Data(data) = &self.jobs.get(index).work else {
            unreachable!("only data waits for blocks")
        };
        let length = data.length;
        self.count_read_error(code);
        self.turn_into(index, Work::Error { length, code });
    }

    /// A block will not come: whoever waited for it is told.
    pub(super) fn failed(&mut self, index: u32) {
        let mut flight = self.remove_flight(index);
        self.fail_waiters(&mut flight.waiters, ReadErrorCode::StoreError);
    }

    fn fail_waiters(&mut self, waiters: &mut List, code: ReadErrorCode) {
        while !waiters.is_empty() {
            let job = waiters.head;
            self.leave_flight(waiters, job);
            self.stop_waiting(job);
            self.turn_into_error(job, code);
        }
    }

    /// A block found no frame after all: whoever waited for it comes back.
    pub(super) fn send_back(&mut self, index: u32) {
        let mut flight = self.remove_flight(index);
        self.counters.cache_full.inc();
        while !flight.waiters.is_empty() {
            let job = flight.waiters.head;
            self.leave_flight(&mut flight.waiters, job);
            self.stop_waiting(job);
            let wait_ms = self.busy_wait_ms(BusyCause::CacheFull);
            self.turn_into(job, Work::Busy { wait_ms });
        }
    }

    fn stop_waiting(&mut self, job: u32) {
        let session = self.jobs.get(job).session;
        self.jobs.unlink::<SESSION>(&mut self.sessions.get_mut(session).waiting, job);
    }

    /// Says "pending" to those that have waited long enough, and "store timeout" where the disk had its time.
    pub(super) fn tick_flights(&mut self, now: Nanos, out: &mut Outbox) {
        let mut due = Nanos::NEVER;
        // What this leads to may give other flights their time anew.
        self.flights_due = Nanos::NEVER;
        let mut n = 0;
        while let Some(index) = self.flights.nth(n) {
            n += 1;
            let deadline = self.flights.get(index).started + self.shared.limits.disk_deadline;
            if now >= deadline && !self.flights.get(index).is_overdue() {
                self.overdue(index, now, out);
            }
            if self.flights.get(index).pending_due <= now {
                self.say_pending(index, now, out);
            }
            let flight = self.flights.get(index);
            due = due.earlier(flight.pending_due);
            if !flight.is_overdue() {
                due = due.earlier(deadline);
            }
        }
        self.flights_due = self.flights_due.earlier(due);
        self.look_at_hung_stores(now, out);
    }

    fn say_pending(&mut self, index: u32, now: Nanos, out: &mut Outbox) {
        let mut due = Nanos::NEVER;
        let mut at = self.flights.get(index).waiters.head;
        while at != NONE {
            let next = self.jobs.next::<FLIGHT>(at);
            let job = self.jobs.get_mut(at);
            let (arrived, attempt) = (job.arrived, job.attempt);
            let Work::Data(data) = &mut job.work else {
                unreachable!("only data waits for blocks")
            };
            if !data.pended && arrived + PENDING_AFTER <= now {
                data.pended = true;
                let waited_ms = u32::try_from(now.since(arrived).as_millis()).unwrap_or(u32::MAX);
                let work = Work::Pending { waited_ms };
                let (session, request_id, offset) = (job.session, job.request_id, job.offset);
                self.counters.read_pending.inc();
                let new = NewJob { session, request_id, arrived, offset, attempt, work };
                self.queue_small(new, out);
            } else if !data.pended {
                due = due.earlier(arrived + PENDING_AFTER);
            }
            at = next;
        }
        self.flights.get_mut(index).pending_due = due;
    }

    /// The disk had its time. The frame stays the disk's until the read completes; the devices need not wait for that.
    fn overdue(&mut self, index: u32, now: Nanos, out: &mut Outbox) {
        self.flights.set_overdue(index, true);
        self.give_up_waiting(index);
        let flight = self.flights.get(index);
        let (vdisk, block, started) = (flight.vdisk, flight.key.block, flight.started);
        if let Loader::Us { .. } = flight.loader {
            let offset = block * self.shared.cache.block_bytes() as u64;
            let waited_ms = now.since(started).as_millis();
            self.counters.disk_overdue.inc();
            // Of a store that is known to hang there is nothing more to say.
            if !self.store_hangs(vdisk) {
                self.event(Event::DiskOverdue { vdisk, offset, waited_ms }, out);
            }
            self.judge_store(index, started, now, out);
        }
    }

    /// A block will not come, and nothing failed: its store hangs.
    pub(super) fn abandon_flight(&mut self, index: u32) {
        self.give_up_waiting(index);
        self.remove_flight(index);
    }

    /// Whoever waits for a block is told that the store does not give it.
    pub(super) fn give_up_waiting(&mut self, index: u32) {
        let flight = self.flights.get_mut(index);
        flight.pending_due = Nanos::NEVER;
        let mut waiters = std::mem::replace(&mut flight.waiters, List::EMPTY);
        self.fail_waiters(&mut waiters, ReadErrorCode::StoreTimeout);
    }

    /// When to come back, by what is full: the disk's usual time for what is ahead, or the time that the plans that are
    /// out take; with a jitter, so that those who were sent away together do not come back together.
    pub(super) fn busy_wait_ms(&mut self, cause: BusyCause) -> u32 {
        let c = &self.counters;
        let middle = match cause {
            BusyCause::SessionQueue => {
                c.read_busy_queue.inc();
                2
            }
            BusyCause::Jobs => {
                c.read_busy_jobs.inc();
                10
            }
            BusyCause::Flights | BusyCause::CacheFull => {
                if cause == BusyCause::Flights {
                    c.read_busy_flights.inc();
                } else {
                    c.read_busy_cache.inc();
                }
                let ahead = self.flights.len() as u64 / 16 + 1;
                u32::try_from((self.disk_us * ahead / 1000).clamp(4, 1000)).expect("clamped")
            }
        };
        self.random.around(middle).max(1)
    }
}
