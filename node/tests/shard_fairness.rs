//! Whose turn it is when a shard has more to do than it can: one greedy device among modest ones, and reads that come faster than
//! they can be answered. Time is a model: what a datagram and a send cost a core, as measured on loopback.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use diskstream_node::shard::{Input, Limits, SocketRole};
use diskstream_wire::{Message, Nanos, decode};

use shard_support::device::Device;
use shard_support::{BLOCK, Setup, UNIT, World, local, sys};

/// A UDP send on loopback, with what the receiver's side of it costs: 3.3 µs and 0.2 ns a byte (measured, `peers`).
fn send_cost(bytes: usize) -> Nanos {
    Nanos(3_300 + bytes as u64 / 5)
}
/// A received datagram: the copy out of the socket and the machine's own part. Measured: half of a send.
const RECEIVE_COST: Nanos = Nanos(1_500);
/// A turn without any work.
const TURN_COST: Nanos = Nanos(500);

/// What became of one device's reads.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Reads asked for, whose data did not come yet: fragments that are missing, and when it was asked.
    open: HashMap<u64, (u32, Nanos)>,
    latencies: Vec<u64>,
    bytes: u64,
    busy: u64,
    asked: u64,
}

impl Seen {
    fn percentile(&mut self, per_cent: usize) -> u64 {
        self.latencies.sort_unstable();
        let last = self.latencies.len() - 1;
        self.latencies[last * per_cent / 100] / 1000
    }
}

/// A shard with devices, on a core of the model.
struct Core {
    world: World,
    devices: Vec<Device>,
    of: HashMap<SocketAddr, usize>,
    seen: Vec<Seen>,
    /// Datagrams in the socket's buffer.
    socket: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Datagrams that it holds: 4 MiB, and 2 KiB of memory for a small one, roughly.
    socket_max: usize,
    dropped: u64,
    /// Devices whose read was lost there, and when they ask again.
    again: VecDeque<(Nanos, usize)>,
}

/// How long a device waits for an answer before it asks again.
const TIME_OUT: Nanos = Nanos::from_millis(12);

impl Core {
    fn new(devices: u8) -> Core {
        let limits = Limits { sessions_max: 128, ..Limits::default() };
        let mut world = World::new(Setup { limits, ..Setup::default() });
        let mut devices: Vec<_> =
            (1..=devices).map(|n| Device::new(n).connect(&mut world)).collect();
        for n in 0..16 {
            devices[0].read_right(&mut world, n * BLOCK as u64, BLOCK);
        }
        world.mail.clear();
        let of = devices.iter().enumerate().map(|(n, device)| (device.at, n)).collect();
        let seen = vec![Seen::default(); devices.len()];
        let socket = VecDeque::new();
        let again = VecDeque::new();
        Core { world, devices, of, seen, socket, socket_max: 2048, dropped: 0, again }
    }

    fn ask(&mut self, n: usize, number: u64, length: usize) {
        let offset = number * 7 % 16 * BLOCK as u64;
        let read = self.devices[n].read_message(offset, length);
        let mut bytes = vec![0; 80];
        read.encode(&mut bytes);
        let fragments = length.div_ceil(UNIT) as u32 * 3;
        let seen = &mut self.seen[n];
        seen.asked += 1;
        if self.socket.len() == self.socket_max {
            self.dropped += 1;
            self.again.push_back((self.world.now + TIME_OUT, n));
            return;
        }
        seen.open.insert(read.request_id, (fragments, self.world.now));
        self.socket.push_back((self.devices[n].at, bytes));
    }

