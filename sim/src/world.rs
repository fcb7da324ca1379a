//! A whole world from one seed: nodes, devices, links, an attacker, and the faults that befall them.
//!
//! Scenarios and drawn worlds both drive a [`World`]: they call what befalls it, let time pass, and read the figures. Judges
//! speak by panicking with words that begin with "judge".

use std::net::IpAddr;
use std::sync::Arc;

use diskstream_device::session::mutations::plant;
use diskstream_node::farm::Farm;
use diskstream_node::rebalance::Settings;
use diskstream_node::view::{DrainState, PeerState};
use diskstream_wire::Nanos;
use diskstream_wire::limits::DEVICE_NOTICE_PORT;

use crate::causes::Causes;
use crate::device::{Moved, SimDevice, servers};
use crate::faults::{Fault, Plan};
use crate::figures::{Figures, ms, percentile};
use crate::hostile::Hostile;
use crate::hosts::{device_at, device_ip, node_at, node_ip, node_name};
use crate::image::SimImage;
use crate::judges::Judge;
use crate::network::{Datagram, Network};
use crate::node::{NodeSpec, SimDisk, SimNode};
use crate::options::{LinkFaults, Options, Workload};
use crate::peaks::{Peaks, WINDOW};
use crate::planted::Planted;
use crate::random::Random;
use crate::schedule::Schedule;

/// When every world begins.
pub const BEGIN: Nanos = Nanos::from_secs(100);
/// Bytes of each datagram that are digested: every message's fixed part.
const DIGESTED_BYTES: usize = 128;
/// How often sessions are counted for their peak.
const SAMPLE_EVERY: Nanos = Nanos::from_millis(10);

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
    /// The longest that a read of a device that had booted took after the world had healed, from then or from when it was asked,
    /// in nanoseconds.
    pub settled: u64,
    /// How long after the healing the last device had booted, in nanoseconds.
    pub booted: u64,
}

/// Whose datagrams are put on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Node(usize),
    Device,
    Attacker,
}

/// A device's move, and whether the world gave cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenMove {
    /// Who moved.
    pub device: usize,
    /// From where to where.
    pub moved: Moved,
    /// Whether anything befell the node that it left.
    pub needed: bool,
}

/// See the module's page.
pub struct World {
    /// Now.
    pub now: Nanos,
    /// What it consists of.
    pub options: Options,
    /// What each node is, whether it runs or not. Takes effect when the node starts.
    pub specs: Vec<NodeSpec>,
    /// The devices.
    pub devices: Vec<SimDevice>,
    /// Blows to come.
    pub plan: Plan,
    /// Moves since the last mark.
    pub moves: Vec<SeenMove>,
    farm: Arc<Farm>,
    farm_key: [u8; 32],
    random: Random,
    network: Network,
    nodes: Vec<Option<SimNode>>,
    /// How long a node that drains stays away when it has ended.
    drains: Vec<Option<Nanos>>,
    judges: Vec<Judge>,
    causes: Causes,
    hostile: Hostile,
    schedule: Schedule,
    outcome: Outcome,
    sent: Vec<Datagram>,
    marked: Nanos,
    sessions_peak: u64,
    peaks: Peaks,
    next_sample: Nanos,
    events_max: u64,
}

