//! A loop of reads. Closed: each device keeps as many outstanding as it is told, and asks for the next one when one is done.
//! Open: reads are asked for by the clock (see [`crate::open_loop`]), and latencies count from when they were due.
//!
//! Buffers travel: a read's buffer comes back with its answer and goes out with the next read, so nothing is allocated per
//! read. What the loop does per read beside that is one histogram entry and the check of the bytes.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use diskstream_device::driver::{Fleet, FleetConfig, Member, Ports};
use diskstream_device::session::{Event, Session, SessionConfig};
use diskstream_ring::{Wait, clock};
use diskstream_wire::{Mac, Nanos};
use hdrhistogram::Histogram;

use crate::image;
use crate::open_loop::OpenLoop;
use crate::random::Random;

/// The longest turn without anything to do, so that stage changes are noticed. Guessed.
const TURN_MAX: Nanos = Nanos::from_millis(20);
/// Devices must have logged in after this: 4,096 of them take about a second here. Guessed.
const LOGIN_LIMIT: Nanos = Nanos::from_secs(30);
/// A loop in which no read ends for so long has hung: longer than a device needs to give up a node and find another.
const STALL_LIMIT: Nanos = Nanos::from_secs(30);
/// Wait for the answers that are still out when the time is over. Guessed.
const LAST_ANSWERS: Nanos = Nanos::from_secs(5);
/// Wait for the node to confirm that devices leave. Guessed.
const DETACH_LIMIT: Nanos = Nanos::from_secs(2);
/// Receive buffers of the largest fleets: 512 MiB of addresses, of which small trains touch a tenth.
const RECEIVE_BUFFERS_MAX: u16 = 8192;
/// Bounds and digits of latencies in nanoseconds: 1 µs to 100 s, three digits.
pub const LATENCY: (u64, u64, u8) = (1_000, 100_000_000_000, 3);

/// How the bytes that arrive are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Not at all: the vDisk is not ours.
    Nothing,
    /// Each unit's stamp.
    Stamps,
    /// Every byte.
    EveryByte,
}

/// Where the next read begins.
#[derive(Clone, Debug)]
pub enum Offsets {
    /// Each stretch of the image once, in order, whoever asks.
    Once {
        /// The next one.
        next: u64,
    },
    /// Each device goes on from its own start, and begins anew at the end.
    Sequential {
        /// The next one of each device.
        next: Vec<u64>,
    },
    /// Anywhere, in multiples of the read's size.
    Random(Random),
}

impl Offsets {
    /// Each of `devices` starts where its share of the image begins.
    #[must_use]
    pub fn sequential(devices: usize, size: u64, image_bytes: u64) -> Offsets {
        let slots = image_bytes / size;
        let next = (0..devices as u64).map(|i| slots * i / devices as u64 * size).collect();
        Offsets::Sequential { next }
    }

    /// The next offset for this device; none when all was read.
    pub fn next(&mut self, member: Member, size: u64, image_bytes: u64) -> Option<u64> {
        match self {
            Offsets::Once { next } => {
                let offset = *next;
                *next += size;
                (offset + size <= image_bytes).then_some(offset)
            }
            Offsets::Sequential { next } => {
                let offset = next[member];
                let after = offset + size;
                next[member] = if after + size <= image_bytes { after } else { 0 };
                Some(offset)
            }
            Offsets::Random(random) => Some(random.below(image_bytes / size) * size),
        }
    }
}

/// Reads to be done.
#[derive(Clone, Debug)]
pub struct Job {
    /// Devices that take part, the first ones.
    pub devices: usize,
    /// Reads that each has outstanding; in an open loop at most.
    pub depth: usize,
    /// Reads per second of all devices together, asked for by the clock; none: a closed loop.
    pub rate: Option<u32>,
    /// Bytes of a read.
    pub size: usize,
    /// Where.
    pub offsets: Offsets,
    /// How the answers are checked.
    pub check: Check,
    /// Seed of the image's bytes.
    pub seed: u64,
    /// Time before the window opens.
    pub ramp: Nanos,
    /// Length of the window; `NEVER`: until the offsets end.
    pub window: Nanos,
}

