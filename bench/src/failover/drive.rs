//! The loop that asks for reads when they are due, and takes what comes of them.

use std::collections::VecDeque;

use diskstream_device::driver::Member;
use diskstream_device::session::{Event, ReadError, RefusedReason, Session};
use diskstream_ring::{Wait, clock};
use diskstream_wire::Nanos;

use super::moves::Moves;
use super::schedule::Schedule;
use super::stalls::Stalls;
use crate::fleet::Devices;
use crate::image;
use crate::random::Random;

/// Turns of the loop are this far apart: reads that came due and answers that arrived meanwhile share one system call. Without
/// it the loop wakes for each of them, and takes nine tenths of its core at 20,000 reads/s (measured on two cores of an EPYC,
/// 1,000 devices), so that what is measured is the loop. At most this much is in every stall, which counts from the
/// scheduled time all the same.
const TURN_EVERY: Nanos = Nanos::from_micros(250);
/// Time between looks at what is not the fleet's: signals, ended nodes. Guessed.
const WATCH_EVERY: Nanos = Nanos::from_millis(5);
/// Wait for answers after the last read was asked for. Guessed: far longer than any move takes.
const LAST_ANSWERS: Nanos = Nanos::from_secs(10);

/// What is to be read, and when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Reads begin; they do not count before `opens`.
    pub begins: Nanos,
    /// The measurement begins.
    pub opens: Nanos,
    /// What is measured happens; none: nothing does.
    pub event: Option<Nanos>,
    /// The last read is due before this.
    pub closes: Nanos,
    /// Reads per second of all devices together; 0: devices are idle.
    pub per_second: u64,
    /// Bytes of a read.
    pub size: usize,
    /// Seed of the image.
    pub seed: u64,
    /// Reads that a device has outstanding at most, further ones are skipped: for outages that nobody reads through. None:
    /// every read is asked for, however long it waits.
    pub depth_max: Option<usize>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Stalls and the time series.
    pub stalls: Stalls,
    /// Moves.
    pub moves: Moves,
    /// Reads that ended well in the measurement.
    pub reads: u64,
    /// Reads that failed, or never ended.
    pub failed: u64,
    /// Why the first of them did.
    pub first_failure: Option<String>,
    /// Bytes that are not the image's.
    pub wrong_bytes: u64,
    /// Reads that were due and not asked for (see [`Plan::depth_max`]).
    pub skipped: u64,
    /// When each device had its first read answered after the nodes' return.
    pub reading_again: Vec<Option<Nanos>>,
}

/// What happens beside the fleet.
pub trait Watch {
    /// The measurement begins.
    ///
    /// # Errors
    /// The run cannot go on.
    fn opens(&mut self, devices: &Devices) -> anyhow::Result<()>;

    /// Looks at it, some hundred times a second. An error ends the run.
    ///
    /// # Errors
    /// The run cannot go on.
    fn look(&mut self, now: Nanos, moves: &Moves) -> anyhow::Result<()>;

    /// When nodes that were all gone took logins again.
    fn returned(&self) -> Option<Nanos>;
}

/// A read under way.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    offset: u64,
    scheduled: Nanos,
    member: Member,
    used: bool,
}

struct Work {
    plan: Plan,
    image_bytes: u64,
    random: Random,
    slots: Vec<Slot>,
    free: Vec<usize>,
    buffers: Vec<Vec<u8>>,
    /// Reads that are due and that their device could not take yet.
    backlog: Vec<VecDeque<Nanos>>,
    outstanding: Vec<usize>,
    open: usize,
    returned: Option<Nanos>,
    outcome: Outcome,
}

/// Runs the plan.
///
/// # Errors
/// When the ring fails or the watch says so.
pub fn run(
    devices: &mut Devices,
    plan: Plan,
    moves: Moves,
    random: Random,
    watch: &mut dyn Watch,
) -> anyhow::Result<Outcome> {
    let count = devices.fleet().len();
    let rate = plan.per_second.max(1);
    let end = if plan.per_second == 0 { plan.begins } else { plan.closes };
    let mut schedule = Schedule::new(count, rate, plan.begins, end);
    let (opens, closes, mut opened) = (plan.opens, plan.closes, false);
    let mut work = Work::new(plan, count, devices.image_bytes(), moves, random);
    let mut watched = Nanos::ZERO;
    loop {
        let now = clock::now();
        if now.since(watched) >= WATCH_EVERY {
            watched = now;
            watch.look(now, &work.outcome.moves)?;
            work.returned = watch.returned();
            if !opened && now >= opens {
                opened = true;
                watch.opens(devices)?;
            }
        }
        let fleet = devices.fleet_mut();
        while let Some((member, scheduled)) = schedule.due(now) {
            work.ask(fleet.session_mut(member), member, scheduled, now);
        }
        if now >= closes && (work.open == 0 || now >= closes + LAST_ANSWERS) {
            break;
        }
        let next = schedule.next_at().unwrap_or(Nanos::NEVER);
        let until = next.earlier(now + WATCH_EVERY);
        fleet.turn(Wait::Until(until), |member, session, event, _| {
            work.event(member, session, event);
        })?;
        let rest = TURN_EVERY.since(clock::now().since(now)).as_duration();
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
    }
    Ok(work.finish(clock::now()))
}