impl World {
    /// A world whose nodes start now and whose devices begin to log in.
    #[must_use]
    pub fn new(options: Options, seed: u64, planted: Option<Planted>) -> World {
        plant(Planted::in_device(planted));
        let mut random = Random::new(seed);
        let contents: Vec<SimImage> =
            (0..options.vdisks).map(|_| SimImage::new(options.image_bytes, &mut random)).collect();
        let odd = options.odd_node.map(|_| contents[0].with_one_byte_changed(&mut random));
        let farm_key = random.seed();
        let farm = Farm::parse(&options.farm_file(), std::path::Path::new("/farm/farm.toml"))
            .expect("the farm's file is right");
        let specs = specs(&options, &contents, odd.as_ref(), farm_key, planted);
        let devices = (0..options.devices).map(|d| {
            let vdisk = d % options.vdisks;
            let mut known = vec![contents[vdisk].clone()];
            known.extend(odd.clone().filter(|_| vdisk == 0));
            let servers = servers(d, options.nodes);
            let begin = if options.boot_spread == Nanos::ZERO {
                BEGIN
            } else {
                BEGIN + Nanos(random.below(options.boot_spread.0))
            };
            SimDevice::start(d, &options, servers, known, begin, &mut random)
        });
        let devices: Vec<SimDevice> = devices.collect();
        let hostile = Hostile::new(&options, Random::new(random.bits()));
        let mut network = Network::new(options.link, Random::new(random.bits()));
        network.blocked_port = options.notice_port_blocked.then_some(DEVICE_NOTICE_PORT);
        let nodes = options.nodes;
        let mut world = World {
            now: BEGIN,
            specs,
            devices,
            plan: Plan::default(),
            moves: Vec::new(),
            farm: Arc::new(farm),
            farm_key,
            random,
            network,
            nodes: (0..nodes).map(|_| None).collect(),
            drains: vec![None; nodes],
            judges: (0..nodes).map(|_| Judge::default()).collect(),
            causes: Causes::new(nodes),
            hostile,
            schedule: Schedule::new(nodes + options.devices + 1),
            outcome: Outcome::default(),
            sent: Vec::new(),
            marked: BEGIN,
            sessions_peak: 0,
            peaks: Peaks::new(nodes, BEGIN),
            next_sample: BEGIN,
            events_max: 20_000_000,
            options,
        };
        (0..nodes).for_each(|node| world.start(node));
        for node in 0..nodes {
            // Having just started is no cause to leave.
            let bad = world.options.bad_node == Some(node) || world.options.odd_node == Some(node);
            if bad {
                world.causes.node(node, true, BEGIN);
            }
        }
        for device in 0..world.devices.len() {
            world.after_device(device);
        }
        let strikes = world.hostile.next_event();
        world.set_due(nodes + world.devices.len(), strikes);
        world
    }

    /// Whether a node runs.
    #[must_use]
    pub fn runs(&self, node: usize) -> bool {
        self.nodes[node].is_some()
    }

    /// Whether a node was told to stop.
    #[must_use]
    pub fn drains(&self, node: usize) -> bool {
        self.drains[node].is_some()
    }

