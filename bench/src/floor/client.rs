//! The responder's load: sockets like the fleet's, on a ring like the fleet's, with nothing of a device behind them.
//!
//! A socket stands for a device, and keeps as many reads outstanding as that would. What a device's session does beside (windows,
//! tickets, keep-alive, check sums) is left out; bytes are put together and checked, and only whole reads are counted.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use diskstream_ring::{
    Completion, Completions, Datagram, Ring, RingConfig, SendPlan, SocketConfig, SocketId,
    UdpSocket, Wait, clock,
};
use diskstream_wire::Nanos;
use hdrhistogram::Histogram;

use super::bare::{Cut, Header, REQUEST_BYTES, Request};
use crate::fleet::{self, Offsets};
use crate::image;

/// As the sockets of a device have them (`device::driver::sockets`).
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// As a fleet's ring has them (`fleet::Devices::log_in`).
const RECEIVE_BUFFER_OF_RING_BYTES: u32 = 65_536;
/// The longest turn without anything to do, as the fleet's.
const TURN_MAX: Nanos = Nanos::from_millis(20);
/// A read is asked for again after this: ten times what the slowest waits without loss (500 devices, 10 ms).
const REPEAT_AFTER: Nanos = Nanos::from_millis(100);
/// Requests of one send at most (`UDP_MAX_SEGMENTS` before Linux 6.9).
const TRAIN_MAX: usize = 64;
/// Low bits of a tag name the slot, the rest count its reads, so that late answers are told apart.
const SLOT_BITS: u32 = 16;

/// What to read, from whom.
#[derive(Clone, Debug)]
pub struct ClientJob {
    /// The responder.
    pub server: SocketAddr,
    /// Sockets, each in place of a device.
    pub sockets: usize,
    /// Reads outstanding on each.
    pub depth: usize,
    /// Bytes of a read.
    pub size: usize,
    /// Where.
    pub offsets: Offsets,
    /// Compare every byte, not just each unit's stamp.
    pub thorough: bool,
    /// Seed of the image's bytes.
    pub seed: u64,
    /// Its length.
    pub image_bytes: u64,
    /// How datagrams are cut.
    pub cut: Cut,
    /// Time before the window opens.
    pub ramp: Nanos,
    /// Length of the window.
    pub window: Nanos,
}

/// What came of it.
#[derive(Debug)]
pub struct ClientTally {
    /// Reads that ended within the window, whole.
    pub reads: u64,
    /// Bytes that are not the image's, in the window or not.
    pub wrong_bytes: u64,
    /// Reads that were asked for again, in the window or not.
    pub repeats: u64,
    /// Latencies of the window's reads in nanoseconds.
    pub latency: Histogram<u64>,
}

/// A read under way.
#[derive(Debug)]
struct Slot {
    offset: u64,
    started: Nanos,
    asked: Nanos,
    tag: u32,
    /// Datagrams that have not arrived.
    missing: usize,
    arrived: Vec<u64>,
    buffer: Vec<u8>,
}