    /// One turn: takes what is in the socket, serves, and lets the time pass that this costs. Gives the devices whose reads ended,
    /// well or with "busy".
    fn turn(&mut self) -> Vec<usize> {
        let World { shards, outs, now, arena, .. } = &mut self.world;
        let (shard, out) = (&mut shards[0], &mut outs[0]);
        let mut cost = TURN_COST;
        // As many completions as the event loop reaps at once.
        for _ in 0..self.socket.len().min(512) {
            let (from, bytes) = self.socket.pop_front().unwrap();
            let input =
                Input::Datagram { socket: SocketRole::Io, from, local: local(), bytes: &bytes };
            shard.step(input, *now, out);
            cost = cost + RECEIVE_COST;
        }
        shard.flush(*now, out);
        let mut ended = Vec::new();
        let mut home = Vec::new();
        for (_, plan) in out.sends.drain(..) {
            let mut payload = Vec::new();
            plan.copy_payload(&mut payload, |offset, len, out| {
                sys::read_arena(arena, offset, len, out);
            });
            cost = cost + send_cost(payload.len());
            let n = self.of[&plan.peer];
            let segment = match plan.segment_bytes {
                0 => payload.len(),
                bytes => usize::from(bytes),
            };
            for bytes in payload.chunks(segment) {
                let seen = &mut self.seen[n];
                match decode(bytes).unwrap().message {
                    Message::ReadData(m) => {
                        seen.bytes += u64::from(m.data_bytes);
                        let open = seen.open.get_mut(&m.request_id).expect("each fragment once");
                        open.0 -= 1;
                        if open.0 == 0 {
                            let (_, asked) = seen.open.remove(&m.request_id).unwrap();
                            seen.latencies.push((*now + cost).since(asked).0);
                            ended.push(n);
                        }
                    }
                    Message::ReadBusy(m) => {
                        seen.busy += 1;
                        seen.open.remove(&m.request_id);
                        ended.push(n);
                    }
                    other => panic!("{other:?}"),
                }
            }
            home.push(plan);
        }
        *now = *now + cost;
        for plan in home {
            shard.step(Input::Sent { plan, result: Ok(1) }, *now, out);
        }
        ended
    }
}

/// Each of the devices keeps so many reads of such a length outstanding, for a second.
fn closed_loop(core: &mut Core, load: impl Fn(usize) -> (usize, usize)) {
    let mut number = 0;
    for n in 0..core.devices.len() {
        for _ in 0..load(n).0 {
            core.ask(n, number, load(n).1);
            number += 1;
        }
    }
    let end = core.world.now + Nanos::from_secs(1);
    while core.world.now < end {
        for n in core.turn() {
            core.ask(n, number, load(n).1);
            number += 1;
        }
    }
}

/// This percentile of the device that is worst off.
fn worst(seen: &mut [Seen], per_cent: usize) -> u64 {
    seen.iter_mut().map(|seen| seen.percentile(per_cent)).max().unwrap()
}

/// The fewest and the most reads that one of these devices had answered.
fn spread(seen: &[Seen]) -> (f64, f64) {
    let counts = || seen.iter().map(|seen| seen.latencies.len());
    (counts().min().unwrap() as f64, counts().max().unwrap() as f64)
}

/// Nobody's reads are forgotten: each got data or "busy", is queued somewhere, was lost in the socket, or was one too many of a
/// device that floods, and counted.
fn assert_all_answered(core: &Core) {
    let sum = |of: &dyn Fn(&Seen) -> u64| core.seen.iter().map(of).sum::<u64>();
    let answered = sum(&|seen| seen.latencies.len() as u64) + sum(&|seen| seen.busy);
    let open = sum(&|seen| seen.open.len() as u64);
    assert_eq!(answered + open + core.dropped, sum(&|seen| seen.asked));
    let counters = core.world.counters(0);
    let known = core.socket.len() as u64 + counters.jobs.get() + counters.replies_dropped.get();
    assert_eq!(open, known, "reads without an answer");
}