/// What the reads of a window cost and found.
#[derive(Debug)]
pub struct Tally {
    /// Reads that ended well within the window.
    pub reads: u64,
    /// All that ended well, the window's included.
    pub reads_all: u64,
    /// Reads that failed, in the window or not.
    pub failed: u64,
    /// Bytes that are not the image's, in the window or not.
    pub wrong_bytes: u64,
    /// Latencies in nanoseconds of the reads that ended within the window; in an open loop of those that were due in it,
    /// whenever they ended.
    pub latency: Histogram<u64>,
    /// Reads of an open loop that were never asked for, because too many were waiting.
    pub skipped: u64,
    /// Reads of an open loop that were due and not answered when the run gave up waiting. Their latency counts as the time
    /// until then.
    pub unfinished: u64,
    /// Why the first failed read failed.
    pub first_failure: Option<String>,
}

/// Counters of the fleet at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Requests sent, repeats included.
    pub requests: u64,
    /// Requests sent again because fragments did not arrive.
    pub retries: u64,
    /// Fragments that had arrived before, or whose read was over.
    pub late: u64,
    /// Times that a device probed a node which had fallen silent.
    pub probes: u64,
    /// Times that a device left its node, or logged in there anew.
    pub moves: u64,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Trains received.
    pub trains_in: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Receives that found no free buffer.
    pub starved: u64,
}

/// The devices.
pub struct Devices {
    fleet: Fleet,
    image_bytes: u64,
    node: Option<SocketAddr>,
}

/// What the fleet is made of.
#[derive(Clone, Debug)]
pub struct DevicesConfig {
    /// Login addresses of nodes.
    pub servers: Vec<SocketAddr>,
    /// How many devices.
    pub devices: usize,
    /// Number of the first one: its address is made of it.
    pub first: u16,
    /// Largest IP packet.
    pub mtu: u16,
    /// Bytes of a request on the wire; none: the device's own default.
    pub request_bytes: Option<u32>,
    /// Each device has a notice socket of its own, as real ones do; else they share one, which takes half of the sockets.
    pub own_notice_ports: bool,
}

impl DevicesConfig {
    fn devices(&self) -> anyhow::Result<u16> {
        u16::try_from(self.devices).context("more devices than sockets")
    }

    /// A fleet with room for these devices, and none of them yet.
    ///
    /// # Errors
    /// When the ring cannot be had.
    pub fn fleet(&self) -> anyhow::Result<Fleet> {
        let devices = self.devices()?;
        let fleet = Fleet::new(&FleetConfig {
            sockets: devices
                .saturating_mul(if self.own_notice_ports { 2 } else { 1 })
                .saturating_add(2),
            // A whole train each. Measured: with 256 for 1,000 devices a burst at a node's end finds none 60,000 times, and
            // the loop re-arms receives instead of reading them.
            receive_buffers: devices
                .saturating_mul(4)
                .clamp(256, RECEIVE_BUFFERS_MAX)
                .next_power_of_two(),
            sends: devices.clamp(64, 1024),
            shared_notices: !self.own_notice_ports,
            ..FleetConfig::default()
        })?;
        Ok(fleet)
    }

    /// What the device with this number starts from.
    pub fn session(&self, index: u16, random: &mut Random) -> (SessionConfig, [u8; 32]) {
        let mut session = SessionConfig::new(self.servers.clone(), mac_of(self.first + index));
        session.mtu = self.mtu;
        "diskstream-bench".clone_into(&mut session.software);
        if let Some(bytes) = self.request_bytes {
            session.request_bytes = bytes;
        }
        let mut seed = [0u8; 32];
        for word in seed.as_chunks_mut::<8>().0 {
            *word = random.bits().to_le_bytes();
        }
        (session, seed)
    }
}

impl Devices {
    /// Logs in all devices.
    ///
    /// # Errors
    /// When sockets or the ring cannot be had, a node refuses a device, or not all are in when the time is over.
    pub fn log_in(config: &DevicesConfig, random: &mut Random) -> anyhow::Result<Devices> {
        let mut fleet = config.fleet()?;
        for index in 0..config.devices()? {
            let (session, seed) = config.session(index, random);
            fleet.add(session, Ports::Free, seed)?;
        }
        let mut devices = Devices { fleet, image_bytes: 0, node: None };
        devices.wait_opened()?;
        Ok(devices)
    }

