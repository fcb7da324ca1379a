//! A whole world from one seed: nodes, devices, links, an attacker, and the faults that befall them.
//!
//! Two phases. *Safety*: everything may fail, nothing may be wrong. Then the world heals. *Liveness*: every read
//! completes within a bound.

use std::net::{IpAddr, SocketAddr};

use diskstream_device::session::mutations::{Mutation, plant};
use diskstream_node::shard::Mutation as NodeMutation;
use diskstream_wire::Nanos;

use crate::device::{SimDevice, device_ip};
use crate::hostile::Hostile;
use crate::image::SimImage;
use crate::judges::Judge;
use crate::network::{Datagram, Network};
use crate::node::{LOGIN_PORT, NodeSetup, SimNode, node_ip};
use crate::options::Options;
use crate::random::Random;

/// After the world has healed, every read is complete within this time. Derived: the longest login wait (busy node:
/// 10 s) + a duplicate's life (5 s) + a session's moves, with room.
pub const LIVENESS: Nanos = Nanos::from_secs(40);

/// Bugs that are planted on purpose; each must be caught by some seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The device does not check sums.
    DropSumCheck,
    /// One in the node.
    Node(NodeMutation),
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 5] = [
        Planted::DropSumCheck,
        Planted::Node(NodeMutation::UnpinTwice),
        Planted::Node(NodeMutation::AcceptForeignTag),
        Planted::Node(NodeMutation::AnswerBeforeCookie),
        Planted::Node(NodeMutation::ForgetWaiter),
    ];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Crash(usize),
    Restart(usize),
    Drain(usize),
    Pause(usize),
    Cut { from: IpAddr, to: IpAddr, cut: bool },
}

/// What a world came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Reads completed with the right bytes.
    pub reads: usize,
    /// Events simulated.
    pub events: u64,
    /// Nanoseconds of simulated time.
    pub ended_at: u64,
    /// A digest of all datagrams in order: equal for equal seeds.
    pub digest: u64,
}

struct World {
    now: Nanos,
    options: Options,
    image: SimImage,
    farm_key: [u8; 32],
    planted: Option<Planted>,
    random: Random,
    network: Network,
    nodes: Vec<Option<SimNode>>,
    judges: Vec<Judge>,
    devices: Vec<SimDevice>,
    hostile: Hostile,
    faults: Vec<(Nanos, Fault)>,
    healed: bool,
    outcome: Outcome,
    sent: Vec<Datagram>,
}

/// Runs the world of a seed to its end.
///
/// # Panics
/// When a judge or an invariant speaks: that is the failure to report.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>) -> Outcome {
    plant(match planted {
        Some(Planted::DropSumCheck) => Mutation::DropSumCheck,
        _ => Mutation::None,
    });
    let mut world = World::new(seed, planted);
    while !world.devices.iter().all(SimDevice::finished) || !world.healed {
        world.step();
    }
    world.outcome.reads = world.devices.iter().map(|d| d.completed).sum();
    world.outcome.ended_at = world.now.0;
    world.outcome
}

impl World {
    fn new(seed: u64, planted: Option<Planted>) -> World {
        let options = Options::draw(seed);
        let mut random = Random::new(seed);
        let image = SimImage::new(options.image_bytes, &mut random);
        let farm_key = random.seed();
        let servers: Vec<SocketAddr> =
            (0..options.nodes).map(|n| SocketAddr::new(node_ip(n), LOGIN_PORT)).collect();
        let now = Nanos::from_secs(100);
        let devices = (0..options.devices)
            .map(|d| {
                let mut servers = servers.clone();
                servers.rotate_left(d % options.nodes);
                SimDevice::start(d, &options, servers, &image, now, &mut random)
            })
            .collect();
        let hostile = Hostile::new(
            options.nodes,
            options.shards,
            options.devices,
            options.forgeries_per_second,
            Random::new(random.bits()),
        );
        let network = Network::new(options.link, Random::new(random.bits()));
        let mut world = World {
            now,
            image,
            farm_key,
            planted,
            network,
            nodes: (0..options.nodes).map(|_| None).collect(),
            judges: (0..options.nodes).map(|_| Judge::default()).collect(),
            devices,
            hostile,
            faults: Vec::new(),
            healed: false,
            outcome: Outcome::default(),
            sent: Vec::new(),
            random,
            options,
        };
        for node in 0..world.options.nodes {
            world.start_node(node);
        }
        world.plan_faults();
        world
    }