#[test]
fn a_greedy_device_takes_little_from_modest_ones() {
    let modest = |_| (1, UNIT);
    let mut alone = Core::new(63);
    closed_loop(&mut alone, modest);
    let mut core = Core::new(64);
    closed_loop(&mut core, |n| if n == 0 { (64, BLOCK) } else { modest(n) });
    let greedy = core.seen.remove(0);
    let (p99, alone_p99) = (worst(&mut core.seen, 99), worst(&mut alone.seen, 99));
    let ((least, most), (before, _)) = (spread(&core.seen), spread(&alone.seen));
    println!(
        "63 modest devices: p99 {p99} µs beside a greedy one, {alone_p99} µs without; {least} to {most} reads each, {before} \
         without; the greedy one has {} MiB/s",
        greedy.bytes >> 20
    );
    // It adds its quantum to each round: two sends, 20 µs. In the order of arrival it would add its 4 MiB: a millisecond.
    assert!(p99 <= alone_p99 + 50, "{p99} µs, {alone_p99} µs alone");
    assert!(least >= most * 0.99 && least >= before * 0.9, "{least} to {most}, {before} alone");
    assert!(greedy.bytes > 100 << 20, "the greedy one gets what is left");
    assert!(greedy.busy == 0 && core.seen.iter().all(|seen| seen.busy == 0), "each may have that");
}

/// The first `floods` devices ask without regard to answers, together so many reads a second; the others keep one read
/// outstanding. For a second.
fn open_loop(core: &mut Core, floods: usize, rate: u64) {
    let every = Nanos(1_000_000_000 / rate);
    let (mut number, mut due) = (0, core.world.now);
    for n in floods..core.devices.len() {
        core.ask(n, n as u64, UNIT);
    }
    let end = core.world.now + Nanos::from_secs(1);
    while core.world.now < end {
        while due <= core.world.now {
            core.ask((number % floods as u64) as usize, number, UNIT);
            number += 1;
            due = due + every;
        }
        let mut asks = core.turn();
        while let Some(&(_, n)) = core.again.front().filter(|(at, _)| *at <= core.world.now) {
            core.again.pop_front();
            asks.push(n);
        }
        for n in asks.into_iter().filter(|&n| n >= floods) {
            core.ask(n, number, UNIT);
        }
    }
}

fn capacity() -> u64 {
    let mut full = Core::new(64);
    closed_loop(&mut full, |_| (16, UNIT));
    full.seen.iter().map(|seen| seen.latencies.len() as u64).sum()
}

#[test]
fn at_four_times_the_capacity_goodput_stays_and_nobody_starves() {
    let capacity = capacity();
    println!("capacity: {capacity} reads/s");
    for times in [1, 2, 4] {
        let mut core = Core::new(64);
        open_loop(&mut core, 64, capacity * times);
        let (least, most) = spread(&core.seen);
        let served: usize = core.seen.iter().map(|seen| seen.latencies.len()).sum();
        let goodput = served as f64 / capacity as f64;
        println!(
            "{times} x: goodput {goodput:.2}, p99 {} µs, {} lost in the socket; {least} to {most} each",
            worst(&mut core.seen, 99),
            core.dropped
        );
        assert_all_answered(&core);
        assert!(goodput >= 0.9, "{goodput}");
        assert!(least >= most * 0.95, "{least} to {most}: somebody starves");
    }
}

#[test]
fn a_device_that_floods_is_told_that_the_node_is_busy_and_the_others_do_not_notice() {
    let capacity = capacity();
    let mut alone = Core::new(63);
    closed_loop(&mut alone, |_| (1, UNIT));
    // What a core can receive is shared, and bounded; so is the flood.
    let mut core = Core::new(64);
    open_loop(&mut core, 1, capacity);
    assert_all_answered(&core);
    let flood = core.seen.remove(0);
    let (p99, alone_p99) = (worst(&mut core.seen, 99), worst(&mut alone.seen, 99));
    let ((least, most), (before, _)) = (spread(&core.seen), spread(&alone.seen));
    println!(
        "63 modest devices: p99 {p99} µs beside a flood, {alone_p99} µs without; {least} to {most} reads each, {before} without; \
         the flood: {} asked, {} answered, {} busy; {} lost in the socket",
        flood.asked,
        flood.latencies.len(),
        flood.busy,
        core.dropped
    );
    assert!(flood.busy > 1000, "{} busy", flood.busy);
    assert!(flood.latencies.len() as f64 >= most, "the flood has its share too");
    assert!(core.seen.iter().all(|seen| seen.busy == 0), "nobody else's queue is full");
    assert!(least >= most * 0.95 && least >= before * 0.3, "{least} to {most}, {before} alone");
}