    fn wait_opened(&mut self) -> anyhow::Result<()> {
        let limit = clock::now() + LOGIN_LIMIT;
        let (mut opened, mut refused) = (0, None);
        while opened < self.fleet.len() {
            let (image_bytes, at) = (&mut self.image_bytes, &mut self.node);
            self.fleet.turn(
                Wait::Until(clock::now() + TURN_MAX),
                |member, _, event, _| match event {
                    Event::Opened { disk, node } => {
                        *image_bytes = disk.size_bytes;
                        *at = Some(node);
                        opened += 1;
                    }
                    Event::Rejected { node, reason, text } => {
                        refused.get_or_insert(format!(
                            "{node} refused device {member}: {reason:?}: {}",
                            text.as_str()
                        ));
                    }
                    _ => {}
                },
            )?;
            if let Some(refused) = refused {
                bail!("{refused}");
            }
            if clock::now() > limit {
                let all = self.fleet.len();
                bail!(
                    "{opened} of {all} devices logged in within {} s: is the node there, with room for them \
                     (--sessions, --boot-limit)?",
                    LOGIN_LIMIT.as_millis() / 1000
                );
            }
        }
        Ok(())
    }

    /// The sessions and their ring, for loops of another kind.
    pub fn fleet_mut(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    /// The sessions, to look at.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Bytes of the vDisk.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Data bytes of a fragment, as negotiated by the first device.
    #[must_use]
    pub fn fragment_bytes(&self) -> usize {
        self.fleet.session(0).status(clock::now()).fragment_bytes
    }

    /// The counters now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let ring = self.fleet.ring_stats();
        let mut counts = Counts {
            enters: ring.enters,
            trains_in: ring.trains_received,
            datagrams_in: ring.datagrams_received,
            starved: ring.receives_starved,
            ..Counts::default()
        };
        for member in 0..self.fleet.len() {
            let session = self.fleet.session(member).counters();
            counts.requests += session.requests;
            counts.retries += session.retries;
            counts.late += session.fragments_late;
            counts.probes += session.probes;
            counts.moves += session.moves;
        }
        counts
    }

    /// Does a job. `edge` is called when the window opens and when it closes.
    ///
    /// # Errors
    /// When the ring fails, or no read ends for [`STALL_LIMIT`].
    pub fn run(
        &mut self,
        job: Job,
        mut edge: impl FnMut(&Devices) -> anyhow::Result<()>,
        mut progress: impl FnMut(u64, u64),
    ) -> anyhow::Result<Tally> {
        let start = clock::now();
        let opens = start + job.ramp;
        let mut closes = opens + job.window;
        let mut work = Work::new(job, self.image_bytes, start);
        if work.job.rate.is_none() {
            self.begin(&mut work, start)?;
        }
        let mut seen = (0, start);
        loop {
            let wait = self.ask_due(&mut work);
            self.fleet.turn(wait, |member, session, event, now| {
                if let Event::ReadDone { token, buffer, result } = event {
                    work.done(member, session, token, buffer, result.err(), now);
                }
            })?;
            let now = clock::now();
            if work.stage == Stage::Ramp && now >= opens {
                edge(self)?;
                // The window is as long as was asked, wherever it begins.
                work.window.0 = clock::now();
                closes = work.window.0 + work.job.window;
                work.stage = Stage::Window;
            }
            if work.stage == Stage::Window && (now >= closes || work.is_over()) {
                edge(self)?;
                work.close(now);
                closes = now;
            }
            if work.is_over() {
                return Ok(work.end());
            }
            if work.stage == Stage::Last && now > closes + LAST_ANSWERS {
                work.give_up(now);
                return Ok(work.end());
            }
            let ended = work.tally.reads_all + work.tally.failed;
            if ended != seen.0 {
                seen = (ended, now);
                progress(ended, now.since(start).as_millis());
            } else if now.since(seen.1) > STALL_LIMIT {
                bail!("no read ended for {} s", STALL_LIMIT.as_millis() / 1000);
            }
        }
    }

    fn begin(&mut self, work: &mut Work, now: Nanos) -> anyhow::Result<()> {
        for member in 0..work.job.devices {
            for slot in 0..work.job.depth {
                let Some(offset) = work.next_offset(member) else { return Ok(()) };
                let token = (member * work.job.depth + slot) as u64;
                work.slots[member * work.job.depth + slot] = Slot { offset, started: now };
                self.fleet
                    .session_mut(member)
                    .read(token, offset, vec![0; work.job.size], now)
                    .map_err(|refused| anyhow::anyhow!("device {member}: {refused}"))?;
                work.outstanding += 1;
            }
        }
        Ok(())
    }

