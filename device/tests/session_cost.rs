//! What the session costs: no allocation at steady state, and some tens of nanoseconds for each fragment.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;
#[path = "session_counting/sys.rs"]
mod sys;

use std::net::SocketAddr;

use diskstream_device::session::{Channel, Event, Session};
use diskstream_ring::clock;
use diskstream_wire::{FragmentSize, Nanos, Read, ReadData};
use session_support::{World, ms, node_addr};

#[global_allocator]
static ALLOCATOR: sys::Counting = sys::Counting;

const READ_BYTES: usize = 128 * 1024;

/// An open session, and ready-made answers to whatever it asks of an image without zeros.
struct Rig {
    session: Session,
    now: Nanos,
    image: Vec<u8>,
    sums: Vec<u32>,
    generation: u64,
    train: Vec<u8>,
    asked: Vec<Read>,
    datagram: Vec<u8>,
    io: SocketAddr,
    buffers: Vec<Vec<u8>>,
    fragments: u64,
}

impl Rig {
    fn new() -> Rig {
        let mut world = World::new(1, 4 << 20);
        world.open();
        world.read(0, 1 << 20, ms(500));
        world.run_for(ms(10));
        let generation = world.nodes[0].image.content_id.generation();
        let mut image = vec![0u8; 4 << 20];
        for (i, byte) in image.iter_mut().enumerate() {
            *byte = (i * 7 + i / 256).to_le_bytes()[0] | 1;
        }
        let sums = image.chunks(4096).map(crc32c::crc32c).collect();
        let mut io = node_addr(1);
        io.set_port(6911);
        Rig {
            session: world.session,
            now: world.now,
            image,
            sums,
            generation,
            train: Vec::with_capacity(9000),
            asked: Vec::with_capacity(1024),
            datagram: vec![0; 1452],
            io,
            buffers: (0..8).map(|_| vec![0; READ_BYTES]).collect(),
            fragments: 0,
        }
    }

    /// Collects the requests that the session sends; gives the time that the session took.
    fn collect(&mut self) -> u64 {
        let started = clock::now();
        let mut waited = Nanos::ZERO;
        while let Some(train) = self.session.poll_send(self.now, &mut self.train) {
            let parsed = clock::now();
            for bytes in self.train.chunks(train.segment_bytes) {
                if bytes[3] == Read::KIND {
                    self.asked.push(Read::decode(bytes).unwrap().0);
                }
            }
            waited = waited + clock::now().since(parsed);
        }
        clock::now().since(started + waited).0
    }

    /// Answers everything asked; gives the time that the session took.
    fn answer(&mut self) -> u64 {
        let mut spent = 0;
        while let Some(read) = self.asked.pop() {
            let length = read.length as usize;
            let base = usize::try_from(read.offset).unwrap() % self.image.len();
            for index in
                (0..FragmentSize::B1376.count(length)).filter(|i| read.wanted & 1 << i != 0)
            {
                let range = FragmentSize::B1376.range(index, length).unwrap();
                let data = ReadData {
                    tag: read.tag,
                    request_id: read.request_id,
                    generation: self.generation,
                    offset: read.offset + range.offset as u64,
                    fragment: u8::try_from(index).unwrap(),
                    pad_bytes: u8::try_from(1376 - range.bytes).unwrap(),
                    data_bytes: u16::try_from(range.bytes).unwrap(),
                    unit_sum: self.sums[(base + range.offset) / 4096],
                    attempt: read.attempt,
                    ..ReadData::default()
                };
                self.datagram.fill(0);
                data.encode_head(1452, &mut self.datagram);
                let at = base + range.offset;
                self.datagram[1452 - range.bytes..]
                    .copy_from_slice(&self.image[at..at + range.bytes]);
                let started = clock::now();
                self.session.handle_datagram(Channel::Io, self.io, &self.datagram, self.now);
                spent += clock::now().since(started).0;
                self.fragments += 1;
            }
        }
        spent
    }

    /// One turn of a device that reads all the time; gives the session's nanoseconds.
    fn turn(&mut self) -> u64 {
        let now = self.now;
        let started = clock::now();
        while let Some(buffer) = self.buffers.pop() {
            self.session.read(1, 0, buffer, now).unwrap();
        }
        let mut spent = clock::now().since(started).0;
        spent += self.collect();
        self.now = now + Nanos::from_micros(100);
        spent += self.answer();
        let started = clock::now();
        self.session.tick(self.now);
        while let Some(event) = self.session.poll_event() {
            if let Event::ReadDone { buffer, result, .. } = event {
                assert_eq!(result, Ok(()));
                self.buffers.push(buffer);
            }
        }
        spent + clock::now().since(started).0
    }
}

#[test]
fn steady_reading_allocates_nothing() {
    let mut rig = Rig::new();
    for _ in 0..200 {
        rig.turn();
    }
    let before = sys::allocations();
    let reads = rig.session.counters().reads;
    for _ in 0..500 {
        rig.turn();
    }
    assert_eq!(sys::allocations() - before, 0, "allocations at steady state");
    assert!(rig.session.counters().reads > reads + 1000, "it was reading all the time");
    rig.session.check_invariants();
}

#[test]
fn a_fragment_costs_little() {
    let mut rig = Rig::new();
    for _ in 0..200 {
        rig.turn();
    }
    // The clock itself costs two readings for each fragment.
    let started = clock::now();
    for _ in 0..100_000 {
        std::hint::black_box(clock::now());
    }
    let clock_ns = clock::now().since(started).0 / 100_000;
    let fragments = rig.fragments;
    let spent: u64 = (0..300).map(|_| rig.turn()).sum();
    let fragments = rig.fragments - fragments;
    let each = (spent / fragments).saturating_sub(clock_ns);
    let mib_s = 1376 * 1000 / each.max(1) * 1_000_000 / (1 << 20);
    println!(
        "{each} ns a fragment, sums and requests included: {mib_s} MiB/s on one core ({fragments} fragments)"
    );
    // Guess with room for a debug build on a busy machine; a release build on an idle one takes some 150 ns.
    assert!(each < 5000, "{each} ns");
}
