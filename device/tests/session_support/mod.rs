//! A scripted node, and a world in which a session meets several of them over a network that loses, delays, repeats and
//! spoils datagrams. Nothing here shares code with the session but the wire.

#![allow(dead_code, clippy::unwrap_used, reason = "test code, of which each program uses its part")]

pub mod node;
pub mod served;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;

use diskstream_device::session::{Channel, Event, ReadError, Session, SessionConfig};
use diskstream_wire::{Mac, Nanos};

pub use node::{Image, Node};

pub const DEVICE_IP: [u8; 4] = [10, 0, 0, 200];

pub fn ms(ms: u64) -> Nanos {
    Nanos::from_millis(ms)
}

pub fn node_addr(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 6910))
}

pub fn mac() -> Mac {
    "52:54:00:12:34:56".parse().unwrap()
}

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

impl Packet {
    pub fn kind(&self) -> u8 {
        self.bytes[3]
    }

    pub fn to_device(&self) -> bool {
        self.to.ip() == SocketAddr::from((DEVICE_IP, 0)).ip()
    }
}

/// What the network does with a datagram.
pub enum Fate {
    Deliver,
    Drop,
    Twice,
    Late(Nanos),
    Spoil(usize),
}

type Network = Box<dyn FnMut(&Packet, Nanos) -> Fate>;

/// One device, some nodes, a network between them and a clock.
pub struct World {
    pub session: Session,
    pub nodes: Vec<Node>,
    pub now: Nanos,
    pub delay: Nanos,
    pub network: Network,
    pub events: Vec<Event>,
    pub sent: Vec<Packet>,
    pub record: bool,
    queue: BinaryHeap<Reverse<(Nanos, u64, Packet)>>,
    sequence: u64,
    next_token: u64,
    buffer: Vec<u8>,
}

pub fn config(nodes: usize) -> SessionConfig {
    let servers = (1..=nodes).map(|n| node_addr(u8::try_from(n).unwrap())).collect();
    let mut config = SessionConfig::new(servers, mac());
    config.notice_port = 6902;
    config.receive_buffer_bytes = 4 << 20;
    config
}

impl World {
    /// `count` nodes with the same image.
    pub fn new(count: usize, image_bytes: usize) -> World {
        World::with_config(config(count), count, image_bytes)
    }

    /// The same with other random numbers in the device.
    pub fn with_seed(count: usize, image_bytes: usize, seed: u8) -> World {
        let mut world = World::new(count, image_bytes);
        world.session = Session::new(config(count), [seed; 32], world.now).unwrap();
        world
    }

    pub fn with_config(config: SessionConfig, count: usize, image_bytes: usize) -> World {
        let image = Image::new(image_bytes);
        let list: Vec<SocketAddr> =
            (1..=count).map(|n| node_addr(u8::try_from(n).unwrap())).collect();
        let nodes = list.iter().map(|&a| Node::new(a, image.clone(), list.clone())).collect();
        let session = Session::new(config, [9; 32], Nanos::from_secs(1)).unwrap();
        World {
            session,
            nodes,
            now: Nanos::from_secs(1),
            delay: Nanos::from_micros(50),
            network: Box::new(|_, _| Fate::Deliver),
            events: Vec::new(),
            sent: Vec::new(),
            record: false,
            queue: BinaryHeap::new(),
            sequence: 0,
            next_token: 0,
            buffer: Vec::new(),
        }
    }