    /// Asks for the reads of an open loop that are due; gives how long the loop may wait.
    fn ask_due(&mut self, work: &mut Work) -> Wait {
        let now = clock::now();
        let idle = Wait::Until(now + TURN_MAX);
        while let Some((member, due)) = work.open.as_mut().and_then(|open| open.due(now)) {
            work.ask(member, self.fleet.session_mut(member), due, now);
        }
        let Some(open) = &work.open else { return idle };
        open.rest(now).map_or(Wait::Never, |rest| Wait::Until(now + rest.earlier(TURN_MAX)))
    }

    /// Says goodbye, so that the node need not find out.
    ///
    /// # Errors
    /// When the ring fails.
    pub fn detach(mut self) -> anyhow::Result<()> {
        let limit = clock::now() + DETACH_LIMIT;
        for member in 0..self.fleet.len() {
            self.fleet.session_mut(member).detach(clock::now());
        }
        let mut closed = 0;
        while closed < self.fleet.len() && clock::now() < limit {
            self.fleet.turn(Wait::Until(clock::now() + TURN_MAX), |_, _, event, _| {
                closed += usize::from(matches!(event, Event::Closed));
            })?;
        }
        Ok(())
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Reads run, nothing is counted yet.
    Ramp,
    /// Reads are counted.
    Window,
    /// No more reads are asked for; those that were due before still are.
    Last,
}

/// A read under way.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    offset: u64,
    /// When it was asked for, or was due; `NEVER` while an open loop does not use the slot.
    started: Nanos,
}

/// A job under way.
struct Work {
    job: Job,
    image_bytes: u64,
    stage: Stage,
    slots: Vec<Slot>,
    outstanding: u64,
    tally: Tally,
    open: Option<OpenLoop>,
    /// Slots of an open loop that no read uses, and their buffers.
    free: Vec<(usize, Vec<u8>)>,
    /// When it opened and closed, as far as it has.
    window: (Nanos, Nanos),
}

impl Work {
    fn new(job: Job, image_bytes: u64, start: Nanos) -> Work {
        let (low, high, digits) = LATENCY;
        let latency = Histogram::new_with_bounds(low, high, digits)
            .expect("bounds and digits are those of the crate's page");
        let tally = Tally {
            reads: 0,
            reads_all: 0,
            failed: 0,
            wrong_bytes: 0,
            latency,
            first_failure: None,
            skipped: 0,
            unfinished: 0,
        };
        let count = job.devices * job.depth;
        let open =
            job.rate.map(|rate| OpenLoop::new(job.devices, job.depth, rate, start, job.seed));
        let free = open.iter().flat_map(|_| (0..count).map(|slot| (slot, vec![0; job.size])));
        let free = free.collect();
        let slots = vec![Slot { offset: 0, started: Nanos::NEVER }; count];
        let window = (Nanos::NEVER, Nanos::NEVER);
        Work {
            job,
            image_bytes,
            stage: Stage::Ramp,
            slots,
            outstanding: 0,
            tally,
            open,
            free,
            window,
        }
    }

    /// Nothing is outstanding, and nothing will be.
    fn is_over(&self) -> bool {
        self.outstanding == 0 && (self.open.is_none() || self.stage == Stage::Last)
    }

    /// The window ends, and nothing that is due later is asked for.
    fn close(&mut self, now: Nanos) {
        self.stage = Stage::Last;
        self.window.1 = now;
        if let Some(open) = &mut self.open {
            open.stop();
        }
    }

    /// Nobody waits any longer for what is missing. Of an open loop that is what the server was too slow for; a read of a closed
    /// one is lost.
    fn give_up(&mut self, now: Nanos) {
        let Some(open) = &mut self.open else {
            self.tally.failed += self.outstanding;
            self.tally.first_failure.get_or_insert_with(|| "it was never answered".to_owned());
            return;
        };
        let asked = self.slots.iter().map(|slot| slot.started).filter(|&at| at != Nanos::NEVER);
        for due in asked.chain(open.waiting()).filter(|&due| due >= self.window.0) {
            self.tally.unfinished += 1;
            self.tally.latency.saturating_record(now.since(due).0.max(LATENCY.0));
        }
    }

    fn end(mut self) -> Tally {
        self.tally.skipped = self.open.map_or(0, |open| open.skipped());
        self.tally
    }

    /// A read of an open loop is due and its device has room for it.
    fn ask(&mut self, member: Member, session: &mut Session, due: Nanos, now: Nanos) {
        let (index, buffer) = self.free.pop().expect("no more reads than slots are outstanding");
        self.read(member, session, index, buffer, due, now);
    }

