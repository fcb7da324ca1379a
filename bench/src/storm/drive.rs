//! The loop: devices that log in, read what the trace says, think, and read on.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicBool;

use anyhow::bail;
use diskstream_device::driver::{Fleet, Member, Ports};
use diskstream_device::session::{Event, ReadError, Session};
use diskstream_ring::{Wait, clock};
use diskstream_wire::Nanos;
use hdrhistogram::Histogram;

use super::trace::Trace;
use crate::fleet::{Check, DevicesConfig, LATENCY};
use crate::image;
use crate::random::Random;
use crate::stop;

/// Devices that are switched on in one turn, so that those before them are not kept waiting. Guessed.
const STARTS_PER_TURN: u16 = 16;
/// The longest turn without anything to do. Guessed.
const TURN_MAX: Nanos = Nanos::from_millis(20);
/// Nobody thinks, and no login and no read ends for so long: the storm has come to a stand. Longer than a device needs to find another node.
const STALL_LIMIT: Nanos = Nanos::from_secs(60);
/// Wait for the node to confirm that devices leave. Guessed.
const DETACH_LIMIT: Nanos = Nanos::from_secs(2);

/// What is to be replayed.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The boot.
    pub trace: &'a Trace,
    /// The devices.
    pub devices: &'a DevicesConfig,
    /// Time from the first device's start to the last one's.
    pub spread: Nanos,
    /// How bytes are checked.
    pub check: Check,
    /// Seed of the image.
    pub seed: u64,
    /// Set when the program is told to end.
    pub stop: &'a AtomicBool,
}

/// How one device fared. Times are on the run's clock, from the first device's start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Boot {
    /// When it was switched on.
    pub started: Nanos,
    /// When its vDisk could be read.
    pub opened: Option<Nanos>,
    /// When its last read was answered, if all were.
    pub ended: Option<Nanos>,
    /// A read of it failed: it reads no more.
    pub failed: bool,
    /// The step that it does, or does next.
    step: usize,
    /// Reads of the step that are not answered.
    outstanding: usize,
    /// When the step was asked for.
    asked: Nanos,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Each device's boot.
    pub boots: Vec<Boot>,
    /// Latencies of all reads in nanoseconds, from asking to the last byte.
    pub latency: Histogram<u64>,
    /// Reads that ended well.
    pub reads: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Why the first device failed.
    pub first_failure: Option<String>,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Bytes that are not the image's.
    pub wrong_bytes: u64,
    /// Bytes of the vDisk.
    pub image_bytes: u64,
    /// Bytes of a cache block of the node.
    pub block_bytes: u64,
    /// Times that a node told a device to come later.
    pub told_to_wait: u64,
    /// Requests sent again because fragments did not arrive.
    pub retries: u64,
    /// Times that a device left its node or logged in anew.
    pub moves: u64,
}

/// What is shown while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Nanos,
    /// Devices that were switched on.
    pub started: usize,
    /// Devices that are in.
    pub opened: usize,
    /// Boots that are over.
    pub ended: usize,
    /// Bytes that arrived.
    pub bytes: u64,
}

/// Boots all devices.
///
/// # Errors
/// When sockets or the ring cannot be had, a node refuses a device, the program is told to end, or nothing ends for [`STALL_LIMIT`].
pub fn run(
    plan: &Plan<'_>,
    random: &mut Random,
    mut progress: impl FnMut(Progress),
) -> anyhow::Result<Outcome> {
    let mut fleet = plan.devices.fleet()?;
    let start = clock::now();
    let mut work = Work::new(plan, start);
    while work.over < plan.devices.devices {
        let now = clock::now();
        work.start_due(&mut fleet, random, now)?;
        while let Some(member) = work.due(now) {
            work.ask(member, fleet.session_mut(member), now);
        }
        let until = work.next_at().earlier(now + TURN_MAX);
        fleet.turn(Wait::Until(until), |member, session, event, _| {
            work.event(member, session, event);
        })?;
        if let Some(refusal) = work.refusal.take() {
            bail!("{refusal}");
        }
        let now = clock::now();
        let quiet = work.next_at() == Nanos::NEVER;
        if quiet && now.since(work.moved_on) > STALL_LIMIT {
            work.give_up(now);
        }
        progress(work.progress(now));
        stop::go_on(plan.stop)?;
    }
    for member in 0..fleet.len() {
        let counters = fleet.session(member).counters();
        work.outcome.retries += counters.retries;
        work.outcome.moves += counters.moves;
    }
    detach(&mut fleet)?;
    Ok(work.outcome)
}

