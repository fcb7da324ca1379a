//! A node in the world: its real shards over simulated sockets, disk and delayed queues between cores.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use diskstream_node::cache::Cache;
use diskstream_node::farm::Farm;
use diskstream_node::rebalance::{Settings, begin, decide, split};
use diskstream_node::shard::{
    BootSlots, DiskRead, Feed, FileRef, HungStores, Input, Limits, Line, Mutation, NodeShared,
    Outbox, Recorder, STORES_MAX, Shard, ShardCounters, ShardMessage, SocketRole, VdiskEntry,
    WallClock,
};
use diskstream_node::trust::{FarmKey, Keys};
use diskstream_node::view::{DrainState, FarmView, OwnLoad, ViewCell};
use diskstream_ring::{Arena, ArenaConfig, Errno, HugePages, LocalAddr, SendPlan};
use diskstream_wire::header::Header;
use diskstream_wire::{Message, Nanos, Notice, decode, node_entries};

use crate::hosts::{LOGIN_PORT, PEER_PORT, node_ip, node_login, vdisk_name};
use crate::image::SimImage;
use crate::network::Datagram;
use crate::options::{DiskFaults, Options};
use crate::peers::SimPeers;
use crate::random::Random;

/// Bytes of a cache block.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// Something that a shard waits for.
enum Due {
    Disk(DiskRead),
    Sent { plan: Box<SendPlan>, payload: Vec<u8> },
    Message(ShardMessage),
}

struct SimShard {
    shard: Shard,
    out: Outbox,
    queue: BinaryHeap<Reverse<(Nanos, u64)>>,
    due: HashMap<u64, Due>,
}

/// A node that runs, or that crashed and waits for its restart.
pub struct SimNode {
    number: usize,
    shards: Vec<SimShard>,
    peers: SimPeers,
    arena: Arc<Arena>,
    shared: Arc<NodeShared>,
    contents: Vec<SimImage>,
    disk: SimDisk,
    /// What is being read from the disk, by file and offset.
    reading: HashSet<(FileRef, u64)>,
    shard_delay: Nanos,
    mutation: Option<Mutation>,
    next: u64,
    random: Random,
    /// Paused until then: nothing is looked at.
    pub paused_until: Nanos,
    /// Most of anything that was ever queued at a shard.
    pub peak_due: usize,
}

/// What a node's disk does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDisk {
    /// Faults of single reads.
    pub faults: DiskFaults,
    /// Reads of this vDisk take exactly so long.
    pub stuck: Option<(usize, Nanos)>,
    /// The store is gone: every read fails.
    pub lost: bool,
}

/// What a node is, whether it runs or not.
#[derive(Clone)]
pub struct NodeSpec {
    /// Its number, which is its address.
    pub number: usize,
    /// Which of the farm's nodes it says it is.
    pub identity: usize,
    /// What it holds under each vDisk's name.
    pub contents: Vec<SimImage>,
    /// Its secret: the farm's, unless it is a stranger.
    pub farm_key: [u8; 32],
    /// Seconds by which its wall clock is wrong.
    pub clock_s: i64,
    /// Its disk.
    pub disk: SimDisk,
    /// The bug planted in it.
    pub mutation: Option<Mutation>,
}