    /// A node that runs.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<&SimNode> {
        self.nodes[node].as_ref()
    }

    /// What happened so far.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let reads = self.devices.iter().map(|d| d.completed).sum();
        let settled = self.devices.iter().map(|d| d.settled.0).max().unwrap_or(0);
        let healed =
            self.devices.iter().filter_map(|d| d.healed_at.map(|h| d.booted_at.since(h).0));
        let booted = healed.max().unwrap_or(0);
        Outcome { reads, ended_at: self.now.0, settled, booted, ..self.outcome }
    }

    // --- time ---

    /// Lets time pass.
    pub fn run_for(&mut self, time: Nanos) {
        self.run_until(self.now + time);
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, then: Nanos) {
        while self.next_event() <= then {
            self.step();
        }
        self.now = then;
    }

    /// Lets time pass until something holds; false when it does not within `bound`.
    pub fn run_while(&mut self, bound: Nanos, mut goes_on: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + bound;
        while goes_on(self) {
            if self.next_event() > end {
                self.now = end;
                return false;
            }
            self.step();
        }
        true
    }

    fn step(&mut self) {
        self.now = self.next_event();
        self.outcome.events += 1;
        assert!(
            self.outcome.events < self.events_max,
            "judge of bounds: too many events\n{}",
            self.describe()
        );
        while let Some(fault) = self.plan.pop(self.now) {
            self.befall(fault);
        }
        while let Some(datagram) = self.network.receive(self.now) {
            self.deliver(&datagram);
        }
        while let Some(machine) = self.schedule.pop(self.now) {
            self.advance(machine);
        }
        if self.now >= self.next_sample {
            self.sample();
        }
    }

    fn next_event(&mut self) -> Nanos {
        let next = self.network.next_arrival().earlier(self.plan.next());
        next.earlier(self.schedule.first()).max(self.now)
    }

    fn advance(&mut self, machine: usize) {
        let nodes = self.nodes.len();
        if machine < nodes {
            if let Some(node) = &mut self.nodes[machine] {
                node.advance(self.now, &mut self.sent);
                self.after_node(machine);
            }
        } else if machine < nodes + self.devices.len() {
            self.devices[machine - nodes].advance(self.now, &mut self.sent);
            self.after_device(machine - nodes);
        } else {
            self.hostile.advance(self.now, &mut self.sent);
            self.carry(Sender::Attacker);
            let next = self.hostile.next_event();
            self.set_due(machine, next);
        }
    }

    /// Time never stands still: a machine that wants to be called at once is called a nanosecond later.
    fn set_due(&mut self, machine: usize, at: Nanos) {
        let at = if at <= self.now { self.now + Nanos(1) } else { at };
        self.schedule.set(machine, at);
    }

    fn after_node(&mut self, node: usize) {
        self.carry(Sender::Node(node));
        let Some(n) = &mut self.nodes[node] else { return };
        let next = n.next_event();
        if n.drained() {
            n.leave(self.now, &mut self.sent);
            self.carry(Sender::Node(node));
            self.nodes[node] = None;
            self.schedule.set(node, Nanos::NEVER);
            self.judges[node].node_restarted();
            if let Some(down) = self.drains[node].take().filter(|down| *down != Nanos::NEVER) {
                self.plan.add(self.now + down, Fault::Start(node));
            }
        } else {
            self.set_due(node, next);
        }
    }

    fn after_device(&mut self, device: usize) {
        self.carry(Sender::Device);
        for moved in std::mem::take(&mut self.devices[device].moved) {
            let needed = self.causes.justify(device_ip(device), &moved);
            self.moves.push(SeenMove { device, moved, needed });
        }
        let next = self.devices[device].next_event();
        self.set_due(self.nodes.len() + device, next);
    }

    fn deliver(&mut self, datagram: &Datagram) {
        if let Some(node) = node_at(datagram.to.ip()).filter(|&n| n < self.nodes.len()) {
            let Some(n) = &mut self.nodes[node] else { return };
            if n.paused_until > self.now {
                // Waits in the socket until the node runs again.
                return self.network.hold(datagram.clone(), n.paused_until);
            }
            self.judges[node].node_receives(datagram, self.now);
            self.peaks.node_receives(node, &datagram.bytes);
            n.receive(datagram, self.now, &mut self.sent);
            self.after_node(node);
        } else if let Some(device) = device_at(datagram.to.ip()).filter(|&d| d < self.devices.len())
        {
            if datagram.to.ip() != self.devices[device].ip() {
                return;
            }
            self.devices[device].receive(datagram, self.now, &mut self.sent);
            self.after_device(device);
        }
    }

    /// Puts what was sent on its way, before the judges' eyes.
    fn carry(&mut self, sender: Sender) {
        let mut sent = std::mem::take(&mut self.sent);
        for datagram in sent.drain(..) {
            match sender {
                Sender::Node(node) => {
                    self.judges[node].node_sends(&datagram);
                    if let Some(n) = &self.nodes[node] {
                        n.check_successors(&datagram);
                    }
                }
                Sender::Device => self.peaks.device_sends(),
                Sender::Attacker => {}
            }
            let from_node = matches!(sender, Sender::Node(_));
            self.hostile.overhear(self.now, &datagram, from_node);
            self.digest(&datagram);
            self.network.send(self.now, datagram);
        }
        self.sent = sent;
    }

    /// Counts a datagram into the digest: its head, where the sums of what follows stand, and its length.
    fn digest(&mut self, datagram: &Datagram) {
        let head = &datagram.bytes[..datagram.bytes.len().min(DIGESTED_BYTES)];
        let words = head.chunks(8);
        let words = words.map(|c| c.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte)));
        for word in words.chain([datagram.bytes.len() as u64]) {
            self.outcome.digest =
                (self.outcome.digest ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
        }
    }

    /// What is looked at now and then: silent nodes, and how many sessions there are.
    fn sample(&mut self) {
        self.next_sample = self.now + SAMPLE_EVERY;
        if self.peaks.is_over(self.now) {
            self.peaks.begin(self.reads_in_a_window(), self.now);
        }
        for (node, judge) in self.nodes.iter().zip(&mut self.judges) {
            let Some(node) = node else { continue };
            judge.check_silence(
                self.now,
                node.paused_until + SAMPLE_EVERY + SAMPLE_EVERY > self.now,
            );
            self.sessions_peak = self.sessions_peak.max(node.sessions());
            node.check_accounts();
        }
    }

    /// Sessions that are served and standbys, of all nodes.
    #[must_use]
    pub fn roles(&self) -> (u64, u64) {
        let roles = self.nodes.iter().flatten().map(SimNode::roles);
        roles.fold((0, 0), |sum, roles| (sum.0 + roles.0, sum.1 + roles.1))
    }

    /// Disk reads of all nodes that run, blocks that they loaded early, and those of them that were asked for.
    #[must_use]
    pub fn loads(&self) -> [u64; 3] {
        let all = self.nodes.iter().flatten().map(SimNode::loads);
        all.fold([0; 3], |sum, of| [sum[0] + of[0], sum[1] + of[1], sum[2] + of[2]])
    }

    /// Whether every node that runs sees every other one as it is.
    #[must_use]
    pub fn views_agree(&self) -> bool {
        let running = || (0..self.nodes.len()).filter(|&n| self.nodes[n].is_some());
        running().all(|a| running().all(|b| a == b || self.sees(a, b) == Some(PeerState::Up)))
    }

    /// What a node that runs thinks of another.
    #[must_use]
    pub fn sees(&self, node: usize, other: usize) -> Option<PeerState> {
        let view = self.nodes[node].as_ref()?.shared().view.get();
        let name = node_name(self.specs[other].identity);
        view.peers.iter().find(|peer| peer.name == name).map(|peer| peer.state)
    }

    // --- what befalls it ---

    /// Lets something happen now.
    pub fn befall(&mut self, fault: Fault) {
        match fault {
            Fault::Crash { node, down } => {
                self.crash(node);
                if down != Nanos::NEVER {
                    self.plan.add(self.now + down, Fault::Start(node));
                }
            }
            Fault::Start(node) => self.start(node),
            Fault::Drain { node, down } => self.drain(node, down),
            Fault::Maintain(node) => self.maintain(node),
            Fault::Resume(node) => self.resume(node),
            Fault::Pause { node, time } => self.pause(node, time),
            Fault::Cut { from, to } => self.cut(from, to, true),
            Fault::Mend { from, to } => self.cut(from, to, false),
            Fault::Stuck { node, stuck } => {
                self.specs[node].disk.stuck = stuck;
                self.apply_disk(node);
            }
            Fault::Lose { node, lost } => {
                self.specs[node].disk.lost = lost;
                self.causes.node(node, lost, self.now);
                self.apply_disk(node);
            }
            Fault::Changed { node, vdisk } => {
                self.causes.node(node, true, self.now);
                if let Some(n) = &mut self.nodes[node] {
                    n.vdisk_changed(vdisk, self.now, &mut self.sent);
                    n.own_changed(self.now, &mut self.sent);
                    self.after_node(node);
                }
            }
            Fault::Detach(device) => {
                self.devices[device].detach(self.now, &mut self.sent);
                self.after_device(device);
            }
        }
    }

    /// Starts a node that does not run, as its spec says.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        self.judges[node].node_restarted();
        let spec = &self.specs[node];
        let started = SimNode::start(spec, &self.options, &self.farm, self.now, &mut self.random);
        self.nodes[node] = Some(started);
        self.drains[node] = None;
        let stranger = spec.farm_key != self.farm_key;
        let bad = spec.disk.lost || stranger || self.options.bad_node == Some(node);
        if self.now > BEGIN {
            self.causes.node(node, bad, self.now);
        }
        self.after_node(node);
    }

    /// A node is gone at once.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node] = None;
        self.drains[node] = None;
        self.schedule.set(node, Nanos::NEVER);
        self.judges[node].node_restarted();
        self.causes.node(node, true, self.now);
    }

    /// A node is told to stop; `down` after its end it starts again.
    pub fn drain(&mut self, node: usize, down: Nanos) {
        if self.drains[node].is_some() {
            return;
        }
        let deadline = self.now + Nanos::from_secs(15);
        let Some(n) = &mut self.nodes[node] else { return };
        n.drain(DrainState::Stopping, deadline, self.now, &mut self.sent);
        self.drains[node] = Some(down);
        self.causes.node(node, true, self.now);
        self.after_node(node);
    }

    /// A node is told to empty for maintenance.
    pub fn maintain(&mut self, node: usize) {
        let deadline = self.now + Nanos::from_secs(15);
        let Some(n) = &mut self.nodes[node] else { return };
        n.drain(DrainState::Maintenance, deadline, self.now, &mut self.sent);
        self.causes.node(node, true, self.now);
        self.after_node(node);
    }

    /// A node takes devices again after maintenance.
    pub fn resume(&mut self, node: usize) {
        let Some(n) = &mut self.nodes[node] else { return };
        n.resume(self.now, &mut self.sent);
        self.causes.node(node, self.options.bad_node == Some(node), self.now);
        self.after_node(node);
    }

    /// A node is told to even out its sessions, or does so by itself. Gives how many devices are told to move.
    pub fn rebalance(&mut self, node: usize) -> u32 {
        let settings = Settings { enabled: true, ..Settings::default() };
        let Some(n) = &mut self.nodes[node] else { return 0 };
        let told = n.rebalance(&settings, self.now, &mut self.sent);
        if told > 0 {
            self.causes.node_until(node, self.now);
        }
        self.after_node(node);
        told
    }

    /// Sessions that a node serves.
    #[must_use]
    pub fn serving(&self, node: usize) -> u64 {
        self.nodes[node].as_ref().map_or(0, |n| n.roles().0)
    }

    /// A node's process stands still for a while.
    pub fn pause(&mut self, node: usize, time: Nanos) {
        let Some(n) = &mut self.nodes[node] else { return };
        n.paused_until = self.now + time;
        self.causes.node_until(node, n.paused_until);
        self.after_node(node);
    }

    /// A device gets another address: what is on its way to the old one is lost.
    pub fn change_address(&mut self, device: usize) {
        self.devices[device].change_address();
        for node in 0..self.nodes.len() {
            self.cut(device_ip(device), node_ip(node), true);
        }
    }

    /// Lets nothing through from one host to another, or everything again.
    pub fn cut(&mut self, from: IpAddr, to: IpAddr, cut: bool) {
        self.network.set_cut(from, to, cut);
        self.causes.cut(from, to, cut, self.now);
    }

    /// Cuts a node off from every device, in these directions.
    pub fn cut_off(&mut self, node: usize, to_node: bool, to_devices: bool, cut: bool) {
        for device in 0..self.devices.len() {
            if to_node {
                self.cut(device_ip(device), node_ip(node), cut);
            }
            if to_devices {
                self.cut(node_ip(node), device_ip(device), cut);
            }
        }
    }

    /// Changes what links do.
    pub fn set_link(&mut self, link: LinkFaults) {
        self.network.set_faults(link);
    }

    fn apply_disk(&mut self, node: usize) {
        let disk = self.specs[node].disk;
        if let Some(n) = &mut self.nodes[node] {
            n.set_disk(disk);
        }
    }

    /// Ends everything that is wrong: links, disks, pauses, the attack; nodes that are down start.
    pub fn heal(&mut self) {
        let (link, faults) = self.options.healed();
        self.network.heal(link);
        self.causes.heal_cuts(self.now);
        self.hostile.stop();
        self.plan.heal();
        self.devices.iter_mut().for_each(|d| d.healed_at = Some(self.now));
        for node in 0..self.nodes.len() {
            self.specs[node].disk = SimDisk { faults, ..SimDisk::default() };
            self.apply_disk(node);
            match &mut self.nodes[node] {
                Some(n) => {
                    n.paused_until = n.paused_until.earlier(self.now);
                    self.after_node(node);
                    self.resume(node);
                }
                None => self.start(node),
            }
        }
    }

    // --- figures ---

    /// Waits until every device knows its vDisk, and measures from then on.
    ///
    /// # Panics
    /// When one does not within `bound`.
    pub fn open_all(&mut self, bound: Nanos) {
        let opened = self.run_while(bound, |w| !w.devices.iter().all(SimDevice::is_open));
        assert!(opened, "judge of liveness: not every device got in\n{}", self.describe());
        self.mark();
    }

    /// Begins to measure anew.
    pub fn mark(&mut self) {
        self.marked = self.now;
        self.moves.clear();
        self.sessions_peak = 0;
        self.peaks = Peaks::new(self.nodes.len(), self.now);
        self.devices.iter_mut().for_each(SimDevice::mark);
    }

    /// No device plans further reads; what they have outstanding must be done within `bound`.
    ///
    /// # Panics
    /// When it is not.
    pub fn finish(&mut self, bound: Nanos) {
        self.devices.iter_mut().for_each(SimDevice::stop_reading);
        self.finish_all(bound);
    }

    /// Every read that devices plan must be done within `bound`.
    ///
    /// # Panics
    /// When it is not.
    pub fn finish_all(&mut self, bound: Nanos) {
        let done = self.run_while(bound, |w| !w.devices.iter().all(SimDevice::finished));
        assert!(
            done,
            "judge of liveness: reads are not complete after {} ms\n{}",
            bound.as_millis(),
            self.describe()
        );
    }

    /// What was measured since the last mark.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let wait = |d: &SimDevice| d.stalls.longest.max(d.waiting(self.now));
        let mut stalls: Vec<Nanos> = self.devices.iter().map(wait).collect();
        stalls.sort_unstable();
        let moved: std::collections::BTreeSet<usize> =
            self.moves.iter().map(|m| m.device).collect();
        let last = self.moves.last().map_or(self.marked, |m| m.moved.at);
        let firsts = self.devices.iter().map(|d| d.first_completion.unwrap_or(Nanos::NEVER));
        let reading = firsts.fold(Nanos::ZERO, Nanos::max);
        let reads: u64 = self.devices.iter().map(|d| d.stalls.reads).sum();
        let hedged = self.devices.iter().map(hedged_reads).sum();
        Figures {
            devices: self.devices.len(),
            reads,
            stall_ms_max: ms(percentile(&stalls, 100)),
            stall_ms_p99: ms(percentile(&stalls, 99)),
            stall_ms_p50: ms(percentile(&stalls, 50)),
            moves: self.moves.len() as u64,
            devices_moved: moved.len(),
            unneeded_moves: self.moves.iter().filter(|m| !m.needed).count() as u64,
            all_moved_ms: ms(last.since(self.marked)),
            all_reading_ms: ms(reading.since(self.marked)),
            hedged_reads: hedged,
            hedged_ppm: (hedged * 1_000_000).checked_div(reads).unwrap_or(0),
            reads_failed: self.devices.iter().map(|d| d.failed).sum(),
            sessions_peak: self.sessions_peak,
            datagrams_per_read_peak: self.peaks.datagrams_per_read(),
            logins_per_s_peak: self.peaks.logins_per_second(),
        }
    }

    /// Reads that devices wait for, and those that they plan within the next window of [`Peaks`]; one for each device at least,
    /// because keep-alives and searches need no read.
    fn reads_in_a_window(&self) -> f64 {
        let waiting: usize = self.devices.iter().map(SimDevice::reads_waiting).sum();
        let every = match self.options.workload {
            Workload::Open { every, .. } => every,
            // Each device has always some.
            Workload::Closed { .. } | Workload::Idle => WINDOW,
        };
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let [waiting, devices, window, every] =
            [waiting as u64, self.devices.len() as u64, WINDOW.0, every.0].map(|n| n as f64);
        (waiting + devices * window / every).max(devices)
    }

    /// The world in words, for a failure report.
    #[must_use]
    pub fn describe(&self) -> String {
        let devices = self.devices.iter().filter(|d| !d.finished()).take(8);
        let devices: Vec<String> = devices.map(|d| d.describe(self.now)).collect();
        let seen = |a| (0..self.nodes.len()).map(move |b| (a, b, self.sees(a, b)));
        let seen: Vec<_> = (0..self.nodes.len()).flat_map(seen).filter(|s| s.0 != s.1).collect();
        format!(
            "{:#?}\nat {} ms, nodes up: {:?}, who sees whom: {seen:?}\n{}",
            self.options,
            self.now.as_millis(),
            self.nodes.iter().map(Option::is_some).collect::<Vec<_>>(),
            devices.join("\n")
        )
    }
}

fn specs(
    options: &Options,
    contents: &[SimImage],
    odd: Option<&SimImage>,
    farm_key: [u8; 32],
    planted: Option<Planted>,
) -> Vec<NodeSpec> {
    let spec = |number: usize| {
        let mut contents = contents.to_vec();
        if let (Some(odd), true) = (odd, options.odd_node == Some(number)) {
            contents[0] = odd.clone();
        }
        NodeSpec {
            number,
            identity: number,
            contents,
            farm_key,
            clock_s: options.clocks_s.get(number).copied().unwrap_or(0),
            disk: SimDisk { faults: options.disk_of(number), ..SimDisk::default() },
            mutation: Planted::in_node(planted),
        }
    };
    (0..options.nodes).map(spec).collect()
}

/// Reads of a device since the last mark that its standby was asked as well.
fn hedged_reads(device: &SimDevice) -> u64 {
    let (now, before) = (device.session().counters(), device.counters_before());
    now.hedged_reads.saturating_sub(before.hedged_reads)
}