    pub fn node(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number) - 1]
    }

    pub fn set_network(&mut self, network: impl FnMut(&Packet, Nanos) -> Fate + 'static) {
        self.network = Box::new(network);
    }

    fn push(&mut self, packet: Packet, at: Nanos) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, packet)));
    }

    pub fn transmit(&mut self, packet: Packet) {
        if self.record {
            self.sent.push(packet.clone());
        }
        let at = self.now + self.delay;
        match (self.network)(&packet, self.now) {
            Fate::Deliver => self.push(packet, at),
            Fate::Drop => {}
            Fate::Twice => {
                self.push(packet.clone(), at);
                self.push(packet, at);
            }
            Fate::Late(by) => self.push(packet, at + by),
            Fate::Spoil(byte) => {
                let mut packet = packet;
                let at_byte = byte % packet.bytes.len();
                packet.bytes[at_byte] ^= 0x40;
                self.push(packet, at);
            }
        }
    }

    fn flush(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.events.push(event);
        }
        let mut out = std::mem::take(&mut self.buffer);
        while let Some(train) = self.session.poll_send(self.now, &mut out) {
            assert_eq!(out.len() % train.segment_bytes, 0);
            let port = match train.channel {
                Channel::Login => 6901,
                Channel::Io => 6905,
                Channel::Notice => 6902,
            };
            let from = SocketAddr::from((DEVICE_IP, port));
            for bytes in out.chunks(train.segment_bytes) {
                self.transmit(Packet { from, to: train.to, bytes: bytes.to_vec() });
            }
            self.session.check_invariants();
        }
        self.buffer = out;
        while let Some(event) = self.session.poll_event() {
            self.events.push(event);
        }
    }

    /// Goes to the next thing that happens; false when nothing ever will, or not before `until`.
    pub fn step(&mut self, until: Nanos) -> bool {
        self.flush();
        let arrival = self.queue.peek().map_or(Nanos::NEVER, |Reverse((at, ..))| *at);
        let nodes = self.nodes.iter().map(Node::next_due).min().unwrap_or(Nanos::NEVER);
        let next = arrival.earlier(self.session.next_deadline()).earlier(nodes);
        if next > until {
            self.now = self.now.max(until);
            return false;
        }
        self.now = self.now.max(next);
        let mut out = Vec::new();
        while let Some(Reverse((at, ..))) = self.queue.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, packet))) = self.queue.pop() else { break };
            if packet.to_device() {
                let channel = match packet.to.port() {
                    6901 => Channel::Login,
                    6902 => Channel::Notice,
                    _ => Channel::Io,
                };
                self.session.handle_datagram(channel, packet.from, &packet.bytes, self.now);
                self.session.check_invariants();
            } else if let Some(node) =
                self.nodes.iter_mut().find(|n| n.login.ip() == packet.to.ip())
            {
                node.handle(&packet, self.now, &mut out);
            }
        }
        for node in &mut self.nodes {
            node.tick(self.now, &mut out);
        }
        for packet in out {
            self.transmit(packet);
        }
        self.session.tick(self.now);
        self.session.check_invariants();
        true
    }

    pub fn run_for(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.step(until) {}
        self.flush();
    }

    /// Runs until something holds; panics with the story when it does not within `limit`.
    pub fn run_until(&mut self, limit: Nanos, mut done: impl FnMut(&World) -> bool) {
        let until = self.now + limit;
        self.flush();
        while !done(self) {
            if !self.step(until) {
                self.flush();
                assert!(
                    done(self),
                    "not within {} ms: {:?}\nevents {:?}\nnext deadline {:?} at {:?}",
                    limit.as_millis(),
                    self.session.status(self.now),
                    self.event_names(),
                    self.session.next_deadline(),
                    self.now
                );
                return;
            }
            self.flush();
        }
    }

    pub fn open(&mut self) {
        self.run_until(Nanos::from_secs(5), |w| w.session.disk().is_some());
    }

    pub fn start_read(&mut self, offset: u64, length: usize) -> u64 {
        self.next_token += 1;
        self.session.read(self.next_token, offset, vec![0xa5; length], self.now).unwrap();
        self.next_token
    }

    pub fn result_of(&self, token: u64) -> Option<(&[u8], Result<(), ReadError>)> {
        self.events.iter().find_map(|event| match event {
            Event::ReadDone { token: t, buffer, result } if *t == token => {
                Some((buffer.as_slice(), *result))
            }
            _ => None,
        })
    }

    /// Waits for a read and checks its bytes.
    pub fn finish_read(&mut self, token: u64, offset: u64, limit: Nanos) {
        self.run_until(limit, |w| w.result_of(token).is_some());
        let image = self.nodes[0].image.clone();
        let (buffer, result) = self.result_of(token).unwrap();
        assert_eq!(result, Ok(()));
        assert!(buffer == image.range(offset, buffer.len()), "the bytes are the image's");
    }

    pub fn read(&mut self, offset: u64, length: usize, limit: Nanos) -> Nanos {
        let started = self.now;
        let token = self.start_read(offset, length);
        self.finish_read(token, offset, limit);
        self.now.since(started)
    }

    pub fn event_names(&self) -> Vec<String> {
        self.events
            .iter()
            .map(|event| match event {
                Event::ReadDone { token, result, .. } => format!("ReadDone({token}, {result:?})"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    pub fn count_events(&self, pick: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| pick(event)).count()
    }

    /// Kinds of the datagrams that the device sent, in order.
    pub fn kinds_sent(&self) -> Vec<u8> {
        self.sent.iter().filter(|p| !p.to_device()).map(Packet::kind).collect()
    }
}