    fn read(
        &mut self,
        member: Member,
        session: &mut Session,
        index: usize,
        buffer: Vec<u8>,
        due: Nanos,
        now: Nanos,
    ) {
        let Some(offset) = self.next_offset(member) else { return };
        self.slots[index] = Slot { offset, started: due };
        match session.read(index as u64, offset, buffer, now) {
            Ok(()) => self.outstanding += 1,
            Err(refused) => {
                self.tally.failed += 1;
                self.tally.first_failure.get_or_insert_with(|| refused.to_string());
            }
        }
    }

    fn next_offset(&mut self, member: Member) -> Option<u64> {
        self.job.offsets.next(member, self.job.size as u64, self.image_bytes)
    }

    /// Counts an answer and asks for the next read with its buffer.
    fn done(
        &mut self,
        member: Member,
        session: &mut Session,
        token: u64,
        buffer: Vec<u8>,
        error: Option<diskstream_device::session::ReadError>,
        now: Nanos,
    ) {
        let index = usize::try_from(token).expect("tokens are indices of slots");
        let slot = self.slots[index];
        self.outstanding -= 1;
        match error {
            None => self.count(slot, &buffer, now),
            Some(error) => {
                self.tally.failed += 1;
                self.tally.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
        let due = match &mut self.open {
            Some(open) => open.ended(member),
            // A read that failed would fail again at once, and for ever: the loop gets shorter instead.
            None if self.stage == Stage::Last || error.is_some() => return,
            None => Some(now),
        };
        if let Some(due) = due {
            self.read(member, session, index, buffer, due, now);
        } else {
            self.slots[index].started = Nanos::NEVER;
            self.free.push((index, buffer));
        }
    }

    fn count(&mut self, slot: Slot, buffer: &[u8], now: Nanos) {
        self.tally.reads_all += 1;
        let in_window = self.stage == Stage::Window;
        self.tally.reads += u64::from(in_window);
        let latency = if self.open.is_some() {
            // Not the turn's time: what a long turn does before it comes to this answer belongs to the latency.
            let due = slot.started >= self.window.0 && slot.started < self.window.1;
            due.then(|| clock::now().since(slot.started))
        } else {
            in_window.then(|| now.since(slot.started))
        };
        if let Some(latency) = latency {
            self.tally.latency.saturating_record(latency.0.max(LATENCY.0));
        }
        if self.job.check != Check::Nothing {
            let thorough = self.job.check == Check::EveryByte;
            self.tally.wrong_bytes +=
                image::wrong_bytes(self.job.seed, slot.offset, buffer, thorough);
        }
    }
}

/// A locally administered address per device.
#[must_use]
pub fn mac_of(index: u16) -> Mac {
    let [high, low] = index.to_be_bytes();
    Mac([0x02, 0xd5, 0, 0, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_devices_start_apart_and_wrap() {
        let mut offsets = Offsets::sequential(4, 4096, 10 * 4096);
        let first: Vec<_> = (0..4).map(|m| offsets.next(m, 4096, 10 * 4096).unwrap()).collect();
        assert_eq!(first, [0, 2 * 4096, 5 * 4096, 7 * 4096]);
        let rest: Vec<_> = (0..4).map(|_| offsets.next(3, 4096, 10 * 4096).unwrap()).collect();
        assert_eq!(rest, [8 * 4096, 9 * 4096, 0, 4096]);
    }

    #[test]
    fn one_pass_reads_each_stretch_once() {
        let mut offsets = Offsets::Once { next: 0 };
        let all: Vec<_> = std::iter::from_fn(|| offsets.next(0, 8192, 5 * 8192)).collect();
        assert_eq!(all, [0, 8192, 16_384, 24_576, 32_768]);
    }

    #[test]
    fn random_reads_stay_inside_and_aligned() {
        let mut offsets = Offsets::Random(Random::new(5));
        for _ in 0..1000 {
            let offset = offsets.next(0, 8192, 100_000).unwrap();
            assert!(offset + 8192 <= 100_000 && offset.is_multiple_of(8192));
        }
    }

    #[test]
    fn every_device_has_an_address_of_its_own() {
        let all: std::collections::HashSet<_> = (0..=u16::MAX).map(|i| mac_of(i).0).collect();
        assert_eq!(all.len(), 65_536);
        assert!(all.iter().all(|mac| mac[0] == 2));
    }
}