impl SimNode {
    /// Starts a node.
    #[must_use]
    pub fn start(
        spec: &NodeSpec,
        options: &Options,
        farm: &Arc<Farm>,
        now: Nanos,
        random: &mut Random,
    ) -> SimNode {
        let bytes = options.frames * BLOCK_BYTES;
        let arena = Arc::new(
            Arena::new(&ArenaConfig { bytes, huge_pages: HugePages::Off }).expect("some memory"),
        );
        let shared = Arc::new(shared(spec, options, farm, &arena, now, random));
        let shards = (0..options.shards)
            .map(|index| {
                let index = u16::try_from(index).expect("few shards");
                let shard = Shard::new(index, Arc::clone(&shared), random.seed());
                let shard = shard.with_mutation(spec.mutation);
                let out = Outbox::new(&shared.limits);
                SimShard { shard, out, queue: BinaryHeap::new(), due: HashMap::new() }
            })
            .collect();
        let peers = SimPeers::start(spec, options, &shared, random.seed(), now);
        SimNode {
            number: spec.number,
            shards,
            peers,
            arena,
            shared,
            contents: spec.contents.clone(),
            disk: spec.disk,
            reading: HashSet::new(),
            shard_delay: options.shard_delay,
            mutation: spec.mutation,
            next: 0,
            random: Random::new(random.bits()),
            paused_until: Nanos::ZERO,
            peak_due: 0,
        }
    }

    /// Changes what the disk does with reads that start from now on.
    pub fn set_disk(&mut self, disk: SimDisk) {
        self.disk = disk;
    }

    /// Judges what a device is told: no node that this one knows to be leaving is named to it.
    pub fn check_successors(&self, datagram: &Datagram) {
        if Header::peek_kind(&datagram.bytes) != Some(Notice::KIND) {
            return;
        }
        let Ok(decoded) = decode(&datagram.bytes) else { return };
        let Message::Notice(notice) = decoded.message else { return };
        let view = self.shared.view.get();
        node_entries(decoded.tail, notice.node_count, |entry| {
            let named = view.peers.iter().find(|peer| peer.entry().login == entry.login);
            assert!(
                named.is_none_or(|peer| peer.drain == DrainState::Serving),
                "judge of successors: node {} sends a device to one that is leaving: {named:?}",
                self.number
            );
        });
    }

    /// What its shards share.
    #[must_use]
    pub fn shared(&self) -> &NodeShared {
        &self.shared
    }

    /// Hands a datagram to the shard that reads its port, and what that sends to `sent`.
    pub fn receive(&mut self, datagram: &Datagram, now: Nanos, sent: &mut Vec<Datagram>) {
        let port = datagram.to.port();
        if port == PEER_PORT {
            return self.peers.receive(datagram, &self.shared, now, sent);
        }
        let (shard, socket) = if port == LOGIN_PORT {
            (0, SocketRole::Login)
        } else {
            (usize::from(port.wrapping_sub(LOGIN_PORT + 1)), SocketRole::Io)
        };
        if shard >= self.shards.len() {
            return;
        }
        let local = Some(LocalAddr::new(datagram.to.ip()));
        let input = Input::Datagram { socket, from: datagram.from, local, bytes: &datagram.bytes };
        self.step(shard, input, now, sent);
    }

    /// Tells every shard to take no devices any more, and the peers. Where devices can go is in the node's view of the farm.
    pub fn drain(
        &mut self,
        state: DrainState,
        deadline: Nanos,
        now: Nanos,
        sent: &mut Vec<Datagram>,
    ) {
        self.shared.own.drain.fetch_max(state as u8, Relaxed);
        for shard in 0..self.shards.len() {
            self.step(shard, Input::Drain { state, deadline }, now, sent);
        }
        self.own_changed(now, sent);
    }

    /// Tells every shard to take devices again.
    pub fn resume(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        for shard in 0..self.shards.len() {
            self.step(shard, Input::Resume, now, sent);
        }
        self.own_changed(now, sent);
    }

    /// Evens out the sessions of the first vDisk, as the node's control thread does. Gives how many are told to move.
    pub fn rebalance(&mut self, settings: &Settings, now: Nanos, sent: &mut Vec<Datagram>) -> u32 {
        let Ok(plan) = decide(&self.shared, 0, settings, now) else { return 0 };
        if self.mutation != Some(Mutation::RebalanceAtOnce) {
            begin(&self.shared, now);
        }
        let serving = self.shards.iter().map(|s| s.shard.counters().sessions_serving.get());
        let counts = split(plan.count, &serving.collect::<Vec<u64>>());
        for (shard, count) in counts.into_iter().enumerate() {
            let input = Input::Rebalance { vdisk: 0, count, successors: &plan.successors };
            self.step(shard, input, now, sent);
        }
        plan.count
    }

