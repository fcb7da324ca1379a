//! Nodes' peers on a simulated network: loss, delay, cuts, crashes and an attacker who hears everything.
#![allow(dead_code, reason = "each test uses a part")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;

use diskstream_node::peers::{OwnReport, PeerAddress, PeerConfig, PeerEvent, Peers};
use diskstream_node::trust::{FarmKey, Keys};
use diskstream_node::view::PeerState;
use diskstream_wire::time::Nanos;

pub const MS: u64 = 1_000_000;

/// A generator for the world, not for the machines.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { (self.next() >> 16) % bound }
    }
}

pub struct Node {
    pub name: String,
    pub addr: SocketAddr,
    /// None: crashed.
    pub machine: Option<Peers>,
    /// It stands still until then.
    pub paused_until: Nanos,
    /// Its own clock is ahead by this.
    pub clock_ahead: u64,
    pub starts: u64,
    pub own: OwnReport,
}

/// A datagram as the attacker recorded it.
#[derive(Clone)]
pub struct Recorded {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

type InFlight = Reverse<(u64, u64, SocketAddr, SocketAddr, Vec<u8>)>;

pub struct World {
    pub now: Nanos,
    pub nodes: Vec<Node>,
    pub dice: Dice,
    pub loss_percent: u64,
    pub delay: Nanos,
    pub jitter: Nanos,
    pub duplicate_percent: u64,
    /// Pairs (from, to) that nothing passes.
    pub cut: BTreeSet<(SocketAddr, SocketAddr)>,
    pub record: bool,
    pub recorded: Vec<Recorded>,
    pub datagrams: u64,
    pub bytes: u64,
    /// (when, node, event).
    pub events: Vec<(Nanos, usize, PeerEvent)>,
    in_flight: BinaryHeap<InFlight>,
    order: u64,
    seed: u64,
}

pub fn addr(n: usize) -> SocketAddr {
    let part = |n: usize| u8::try_from(n).expect("far fewer nodes");
    SocketAddr::from(([10, 0, part(n / 200), part(n % 200 + 1)], 6890))
}

pub fn login(n: usize) -> SocketAddr {
    SocketAddr::new(addr(n).ip(), 6910)
}

pub fn keys() -> Keys {
    Keys::derive(&FarmKey::new([7; 32]))
}

pub fn name(n: usize) -> String {
    format!("node-{n}")
}

impl World {
    /// `count` nodes that know each other from the farm file, started at once, on a good network.
    pub fn farm(seed: u64, count: usize) -> World {
        let mut world = World::empty(seed);
        for n in 0..count {
            world.add(&name(n), addr(n), farm_file(count, n));
        }
        world
    }

    pub fn empty(seed: u64) -> World {
        World {
            now: Nanos::from_secs(1000),
            nodes: Vec::new(),
            dice: Dice::new(seed),
            loss_percent: 0,
            delay: Nanos::from_micros(100),
            jitter: Nanos::from_micros(50),
            duplicate_percent: 0,
            cut: BTreeSet::new(),
            record: false,
            recorded: Vec::new(),
            datagrams: 0,
            bytes: 0,
            events: Vec::new(),
            in_flight: BinaryHeap::new(),
            order: 0,
            seed,
        }
    }

    pub fn add(&mut self, name: &str, addr: SocketAddr, peers: Vec<PeerAddress>) -> usize {
        let node = Node {
            name: name.to_owned(),
            addr,
            machine: None,
            paused_until: Nanos::ZERO,
            clock_ahead: 0,
            starts: 0,
            own: OwnReport::default(),
        };
        self.nodes.push(node);
        let n = self.nodes.len() - 1;
        self.start_knowing(n, peers);
        n
    }

    pub fn start_knowing(&mut self, n: usize, peers: Vec<PeerAddress>) {
        let node = &mut self.nodes[n];
        node.starts += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(n as u64).to_le_bytes());
        seed[16..24].copy_from_slice(&node.starts.to_le_bytes());
        let config = PeerConfig {
            name: node.name.clone(),
            bind: node.addr,
            login: SocketAddr::new(node.addr.ip(), 6910),
            rating: 100,
            peers,
            seed,
        };
        let now = Nanos(self.now.0 + node.clock_ahead);
        let mut machine = Peers::new(config, &keys(), now);
        machine.set_own(node.own.clone());
        machine.tick(now);
        node.machine = Some(machine);
        self.collect(n);
    }

    /// Starts it again with the farm file of all nodes.
    pub fn restart(&mut self, n: usize) {
        let count = self.nodes.len();
        self.start_knowing(n, farm_file(count, n));
    }

    pub fn crash(&mut self, n: usize) {
        self.nodes[n].machine = None;
    }

    pub fn leave(&mut self, n: usize) {
        let now = Nanos(self.now.0 + self.nodes[n].clock_ahead);
        self.machine(n).leave(now);
        self.collect(n);
        self.crash(n);
    }

    pub fn machine(&mut self, n: usize) -> &mut Peers {
        self.nodes[n].machine.as_mut().expect("it runs")
    }

    pub fn set_own(&mut self, n: usize, own: OwnReport) {
        self.nodes[n].own = own.clone();
        self.machine(n).set_own(own);
    }

    /// Cuts or heals one direction.
    pub fn one_way(&mut self, from: usize, to: usize, cut: bool) {
        let pair = (self.nodes[from].addr, self.nodes[to].addr);
        if cut {
            self.cut.insert(pair);
        } else {
            self.cut.remove(&pair);
        }
    }

    pub fn partition(&mut self, some: &[usize], others: &[usize], cut: bool) {
        for &a in some {
            for &b in others {
                self.one_way(a, b, cut);
                self.one_way(b, a, cut);
            }
        }
    }