    fn start_node(&mut self, node: usize) {
        let mutation = match self.planted {
            Some(Planted::Node(mutation)) => Some(mutation),
            _ => None,
        };
        let mut faults = if self.healed { self.options.healed().1 } else { self.options.disk };
        if self.options.bad_node != Some(node) {
            (faults.error_ppm, faults.rot_ppm) = (0, 0);
        }
        self.judges[node].node_restarted();
        let setup = NodeSetup {
            number: node,
            options: &self.options,
            image: &self.image,
            farm_key: self.farm_key,
            faults,
            mutation,
        };
        self.nodes[node] = Some(SimNode::start(&setup, self.now, &mut self.random));
    }

    fn plan_faults(&mut self) {
        let start = self.now;
        let Options { nodes, devices, crashes, drains, cuts, pauses, heal_at, .. } = self.options;
        let random = &mut self.random;
        let mut moment = || start + Nanos(random.below(heal_at.0));
        let times: Vec<Nanos> = (0..crashes + drains + cuts + pauses).map(|_| moment()).collect();
        let mut times = times.into_iter();
        let mut plan = Vec::new();
        for _ in 0..crashes {
            plan.push((times.next().expect("planned"), Fault::Crash(self.random.index(nodes))));
        }
        for _ in 0..drains {
            plan.push((times.next().expect("planned"), Fault::Drain(self.random.index(nodes))));
        }
        for _ in 0..pauses {
            plan.push((times.next().expect("planned"), Fault::Pause(self.random.index(nodes))));
        }
        for _ in 0..cuts {
            let (device, node) =
                (device_ip(self.random.index(devices)), node_ip(self.random.index(nodes)));
            let at = times.next().expect("planned");
            let until = at + Nanos::from_millis(self.random.between(50, 3_000));
            let ways = self.random.below(3);
            for (from, to, which) in [(device, node, 1), (node, device, 2)] {
                if ways == 0 || ways == which {
                    plan.push((at, Fault::Cut { from, to, cut: true }));
                    plan.push((until, Fault::Cut { from, to, cut: false }));
                }
            }
        }
        // The soonest last, so that it can be popped.
        plan.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        self.faults = plan;
    }

    fn heal_time(&self) -> Nanos {
        Nanos::from_secs(100) + self.options.heal_at
    }

    fn step(&mut self) {
        self.now = self.next_event();
        assert!(
            self.now != Nanos::NEVER,
            "judge of liveness: nothing will ever happen again\n{}",
            self.describe()
        );
        self.outcome.events += 1;
        assert!(
            self.outcome.events < 20_000_000,
            "judge of bounds: too many events\n{}",
            self.describe()
        );
        self.strike();
        if !self.healed && self.now >= self.heal_time() {
            self.heal();
        }
        while let Some(datagram) = self.network.receive(self.now) {
            self.deliver(&datagram);
        }
        for node in 0..self.nodes.len() {
            if let Some(n) = &mut self.nodes[node] {
                n.advance(self.now, &mut self.sent);
                self.carry(Some(node));
                self.judges[node].check_silence(
                    self.now,
                    self.nodes[node]
                        .as_ref()
                        .is_some_and(|n| n.paused_until + Nanos::from_millis(1) > self.now),
                );
            }
            self.end_drained(node);
        }
        for device in 0..self.devices.len() {
            self.devices[device].advance(self.now, &mut self.sent);
            self.carry(None);
        }
        self.hostile.advance(self.now, &mut self.sent);
        self.carry(None);
        if self.healed {
            assert!(
                self.now < self.heal_time() + LIVENESS,
                "judge of liveness: reads are not complete {} s after the \
                world healed\n{}",
                LIVENESS.as_millis() / 1000,
                self.describe()
            );
        }
    }

    fn next_event(&self) -> Nanos {
        let mut next = self.network.next_arrival().earlier(self.hostile.next_event());
        if let Some((at, _)) = self.faults.last() {
            next = next.earlier(*at);
        }
        if !self.healed {
            next = next.earlier(self.heal_time());
        }
        for node in self.nodes.iter().flatten() {
            next = next.earlier(node.next_event());
        }
        for device in &self.devices {
            next = next.earlier(device.next_event());
        }
        // Time never stands still: a machine that wants to be called at once is called a nanosecond later.
        if next <= self.now { self.now + Nanos(1) } else { next }
    }