    /// Tells every shard that the file of a vDisk was changed.
    pub fn vdisk_changed(&mut self, vdisk: usize, now: Nanos, sent: &mut Vec<Datagram>) {
        let vdisk = u32::try_from(vdisk).expect("few vDisks");
        for shard in 0..self.shards.len() {
            self.step(shard, Input::VdiskChanged { vdisk }, now, sent);
        }
    }

    /// Tells the peers at once what changed here, as the node's other threads make theirs do.
    pub fn own_changed(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        self.peers.tick(&self.shared, now, sent);
    }

    /// Says goodbye to the peers: the last thing that it does.
    pub fn leave(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        self.peers.leave(&self.shared, now, sent);
    }

    /// True when every shard has drained.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.shards.iter().all(|s| s.shard.drained())
    }

    /// When something happens here by itself.
    #[must_use]
    pub fn next_event(&self) -> Nanos {
        let next = self.shards.iter().map(|s| {
            let due = s.queue.peek().map_or(Nanos::NEVER, |Reverse((at, _))| *at);
            due.earlier(s.shard.next_deadline())
        });
        let soonest = next.fold(self.peers.next_event(), Nanos::earlier);
        if soonest < self.paused_until { self.paused_until } else { soonest }
    }

    /// Does what is due.
    pub fn advance(&mut self, now: Nanos, sent: &mut Vec<Datagram>) {
        if now < self.paused_until {
            return;
        }
        if self.peers.next_event() <= now {
            self.peers.tick(&self.shared, now, sent);
        }
        for shard in 0..self.shards.len() {
            while let Some(due) = self.take_due(shard, now) {
                match due {
                    Due::Disk(read) => {
                        self.reading.remove(&(read.file, read.file_offset));
                        let result = self.disk(&read);
                        self.step(shard, Input::DiskDone { token: read.token, result }, now, sent);
                    }
                    Due::Sent { plan, payload } => {
                        self.check_unchanged(&plan, &payload);
                        let result = Ok(u32::try_from(payload.len()).expect("one send"));
                        self.step(shard, Input::Sent { plan, result }, now, sent);
                    }
                    Due::Message(message) => self.step(shard, Input::FromShard(message), now, sent),
                }
            }
            let s = &mut self.shards[shard];
            if s.shard.next_deadline() <= now {
                s.shard.step(Input::Turn { more: false }, now, &mut s.out);
                s.shard.flush(now, &mut s.out);
                self.dispatch(shard, now, sent);
            }
        }
    }

    /// Sessions that the node holds.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.shards.iter().map(|s| s.shard.counters().sessions.get()).sum()
    }

    /// Sessions that are served, and standbys, as the node's shards count them one by one.
    #[must_use]
    pub fn roles(&self) -> (u64, u64) {
        let count = |of: fn(&ShardCounters) -> u64| {
            self.shards.iter().map(|s| of(&s.shard.counters())).sum::<u64>()
        };
        (count(|c| c.sessions_serving.get()), count(|c| c.sessions_standby.get()))
    }

    /// Disk reads so far, blocks that were loaded before anybody asked, and those that somebody asked for afterwards.
    #[must_use]
    pub fn loads(&self) -> [u64; 3] {
        let sum = |of: fn(&ShardCounters) -> u64| {
            self.shards.iter().map(|s| of(&s.shard.counters())).sum::<u64>()
        };
        let early = sum(|c| c.ahead_sequential.get() + c.ahead_listed.get());
        let used = self.shared.cache.stats().ahead_used + sum(|c| c.ahead_late.get());
        [sum(|c| c.disk_reads.get()), early, used]
    }

    /// Judges the sums that the node tells its peers.
    pub fn check_accounts(&self) {
        let own = &self.shared.own;
        let told = (own.sessions.load(Relaxed).into(), own.standbys.load(Relaxed).into());
        assert_eq!(
            told,
            self.roles(),
            "judge of accounts: node {} tells other numbers than its shards count",
            self.number
        );
    }

    fn take_due(&mut self, shard: usize, now: Nanos) -> Option<Due> {
        let s = &mut self.shards[shard];
        let &Reverse((at, id)) = s.queue.peek()?;
        if at > now {
            return None;
        }
        s.queue.pop();
        s.due.remove(&id)
    }

    fn step(&mut self, shard: usize, input: Input<'_>, now: Nanos, sent: &mut Vec<Datagram>) {
        // What waited in the socket while the node stood still comes all at once.
        let more = self.paused_until != Nanos::ZERO && now <= self.paused_until + Nanos(1_000);
        let s = &mut self.shards[shard];
        s.shard.step(Input::Turn { more }, now, &mut s.out);
        s.shard.step(input, now, &mut s.out);
        s.shard.flush(now, &mut s.out);
        s.shard.check_invariants(&s.out);
        self.dispatch(shard, now, sent);
    }

    fn dispatch(&mut self, shard: usize, now: Nanos, sent: &mut Vec<Datagram>) {
        let out = &mut self.shards[shard].out;
        let mut sends = std::mem::take(&mut out.sends);
        let mut reads = std::mem::take(&mut out.reads);
        let mut messages = std::mem::take(&mut out.messages);
        out.events.clear();
        for (role, plan) in sends.drain(..) {
            let mut payload = Vec::new();
            self.payload(&plan, &mut payload);
            let port = match role {
                SocketRole::Login => LOGIN_PORT,
                SocketRole::Io => LOGIN_PORT + 1 + u16::try_from(shard).expect("few shards"),
            };
            let from = SocketAddr::new(node_ip(self.number), port);
            let segment = if plan.segment_bytes == 0 {
                payload.len()
            } else {
                usize::from(plan.segment_bytes)
            };
            for bytes in payload.chunks(segment.max(1)) {
                sent.push(Datagram { from, to: plan.peer, bytes: bytes.to_vec() });
            }
            // A send may wait on a card: until then its frames must not change.
            let delay = Nanos(self.random.below(2_000_000));
            self.enqueue(shard, now + delay, Due::Sent { plan, payload });
        }
        for read in reads.drain(..) {
            // The judge of single flight: demand, other shards and read-ahead together ask for a block once.
            assert!(
                self.reading.insert((read.file, read.file_offset)),
                "judge of single flight: node {} reads a block that it is reading already",
                self.number
            );
            let delay = self.disk_time(&read);
            self.enqueue(shard, now + delay, Due::Disk(read));
        }
        for (to, message) in messages.drain(..) {
            let delay = Nanos(self.random.below(self.shard_delay.0 + 1));
            self.enqueue(usize::from(to), now + delay, Due::Message(message));
        }
        // The lists keep their memory.
        let out = &mut self.shards[shard].out;
        (out.sends, out.reads, out.messages) = (sends, reads, messages);
    }

    fn enqueue(&mut self, shard: usize, at: Nanos, due: Due) {
        let s = &mut self.shards[shard];
        s.queue.push(Reverse((at, self.next)));
        s.due.insert(self.next, due);
        self.next += 1;
        self.peak_due = self.peak_due.max(s.due.len());
    }

    fn payload(&self, plan: &SendPlan, into: &mut Vec<u8>) {
        plan.copy_payload(into, |offset, len, out| {
            crate::sys::copy_from(&self.arena, offset, len, out);
        });
    }

    /// The judge of pins: what a send points to is what it pointed to when it was handed over.
    fn check_unchanged(&self, plan: &SendPlan, then: &[u8]) {
        let mut now = Vec::new();
        self.payload(plan, &mut now);
        assert!(now == then, "judge of pins: a frame changed while a send still named it");
    }

    fn disk_time(&mut self, read: &DiskRead) -> Nanos {
        let SimDisk { faults, stuck, .. } = self.disk;
        if let Some((vdisk, time)) = stuck
            && read.file.vdisk as usize == vdisk
        {
            return time;
        }
        let slow = self.random.chance_ppm(faults.slow_ppm);
        let latency = if slow { faults.slow } else { faults.latency };
        Nanos(self.random.below(latency.0 + 1))
    }

    fn disk(&mut self, read: &DiskRead) -> Result<u32, Errno> {
        let faults = self.disk.faults;
        if self.disk.lost || self.random.chance_ppm(faults.error_ppm) {
            return Err(Errno::EIO);
        }
        let image = &self.contents[read.file.vdisk as usize];
        let start = usize::try_from(read.file_offset).expect("a small image");
        let len = usize::try_from(read.len).expect("a block");
        let end = (start + len).min(image.size);
        let mut bytes = image.padded[start.min(end)..end].to_vec();
        if self.random.chance_ppm(faults.rot_ppm) && !bytes.is_empty() {
            let at = self.random.index(bytes.len());
            bytes[at] ^= 1;
        }
        crate::sys::copy_to(&self.arena, read.arena_offset, &bytes);
        Ok(u32::try_from(bytes.len()).expect("a block"))
    }
}