    /// Puts a datagram on the wire.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let at = self.now.0 + self.delay.0 + self.dice.below(self.jitter.0 + 1);
        self.order += 1;
        self.in_flight.push(Reverse((at, self.order, from, to, bytes)));
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.datagrams += 1;
        self.bytes += bytes.len() as u64;
        if self.record {
            self.recorded.push(Recorded { from, to, bytes: bytes.clone() });
        }
        if self.cut.contains(&(from, to)) || self.dice.below(100) < self.loss_percent {
            return;
        }
        if self.dice.below(100) < self.duplicate_percent {
            self.inject(from, to, bytes.clone());
        }
        self.inject(from, to, bytes);
    }

    fn collect(&mut self, n: usize) {
        let from = self.nodes[n].addr;
        while let Some((to, bytes)) = self.machine(n).poll_send() {
            self.send(from, to, bytes);
        }
        while let Some(event) = self.machine(n).poll_event() {
            self.events.push((self.now, n, event));
        }
    }

    /// When a node does something by itself.
    fn wakes(&self, n: usize) -> Option<Nanos> {
        let node = &self.nodes[n];
        let due = node.machine.as_ref()?.next_deadline();
        Some(Nanos(due.0.saturating_sub(node.clock_ahead)).max(node.paused_until))
    }

    pub fn run_until(&mut self, end: Nanos) {
        loop {
            let wake = (0..self.nodes.len()).filter_map(|n| Some((self.wakes(n)?, n))).min();
            let arrives = self.in_flight.peek().map(|Reverse((at, ..))| Nanos(*at));
            let next = wake.map_or(Nanos::NEVER, |(at, _)| at);
            if next.min(arrives.unwrap_or(Nanos::NEVER)) > end {
                self.now = end;
                return;
            }
            if arrives.is_some_and(|at| at <= next) {
                let Reverse((at, _, from, to, bytes)) = self.in_flight.pop().expect("peeked");
                self.now = self.now.max(Nanos(at));
                self.deliver(from, to, bytes);
            } else {
                let (at, n) = wake.expect("it is earlier than nothing");
                self.now = self.now.max(at);
                let local = Nanos(self.now.0 + self.nodes[n].clock_ahead);
                self.machine(n).tick(local);
                self.collect(n);
            }
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let at = |node: &Node| node.addr == to && node.machine.is_some();
        let Some(n) = self.nodes.iter().position(at) else { return };
        let until = self.nodes[n].paused_until;
        if until > self.now {
            // The socket holds it.
            self.order += 1;
            self.in_flight.push(Reverse((until.0, self.order, from, to, bytes)));
            return;
        }
        let local = Nanos(self.now.0 + self.nodes[n].clock_ahead);
        self.machine(n).handle(from, &bytes, local);
        self.collect(n);
    }

    pub fn run_for(&mut self, time: Nanos) {
        self.run_until(self.now + time);
    }

    /// Runs until the condition holds; how long it took, or none within `limit`.
    pub fn run_while(&mut self, limit: Nanos, wrong: impl Fn(&World) -> bool) -> Option<Nanos> {
        let start = self.now;
        while wrong(self) {
            if self.now.since(start) > limit {
                return None;
            }
            self.run_for(Nanos::from_millis(5));
        }
        Some(self.now.since(start))
    }

    /// What `n` thinks of the node named `other`.
    pub fn state(&self, n: usize, other: &str) -> Option<PeerState> {
        let machine = self.nodes[n].machine.as_ref()?;
        let view = machine.view();
        view.peers.iter().find(|peer| peer.name == other).map(|peer| peer.state)
    }

    pub fn sees(&self, n: usize, other: usize, state: PeerState) -> bool {
        self.state(n, &self.nodes[other].name) == Some(state)
    }

    /// Whether all of them that run see each other up.
    pub fn all_up(&self) -> bool {
        let running = || (0..self.nodes.len()).filter(|&n| self.nodes[n].machine.is_some());
        running().all(|a| running().all(|b| a == b || self.sees(a, b, PeerState::Up)))
    }

    #[track_caller]
    pub fn settle(&mut self) -> Nanos {
        let took = self.run_while(Nanos::from_secs(20), |world| !world.all_up());
        took.unwrap_or_else(|| panic!("not all up after 20 s:\n{}", self.picture()))
    }

    pub fn picture(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let Some(machine) = &node.machine else { continue };
            for status in machine.status() {
                text += &format!(
                    "{} sees {} ({}) {}: {}\n",
                    node.name,
                    status.view.name,
                    status.addr,
                    status.view.state.label(),
                    status.why
                );
            }
        }
        text
    }

    pub fn changes_to(&self, state: PeerState) -> usize {
        let to = |event: &PeerEvent| matches!(event, PeerEvent::State(c) if c.to == state);
        self.events.iter().filter(|(_, _, event)| to(event)).count()
    }

    /// How often each event came, for failure messages.
    pub fn told(&self) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for (_, n, event) in &self.events {
            let text = match event {
                PeerEvent::State(c) => {
                    format!("{n}: {} {} -> {}: {}", c.name, c.from.label(), c.to.label(), c.why)
                }
                other => format!("{n}: {other:?}"),
            };
            *told.entry(text).or_default() += 1;
        }
        told
    }
}

/// The farm file of `count` nodes as node `n` reads it.
pub fn farm_file(count: usize, n: usize) -> Vec<PeerAddress> {
    let others = (0..count).filter(|&other| other != n);
    others
        .map(|other| PeerAddress {
            name: Some(name(other)),
            addr: addr(other),
            login: Some(login(other)),
            rating: Some(100),
        })
        .collect()
}

/// The one node to join through.
pub fn join(n: usize) -> Vec<PeerAddress> {
    vec![PeerAddress { name: None, addr: addr(n), login: None, rating: None }]
}
