//! A loop of reads. Closed: each device keeps as many outstanding as it is told, and asks for the next one when one is done.
//! Open: reads are asked for by the clock (see [`crate::open_loop`]), and latencies count from when they were due.
//!
//! Buffers travel: a read's buffer comes back with its answer and goes out with the next read, so nothing is allocated per
//! read. What the loop does per read beside that is one histogram entry and the check of the bytes.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use diskstream_device::driver::{Fleet, FleetConfig, Member, Ports};
use diskstream_device::session::{Event, ReadError, Session, SessionConfig};
use diskstream_ring::{Wait, clock};
use diskstream_wire::{Mac, Nanos};
use hdrhistogram::Histogram;

use crate::book::{Asked, Book, Step};
use crate::random::Random;

/// The longest turn without anything to do, so that stage changes are noticed. Guessed.
const TURN_MAX: Nanos = Nanos::from_millis(20);
/// Devices must have logged in after this: 4,096 of them take about a second here. Guessed.
const LOGIN_LIMIT: Nanos = Nanos::from_secs(30);
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
    /// When the ring fails, or no read ends for long.
    pub fn run(
        &mut self,
        job: Job,
        mut edge: impl FnMut(&Devices) -> anyhow::Result<()>,
        mut progress: impl FnMut(u64, u64),
    ) -> anyhow::Result<Tally> {
        let start = clock::now();
        let mut work = Work::new(job, self.image_bytes, start);
        self.begin(&mut work, start)?;
        let mut seen = 0;
        loop {
            let wait = self.ask_due(&mut work);
            self.fleet.turn(wait, |member, session, event, now| {
                if let Event::ReadDone { token, buffer, result } = event {
                    work.done(member, session, token, buffer, result.err(), now);
                }
            })?;
            let now = clock::now();
            match work.book.step(now)? {
                Step::On => {}
                Step::Edge => edge(self)?,
                Step::Over => return Ok(work.end(now)),
            }
            let ended = work.book.ended_count();
            if ended != seen {
                seen = ended;
                progress(ended, now.since(start).as_millis());
            }
        }
    }

    /// Asks for what a closed loop keeps outstanding.
    fn begin(&mut self, work: &mut Work, now: Nanos) -> anyhow::Result<()> {
        for index in 0..work.slots.len() {
            let buffer = vec![0; work.book.size()];
            if work.book.is_open() {
                work.free.push((index, buffer));
                continue;
            }
            let member = index / work.depth;
            let Some(asked) = work.book.ask(member, now) else { return Ok(()) };
            work.slots[index] = Some(asked);
            self.fleet
                .session_mut(member)
                .read(index as u64, asked.offset, buffer, now)
                .map_err(|refused| anyhow::anyhow!("device {member}: {refused}"))?;
        }
        Ok(())
    }

    /// Asks for the reads of an open loop that are due; gives how long the loop may wait.
    fn ask_due(&mut self, work: &mut Work) -> Wait {
        let now = clock::now();
        while let Some((member, due)) = work.book.due(now) {
            let (index, buffer) =
                work.free.pop().expect("no more reads than slots are outstanding");
            work.read(member, self.fleet.session_mut(member), index, buffer, due, now);
        }
        work.book.rest(now).map_or(Wait::Never, |rest| Wait::Until(now + rest))
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

/// A job under way.
struct Work {
    book: Book,
    /// Reads that each device has outstanding at most.
    depth: usize,
    /// Reads under way: a device's lie together.
    slots: Vec<Option<Asked>>,
    /// Slots of an open loop that no read uses, and their buffers.
    free: Vec<(usize, Vec<u8>)>,
}

impl Work {
    fn new(job: Job, image_bytes: u64, start: Nanos) -> Work {
        let (depth, count) = (job.depth, job.devices * job.depth);
        let book = Book::new(job, image_bytes, start);
        Work { book, depth, slots: vec![None; count], free: Vec::new() }
    }

    fn end(self, now: Nanos) -> Tally {
        self.book.close(self.slots.into_iter().flatten(), now)
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
        let Some(asked) = self.book.ask(member, due) else { return };
        self.slots[index] = Some(asked);
        if let Err(refused) = session.read(index as u64, asked.offset, buffer, now) {
            self.slots[index] = None;
            self.book.refused(refused.to_string(), now);
        }
    }

    /// Counts an answer and asks for the next read with its buffer.
    fn done(
        &mut self,
        member: Member,
        session: &mut Session,
        token: u64,
        buffer: Vec<u8>,
        error: Option<ReadError>,
        now: Nanos,
    ) {
        let index = usize::try_from(token).expect("tokens are indices of slots");
        let asked = self.slots[index].take().expect("a read ends once");
        let due = if let Some(error) = error {
            self.book.failed(member, error.to_string(), now)
        } else {
            // Of an open loop not the turn's time: what a long turn does before it comes to this answer belongs to the latency.
            let at = if self.book.is_open() { clock::now() } else { now };
            let due = self.book.ended(member, asked, at);
            self.book.check(asked, 0, &buffer);
            due
        };
        match due {
            Some(due) => self.read(member, session, index, buffer, due, now),
            None if self.book.is_open() => self.free.push((index, buffer)),
            None => {}
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