fn shared(
    spec: &NodeSpec,
    options: &Options,
    farm: &Arc<Farm>,
    arena: &Arc<Arena>,
    now: Nanos,
    random: &mut Random,
) -> NodeShared {
    let cache = Arc::new(Cache::new(Arc::clone(arena), BLOCK_BYTES).expect("sizes that fit"));
    let entries = spec.contents.iter().enumerate().map(|(vdisk, image)| {
        let hashes = Some(Arc::clone(&image.hashes));
        let map = image.map.clone();
        // Each on a store of its own: one may be stuck while the others are well.
        let store = u16::try_from(vdisk).expect("few vDisks");
        let entry = VdiskEntry::new(&vdisk_name(vdisk), image.content_id(), map, hashes);
        let blocks = u32::try_from(image.size.div_ceil(BLOCK_BYTES)).expect("a small image");
        let feed =
            if options.warm { Feed::of((0..blocks).step_by(3).collect()) } else { Feed::default() };
        let recorder = options.warm.then(|| Recorder::new(u64::from(blocks)));
        Arc::new(VdiskEntry { store, feed, recorder, ..entry })
    });
    let vdisks = OnceLock::new();
    assert!(vdisks.set(entries.collect()).is_ok(), "a new cell is empty");
    let port = |shard: usize| LOGIN_PORT + 1 + u16::try_from(shard).expect("few shards");
    let limits = Limits {
        sessions_max: options.sessions_max,
        plans: 64,
        flights_max: 64,
        stores: u16::try_from(options.vdisks.max(1)).expect("few vDisks"),
        // Below what a shard may wait for, so that reads wait for their store's turn.
        store_depths: [24; STORES_MAX],
        ..Limits::default()
    };
    let view = ViewCell::default();
    view.publish(FarmView::of_farm(farm, spec.identity));
    NodeShared {
        keys: Keys::derive(&FarmKey::new(spec.farm_key)),
        farm: Arc::clone(farm),
        own_node: spec.identity,
        vdisks,
        cache,
        boot_slots: BootSlots::new(options.boot_limit),
        login_endpoint: node_login(spec.number),
        io_endpoints: (0..options.shards)
            .map(|s| SocketAddr::new(node_ip(spec.number), port(s)))
            .collect(),
        placement_seed: random.seed(),
        wall_clock: WallClock::new(1_700_000_000u64.saturating_add_signed(spec.clock_s), now),
        limits,
        hung_stores: HungStores::default(),
        line: Line::default(),
        view,
        own: OwnLoad::default(),
    }
}