/// Reads for a ramp and a window. `edge` is called when the window opens and when it closes.
///
/// # Errors
/// When there is no ring or socket, or nothing is answered at all.
pub fn run(
    job: ClientJob,
    mut edge: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<ClientTally> {
    let mut client = Client::new(job)?;
    let start = clock::now();
    let (opens, mut closes) = (start + client.job.ramp, Nanos::NEVER);
    client.begin(start);
    let mut checked = start;
    loop {
        client.turn()?;
        let now = clock::now();
        if now >= opens && closes == Nanos::NEVER {
            edge()?;
            closes = clock::now() + client.job.window;
            client.counting = true;
        }
        if now >= closes {
            edge()?;
            ensure!(
                client.tally.reads > 0,
                "no read of the responder ended within the window; give more --seconds"
            );
            return Ok(client.tally);
        }
        if now.since(checked) >= TURN_MAX {
            checked = now;
            client.repeat(now);
        }
    }
}

struct Client {
    job: ClientJob,
    ring: Ring,
    sockets: Vec<SocketId>,
    completions: Completions,
    #[expect(clippy::vec_box, reason = "the ring takes and gives back boxes")]
    plans: Vec<Box<SendPlan>>,
    slots: Vec<Slot>,
    /// Slots to ask for, by socket.
    wanted: Vec<VecDeque<usize>>,
    /// Sockets with something wanted.
    dirty: Vec<usize>,
    counting: bool,
    tally: ClientTally,
}

impl Client {
    fn new(job: ClientJob) -> anyhow::Result<Client> {
        let sockets = u16::try_from(job.sockets).context("more sockets than ports")?;
        let count = job.sockets * job.depth;
        ensure!(count <= 1 << SLOT_BITS, "{count} reads at once are more than a tag can name");
        let receives = sockets.saturating_mul(4).clamp(256, 8192).next_power_of_two();
        let sends = sockets.clamp(64, 1024);
        let config = RingConfig {
            recv_buffers: receives,
            recv_buffer_bytes: RECEIVE_BUFFER_OF_RING_BYTES,
            sends,
            reads: 0,
            sockets: sockets.saturating_add(2),
            files: 0,
            ..RingConfig::default()
        };
        let mut ring = Ring::new(&config, None)?;
        let any = if job.server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
        let attach = |_| -> anyhow::Result<SocketId> {
            let mut config = SocketConfig::new(SocketAddr::new(any, 0));
            config.recv_buffer_bytes = RECEIVE_BUFFER_BYTES;
            config.send_buffer_bytes = SEND_BUFFER_BYTES;
            config.gro = true;
            config.dont_fragment = true;
            Ok(ring.add_socket(UdpSocket::bind(&config)?)?)
        };
        let sockets: Vec<_> = (0..job.sockets).map(attach).collect::<anyhow::Result<_>>()?;
        let words = job.cut.datagrams(job.size).div_ceil(64);
        let slot = |index: usize| Slot {
            offset: 0,
            started: Nanos::ZERO,
            asked: Nanos::ZERO,
            tag: u32::try_from(index).expect("checked above"),
            missing: 0,
            arrived: vec![0; words],
            buffer: vec![0; job.size],
        };
        let (low, high, digits) = fleet::LATENCY;
        let latency = Histogram::new_with_bounds(low, high, digits)
            .expect("bounds and digits are those of the crate's page");
        Ok(Client {
            completions: Completions::new(usize::from(receives) + usize::from(sends) + 8),
            plans: (0..sends).map(|_| SendPlan::new()).collect(),
            slots: (0..count).map(slot).collect(),
            wanted: vec![VecDeque::with_capacity(job.depth); job.sockets],
            dirty: Vec::with_capacity(job.sockets),
            counting: false,
            tally: ClientTally { reads: 0, wrong_bytes: 0, repeats: 0, latency },
            job,
            ring,
            sockets,
        })
    }

    fn begin(&mut self, now: Nanos) {
        for slot in 0..self.slots.len() {
            self.ask(slot, now);
        }
    }

    /// Chooses the next read of a slot.
    fn ask(&mut self, index: usize, now: Nanos) {
        let (socket, size) = (index / self.job.depth, self.job.size as u64);
        // Both patterns that are used here go on for ever.
        let Some(offset) = self.job.offsets.next(socket, size, self.job.image_bytes) else {
            return;
        };
        let slot = &mut self.slots[index];
        (slot.offset, slot.started) = (offset, now);
        self.want(index, now);
    }

    /// Asks for what a slot reads, under a new tag.
    fn want(&mut self, index: usize, now: Nanos) {
        let slot = &mut self.slots[index];
        slot.tag = slot.tag.wrapping_add(1 << SLOT_BITS);
        slot.asked = now;
        slot.missing = self.job.cut.datagrams(self.job.size);
        slot.arrived.fill(0);
        let socket = index / self.job.depth;
        if self.wanted[socket].is_empty() {
            self.dirty.push(socket);
        }
        self.wanted[socket].push_back(index);
    }

    /// Asks again for what has not come for too long.
    fn repeat(&mut self, now: Nanos) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            let waits = self.wanted[index / self.job.depth].contains(&index);
            if slot.missing > 0 && !waits && now.since(slot.asked) > REPEAT_AFTER {
                self.tally.repeats += 1;
                self.want(index, now);
            }
        }
    }

    /// One system call: what is wanted goes out, what has arrived comes in.
    fn turn(&mut self) -> anyhow::Result<()> {
        while let Some(socket) = self.dirty.pop() {
            if !self.send(socket) {
                self.dirty.push(socket);
                break;
            }
        }
        self.ring.turn(Wait::Until(clock::now() + TURN_MAX), &mut self.completions)?;
        let now = clock::now();
        let mut completions = std::mem::replace(&mut self.completions, Completions::new(1));
        for completion in completions.drain() {
            match completion {
                Completion::Received(received) => {
                    self.receive(&received, now);
                    self.ring.recycle(received);
                }
                Completion::Sent { plan, .. } => self.plans.push(plan),
                Completion::SocketError { .. } | Completion::Woken | Completion::Read { .. } => {}
            }
        }
        self.completions = completions;
        Ok(())
    }

    /// Sends what a socket wants, as trains; false when plans ran out.
    fn send(&mut self, socket: usize) -> bool {
        while !self.wanted[socket].is_empty() {
            let Some(mut plan) = self.plans.pop() else { return false };
            plan.reset();
            plan.peer = self.job.server;
            let count = self.wanted[socket].len().min(TRAIN_MAX);
            plan.segment_bytes =
                if count > 1 { u16::try_from(REQUEST_BYTES).expect("16") } else { 0 };
            for &index in self.wanted[socket].iter().take(count) {
                let slot = &self.slots[index];
                let length = u32::try_from(self.job.size).expect("a read is at most 1 MiB");
                let request = Request { tag: slot.tag, length, offset: slot.offset };
                plan.push_scratch(&request.bytes()).expect("64 requests are shorter than a plan");
            }
            match self.ring.send(self.sockets[socket], plan) {
                Ok(()) => drop(self.wanted[socket].drain(..count)),
                Err((_, plan)) => {
                    self.plans.push(plan);
                    return false;
                }
            }
        }
        true
    }

    fn receive(&mut self, received: &diskstream_ring::Received, now: Nanos) {
        let Client { ring, slots, job, .. } = self;
        let datagram: Datagram<'_> = ring.datagram(received);
        // A train may hold the ends of several reads; their slots are asked for anew when it has been read.
        let mut whole = [0usize; TRAIN_MAX];
        let mut count = 0;
        for segment in datagram.segments() {
            if let Some(index) = take(slots, job, segment)
                && count < TRAIN_MAX
            {
                whole[count] = index;
                count += 1;
            }
        }
        for &index in &whole[..count] {
            self.done(index, now);
        }
    }

    fn done(&mut self, index: usize, now: Nanos) {
        let slot = &self.slots[index];
        if self.counting {
            self.tally.reads += 1;
            let latency = now.since(slot.started).0.max(fleet::LATENCY.0);
            self.tally.latency.saturating_record(latency);
        }
        self.tally.wrong_bytes +=
            image::wrong_bytes(self.job.seed, slot.offset, &slot.buffer, self.job.thorough);
        self.ask(index, now);
    }
}