impl Work {
    fn new(plan: Plan, devices: usize, image_bytes: u64, moves: Moves, random: Random) -> Work {
        let event = plan.event.unwrap_or(plan.opens);
        let outcome = Outcome {
            stalls: Stalls::new(devices, plan.opens, event, plan.closes),
            moves,
            reads: 0,
            failed: 0,
            first_failure: None,
            wrong_bytes: 0,
            skipped: 0,
            reading_again: vec![None; devices],
        };
        Work {
            plan,
            image_bytes,
            random,
            slots: Vec::new(),
            free: Vec::new(),
            buffers: Vec::new(),
            backlog: vec![VecDeque::new(); devices],
            outstanding: vec![0; devices],
            open: 0,
            returned: None,
            outcome,
        }
    }

    /// A read is due.
    fn ask(&mut self, session: &mut Session, member: Member, scheduled: Nanos, now: Nanos) {
        if self.plan.depth_max.is_some_and(|max| self.outstanding[member] >= max) {
            self.outcome.skipped += 1;
            return;
        }
        self.open += 1;
        self.outstanding[member] += 1;
        if !self.backlog[member].is_empty() || !self.issue(session, member, scheduled, now) {
            self.backlog[member].push_back(scheduled);
        }
    }

    /// Hands a read to its device; false when that has no room for it yet.
    fn issue(
        &mut self,
        session: &mut Session,
        member: Member,
        scheduled: Nanos,
        now: Nanos,
    ) -> bool {
        let offset =
            self.random.below(self.image_bytes / self.plan.size as u64) * self.plan.size as u64;
        let buffer = self.buffers.pop().unwrap_or_else(|| vec![0; self.plan.size]);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        match session.read(index as u64, offset, buffer, now) {
            Ok(()) => {
                self.slots[index] = Slot { offset, scheduled, member, used: true };
                true
            }
            Err(refused) => {
                self.buffers.push(refused.buffer);
                self.free.push(index);
                if refused.reason == RefusedReason::Full {
                    return false;
                }
                self.ended(member, scheduled, Some(&refused.reason), clock::now());
                true
            }
        }
    }

    fn event(&mut self, member: Member, session: &mut Session, event: Event) {
        // Not the turn's time: what a long turn does before it comes to this answer belongs to the answer's stall.
        let now = clock::now();
        match event {
            Event::ReadDone { token, buffer, result } => {
                self.done(session, token, buffer, result.err(), now);
            }
            Event::Moved { from, to, cause, .. } => {
                self.outcome.moves.moved(member, from, to, cause, now);
                self.outcome.stalls.moved(now);
            }
            Event::Resumed { .. } if self.plan.per_second == 0 => self.reads_again(member, now),
            _ => {}
        }
    }

    fn done(
        &mut self,
        session: &mut Session,
        token: u64,
        buffer: Vec<u8>,
        error: Option<ReadError>,
        now: Nanos,
    ) {
        let index = usize::try_from(token).expect("tokens are indices of slots");
        let slot = std::mem::take(&mut self.slots[index]);
        assert!(slot.used, "a read ends once");
        self.free.push(index);
        if error.is_none() {
            self.outcome.wrong_bytes +=
                image::wrong_bytes(self.plan.seed, slot.offset, &buffer, true);
        }
        self.buffers.push(buffer);
        let error = error.as_ref().map(|error| error as &dyn std::fmt::Display);
        self.ended(slot.member, slot.scheduled, error, now);
        while let Some(&scheduled) = self.backlog[slot.member].front() {
            if !self.issue(session, slot.member, scheduled, now) {
                break;
            }
            self.backlog[slot.member].pop_front();
        }
    }

    fn ended(
        &mut self,
        member: Member,
        scheduled: Nanos,
        error: Option<&dyn std::fmt::Display>,
        now: Nanos,
    ) {
        self.open -= 1;
        self.outstanding[member] -= 1;
        match error {
            None if now >= self.plan.opens => self.outcome.reads += 1,
            None => {}
            Some(error) => self.failed(error),
        }
        self.outcome.stalls.ended(member, scheduled, now);
        self.reads_again(member, now);
    }

    fn reads_again(&mut self, member: Member, now: Nanos) {
        if self.returned.is_some_and(|returned| now >= returned) {
            self.outcome.reading_again[member].get_or_insert(now);
        }
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.outcome.failed += 1;
        self.outcome.first_failure.get_or_insert_with(|| error.to_string());
    }

    /// Counts what never ended.
    fn finish(mut self, now: Nanos) -> Outcome {
        let waiting = self.backlog.iter().enumerate();
        let waiting = waiting.flat_map(|(member, due)| due.iter().map(move |&at| (member, at)));
        let asked = self.slots.iter().filter(|slot| slot.used);
        let all: Vec<_> = waiting.chain(asked.map(|slot| (slot.member, slot.scheduled))).collect();
        for (member, scheduled) in all {
            self.failed(&"it was never answered");
            self.outcome.stalls.never_ended(member, scheduled, now);
        }
        self.outcome
    }
}