    fn strike(&mut self) {
        while let Some(&(at, fault)) = self.faults.last() {
            if at > self.now {
                break;
            }
            self.faults.pop();
            match fault {
                Fault::Crash(node) => {
                    self.nodes[node] = None;
                    self.judges[node].node_restarted();
                    self.plan_restart(node);
                }
                Fault::Restart(node) => {
                    if self.nodes[node].is_none() {
                        self.start_node(node);
                    }
                }
                Fault::Drain(node) => self.drain(node),
                Fault::Pause(node) => {
                    let until = self.now + Nanos::from_millis(self.random.between(100, 2_000));
                    if let Some(node) = &mut self.nodes[node] {
                        node.paused_until = until;
                    }
                }
                Fault::Cut { from, to, cut } => self.network.set_cut(from, to, cut),
            }
        }
    }

    fn plan_restart(&mut self, node: usize) {
        let at = self.now + Nanos::from_millis(self.random.between(10, 3_000));
        let place = self.faults.partition_point(|(other, _)| *other > at);
        self.faults.insert(place, (at, Fault::Restart(node)));
    }

    fn drain(&mut self, node: usize) {
        let successors: Vec<usize> =
            (0..self.nodes.len()).filter(|&n| n != node && self.nodes[n].is_some()).collect();
        let deadline = self.now + Nanos::from_secs(if successors.is_empty() { 2 } else { 15 });
        if let Some(n) = &mut self.nodes[node] {
            n.drain(deadline, &successors, self.now, &mut self.sent);
            self.carry(Some(node));
        }
    }

    fn end_drained(&mut self, node: usize) {
        if self.nodes[node].as_ref().is_some_and(SimNode::drained) {
            self.nodes[node] = None;
            self.plan_restart(node);
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        let (link, disk) = self.options.healed();
        self.network.heal(link);
        self.hostile.stop();
        let restarts = |fault: &Fault| matches!(fault, Fault::Restart(_));
        self.faults.retain(|(_, fault)| restarts(fault));
        for node in 0..self.nodes.len() {
            match &mut self.nodes[node] {
                Some(n) => {
                    n.set_faults(disk);
                    n.paused_until = n.paused_until.earlier(self.now);
                }
                None => self.start_node(node),
            }
        }
    }

    fn deliver(&mut self, datagram: &Datagram) {
        if let Some(node) = (0..self.nodes.len()).find(|&n| node_ip(n) == datagram.to.ip()) {
            let Some(n) = &mut self.nodes[node] else { return };
            if n.paused_until > self.now {
                // Waits in the socket until the node runs again.
                return self.network.hold(datagram.clone(), n.paused_until);
            }
            self.judges[node].node_receives(datagram, self.now);
            n.receive(datagram, self.now, &mut self.sent);
            self.carry(Some(node));
        } else if let Some(device) =
            (0..self.devices.len()).find(|&d| device_ip(d) == datagram.to.ip())
        {
            self.devices[device].receive(datagram, self.now, &mut self.sent);
            self.carry(None);
        }
    }

    /// Puts what was sent on its way, before the judges' eyes.
    fn carry(&mut self, node: Option<usize>) {
        for datagram in std::mem::take(&mut self.sent) {
            if let Some(node) = node {
                self.judges[node].node_sends(&datagram);
            } else {
                self.hostile.overhear(&datagram);
            }
            for chunk in datagram.bytes.chunks(8) {
                let word = chunk.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
                self.outcome.digest =
                    (self.outcome.digest ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
            }
            self.network.send(self.now, &datagram);
        }
    }

    fn describe(&self) -> String {
        let devices: Vec<String> = self.devices.iter().map(|d| d.describe(self.now)).collect();
        format!(
            "{:#?}\nat {} ms, nodes up: {:?}\n{}",
            self.options,
            self.now.as_millis(),
            self.nodes.iter().map(Option::is_some).collect::<Vec<_>>(),
            devices.join("\n")
        )
    }
}