/// Puts a reply where it belongs; gives the slot when its read is whole.
fn take(slots: &mut [Slot], job: &ClientJob, datagram: &[u8]) -> Option<usize> {
    let (header, data) = Header::split(datagram)?;
    let index = (header.tag & ((1 << SLOT_BITS) - 1)) as usize;
    let slot = slots.get_mut(index).filter(|slot| slot.tag == header.tag)?;
    let number = header.number as usize;
    let at = number.checked_mul(job.cut.data)?;
    let place = slot.buffer.get_mut(at..job.size.min(at + job.cut.data))?;
    let (word, bit) = (number / 64, 1u64 << (number % 64));
    let arrived = slot.arrived.get_mut(word)?;
    if place.len() != data.len() || *arrived & bit != 0 {
        return None;
    }
    *arrived |= bit;
    place.copy_from_slice(data);
    slot.missing -= 1;
    (slot.missing == 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn job() -> ClientJob {
        ClientJob {
            server: SocketAddr::from(([127, 0, 0, 1], 9)),
            sockets: 1,
            depth: 2,
            size: 4096,
            offsets: Offsets::Random(Random::new(1)),
            thorough: true,
            seed: 1,
            image_bytes: 1 << 20,
            cut: Cut::new(1472),
            ramp: Nanos::ZERO,
            window: Nanos::ZERO,
        }
    }

    #[test]
    fn a_read_is_whole_when_each_of_its_datagrams_came_once() {
        let job = job();
        let mut client = Client::new(job.clone()).unwrap();
        client.begin(Nanos::ZERO);
        let tag = client.slots[1].tag;
        let reply = |number: u32, bytes: usize| {
            let mut datagram = Header { tag, number, length: 4096 }.bytes().to_vec();
            datagram.resize(16 + bytes, 7);
            datagram
        };
        let slots = &mut client.slots;
        for bad in [reply(0, 1455), reply(3, 1456), reply(u32::MAX, 1456), vec![0; 5]] {
            assert_eq!(take(slots, &job, &bad), None, "{} bytes", bad.len());
        }
        assert_eq!(take(slots, &job, &reply(2, 1184)), None);
        assert_eq!(take(slots, &job, &reply(0, 1456)), None);
        assert_eq!(take(slots, &job, &reply(0, 1456)), None, "twice");
        assert_eq!(take(slots, &job, &reply(1, 1456)), Some(1));
        // Asked for again: what still comes under the old tag is no answer.
        client.want(1, Nanos::ZERO);
        assert_eq!(take(&mut client.slots, &job, &reply(0, 1456)), None);
        assert_eq!(client.slots[1].missing, 3);
    }
}