/// Says goodbye, so that a node that goes on serving others need not find out.
fn detach(fleet: &mut Fleet) -> anyhow::Result<()> {
    let limit = clock::now() + DETACH_LIMIT;
    for member in 0..fleet.len() {
        fleet.session_mut(member).detach(clock::now());
    }
    let mut closed = 0;
    while closed < fleet.len() && clock::now() < limit {
        fleet.turn(Wait::Until(clock::now() + TURN_MAX), |_, _, event, _| {
            closed += usize::from(matches!(event, Event::Closed));
        })?;
    }
    Ok(())
}

struct Work<'a> {
    plan: &'a Plan<'a>,
    start: Nanos,
    outcome: Outcome,
    /// Devices that think, and until when; each is in it once at most.
    thinking: BinaryHeap<Reverse<(Nanos, Member)>>,
    buffers: Buffers,
    opened: usize,
    /// Boots that ended or failed.
    over: usize,
    /// When a login or read last ended.
    moved_on: Nanos,
    /// A node does not want a device: nothing that time mends.
    refusal: Option<String>,
}

impl<'a> Work<'a> {
    fn new(plan: &'a Plan<'a>, start: Nanos) -> Work<'a> {
        let (low, high, digits) = LATENCY;
        let outcome = Outcome {
            boots: Vec::with_capacity(plan.devices.devices),
            latency: Histogram::new_with_bounds(low, high, digits)
                .expect("bounds and digits are those of the crate's page"),
            reads: 0,
            reads_failed: 0,
            first_failure: None,
            bytes: 0,
            wrong_bytes: 0,
            image_bytes: 0,
            block_bytes: 0,
            told_to_wait: 0,
            retries: 0,
            moves: 0,
        };
        Work {
            plan,
            start,
            outcome,
            thinking: BinaryHeap::with_capacity(plan.devices.devices),
            buffers: Buffers::default(),
            opened: 0,
            over: 0,
            moved_on: start,
            refusal: None,
        }
    }

    /// When a device is switched on.
    fn start_of(&self, device: usize) -> Nanos {
        let last = self.plan.devices.devices.saturating_sub(1).max(1) as u64;
        let after = u128::from(self.plan.spread.0) * device as u128 / u128::from(last);
        self.start + Nanos(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// Switches on the devices whose time has come, some at a time.
    fn start_due(
        &mut self,
        fleet: &mut Fleet,
        random: &mut Random,
        now: Nanos,
    ) -> anyhow::Result<()> {
        for _ in 0..STARTS_PER_TURN {
            let device = self.outcome.boots.len();
            if device == self.plan.devices.devices || self.start_of(device) > now {
                break;
            }
            let index = u16::try_from(device).expect("the fleet has room for it");
            let (config, seed) = self.plan.devices.session(index, random);
            fleet.add(config, Ports::Free, seed)?;
            // From when it should have started: what this loop takes for its sockets is in its boot.
            let started = self.start_of(device).since(self.start);
            self.outcome.boots.push(Boot { started, ..Boot::default() });
        }
        Ok(())
    }

    /// The next device that has thought.
    fn due(&mut self, now: Nanos) -> Option<Member> {
        let &Reverse((at, member)) = self.thinking.peek()?;
        if at > now {
            return None;
        }
        self.thinking.pop();
        Some(member)
    }

    fn next_at(&self) -> Nanos {
        let thought = self.thinking.peek().map_or(Nanos::NEVER, |&Reverse((at, _))| at);
        let device = self.outcome.boots.len();
        let start = (device < self.plan.devices.devices).then(|| self.start_of(device));
        thought.earlier(start.unwrap_or(Nanos::NEVER))
    }

    /// Asks for all reads of a device's step.
    fn ask(&mut self, member: Member, session: &mut Session, now: Nanos) {
        let trace = self.plan.trace;
        let boot = &mut self.outcome.boots[member];
        let step = &trace.steps[boot.step];
        boot.asked = now;
        boot.outstanding = step.reads.len();
        for index in step.reads.clone() {
            let read = trace.reads[index];
            let buffer = self.buffers.take(read.length);
            if let Err(refused) = session.read(index as u64, read.offset, buffer, now) {
                let why = refused.to_string();
                self.buffers.give(refused.buffer);
                return self.fail(member, || why);
            }
        }
    }

    fn event(&mut self, member: Member, session: &mut Session, event: Event) {
        // Not the turn's time: what a long turn does before it comes to this answer is part of its wait.
        let now = clock::now();
        match event {
            Event::Opened { disk, .. } => {
                self.moved_on = now;
                self.opened += 1;
                self.outcome.image_bytes = disk.size_bytes;
                self.outcome.block_bytes = disk.block_bytes.into();
                self.outcome.boots[member].opened = Some(now.since(self.start));
                let end = self.plan.trace.end();
                if end > disk.size_bytes {
                    self.refusal = Some(format!(
                        "the trace reads up to byte {end}, the vDisk has {}: give --image-bytes, or serve a larger one",
                        disk.size_bytes
                    ));
                    return;
                }
                self.think(member, session, now);
            }
            Event::ReadDone { token, buffer, result } => {
                self.done(member, session, token, buffer, result.err(), now);
            }
            Event::Busy { .. } => self.outcome.told_to_wait += 1,
            Event::Rejected { node, reason, text } => {
                let text = text.as_str();
                self.refusal = Some(format!("{node} refused device {member}: {reason:?}: {text}"));
            }
            _ => {}
        }
    }

    /// Counts an answer; with the last one of a step the device goes on.
    fn done(
        &mut self,
        member: Member,
        session: &mut Session,
        token: u64,
        buffer: Vec<u8>,
        error: Option<ReadError>,
        now: Nanos,
    ) {
        self.moved_on = now;
        let boot = &mut self.outcome.boots[member];
        boot.outstanding = boot.outstanding.saturating_sub(1);
        if let Some(error) = error {
            self.buffers.give(buffer);
            self.outcome.reads_failed += 1;
            return self.fail(member, || error.to_string());
        }
        let read = self.plan.trace.reads[usize::try_from(token).expect("tokens are reads")];
        let latency = now.since(boot.asked).0.max(LATENCY.0);
        let (rest, failed) = (boot.outstanding, boot.failed);
        self.outcome.latency.saturating_record(latency);
        self.outcome.reads += 1;
        self.outcome.bytes += read.length as u64;
        if self.plan.check != Check::Nothing {
            let thorough = self.plan.check == Check::EveryByte;
            self.outcome.wrong_bytes +=
                image::wrong_bytes(self.plan.seed, read.offset, &buffer, thorough);
        }
        self.buffers.give(buffer);
        if rest > 0 || failed {
            return;
        }
        let boot = &mut self.outcome.boots[member];
        boot.step += 1;
        if boot.step == self.plan.trace.steps.len() {
            boot.ended = Some(now.since(self.start));
            self.over += 1;
        } else {
            self.think(member, session, now);
        }
    }

    /// The device thinks before its step; not at all where the trace says so.
    fn think(&mut self, member: Member, session: &mut Session, now: Nanos) {
        let think = self.plan.trace.steps[self.outcome.boots[member].step].think;
        if think == Nanos::ZERO {
            self.ask(member, session, now);
        } else {
            self.thinking.push(Reverse((now + think, member)));
        }
    }

    fn fail(&mut self, member: Member, why: impl FnOnce() -> String) {
        let boot = &mut self.outcome.boots[member];
        if !boot.failed {
            boot.failed = true;
            self.over += 1;
            self.outcome.first_failure.get_or_insert_with(|| format!("device {member}: {}", why()));
        }
    }

    /// Counts every boot that is not over as failed.
    fn give_up(&mut self, now: Nanos) {
        let seconds = now.since(self.moved_on).as_millis() / 1000;
        for member in 0..self.outcome.boots.len() {
            let boot = self.outcome.boots[member];
            if boot.ended.is_none() && !boot.failed {
                let waits_for = if boot.opened.is_some() { "an answer" } else { "its login" };
                self.fail(member, || format!("it waited for {waits_for} for {seconds} s"));
            }
        }
    }

    fn progress(&self, now: Nanos) -> Progress {
        Progress {
            elapsed: now.since(self.start),
            started: self.outcome.boots.len(),
            opened: self.opened,
            ended: self.over,
            bytes: self.outcome.bytes,
        }
    }
}

/// Buffers of reads that are over, by the power of two that they have room for: a read rarely finds one that must be filled with
/// zeros beyond its last length, and devices in step do not leave a buffer behind for each length of the trace.
#[derive(Debug, Default)]
struct Buffers {
    free: Vec<Vec<Vec<u8>>>,
}

impl Buffers {
    fn take(&mut self, length: usize) -> Vec<u8> {
        let room = length.next_power_of_two();
        let class = room.trailing_zeros() as usize;
        let kept = self.free.get_mut(class).and_then(Vec::pop);
        let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(room));
        buffer.resize(length, 0);
        buffer
    }

    fn give(&mut self, buffer: Vec<u8>) {
        let class = buffer.len().next_power_of_two().trailing_zeros() as usize;
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.free[class].push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_for_lengths_of_their_class() {
        let mut buffers = Buffers::default();
        let buffer = buffers.take(20_480);
        let (at, room) = (buffer.as_ptr(), buffer.capacity());
        assert!(buffer.len() == 20_480 && room >= 32_768);
        buffers.give(buffer);
        let smaller = buffers.take(16_384);
        assert_ne!(smaller.as_ptr(), at);
        let again = buffers.take(32_768);
        assert_eq!((again.as_ptr(), again.len()), (at, 32_768));
    }
}
