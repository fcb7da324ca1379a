//! A node without a kernel: shards, an arena, a disk and a network that do what the test says, and a scripted device.
#![allow(dead_code, reason = "each test uses a part of the support")]

pub mod device;
pub mod sys;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use diskstream_node::cache::Cache;
use diskstream_node::farm::Farm;
use diskstream_node::shard::{
    BootSlots, DiskRead, Event, HungStores, Input, Limits, Line, NodeShared, Outbox, Shard,
    ShardMessage, SocketRole, VdiskEntry, WallClock,
};
use diskstream_node::trust::{FarmKey, Keys};
use diskstream_node::view::{
    DrainState, FarmView, HeldVersion, Load, OwnLoad, PeerState, PeerView, ViewCell,
};
use diskstream_ring::{Arena, ArenaConfig, Errno, HugePages, LocalAddr, SendPlan};
use diskstream_vdisk::{BlockHashes, FlatMapBuilder, ImageMap};
use diskstream_wire::{ContentId, Decoded, Message, Nanos, decode};

pub const BLOCK: usize = 64 * 1024;
pub const UNIT: usize = 4096;

/// A datagram that a node sent.
#[derive(Clone, Debug)]
pub struct Mail {
    pub socket: SocketRole,
    pub shard: usize,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

impl Mail {
    pub fn decode(&self) -> Decoded<'_> {
        decode(&self.bytes).expect("a node sends only messages")
    }

    pub fn message(&self) -> Message {
        self.decode().message
    }
}

/// Changes a vDisk before the shards see it.
pub type Change = Box<dyn FnOnce(&mut VdiskEntry)>;

/// What to build.
pub struct Setup {
    pub shards: usize,
    pub frames: usize,
    pub block: usize,
    pub limits: Limits,
    /// Bytes that all shards send in a second.
    pub pace: Option<u64>,
    pub boot_limit: u32,
    pub farm: Option<&'static str>,
    pub image: Vec<u8>,
    /// Ranges that hold data; none: all of it.
    pub data: Option<Vec<std::ops::Range<u64>>>,
    /// Another map than the flat one of `data`.
    pub map: Option<Arc<dyn ImageMap>>,
    pub hashes: bool,
    pub ready: bool,
    /// A second vDisk with the same bytes under another content id, without hashes.
    pub second_vdisk: bool,
    /// What is different about the first vDisk.
    pub change: Option<Change>,
    /// What is different about the second vDisk.
    pub change_second: Option<Change>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            shards: 1,
            frames: 32,
            block: BLOCK,
            limits: Limits { sessions_max: 64, plans: 64, ..Limits::default() },
            pace: None,
            boot_limit: 500,
            farm: None,
            image: image(1 << 20),
            data: None,
            map: None,
            hashes: true,
            ready: true,
            second_vdisk: false,
            change: None,
            change_second: None,
        }
    }
}

/// Bytes in which every unit differs from every other, and none is zero.
pub fn image(bytes: usize) -> Vec<u8> {
    let mut image = vec![0; bytes];
    for (unit, chunk) in image.chunks_mut(UNIT).enumerate() {
        for (i, byte) in chunk.iter_mut().enumerate() {
            *byte = (unit * 31 + i * 7 + i / 256) as u8 | 1;
        }
    }
    image
}

/// Two vDisks of the same size on two stores, and a device of each.
pub const TWO_STORES: &str = r#"
    farm = { name = "two", key_file = "k", accept_mac_alone = true }
    node = [{ name = "a", address = "10.0.0.1" }]
    store = [{ name = "first", path = "/first" }, { name = "last", path = "/last" }]
    vdisk = [
        { name = "one", store = "first", file = "one.img" },
        { name = "two", store = "last", file = "two.img" },
    ]
    device = [
        { mac = "02:00:00:00:00:01", name = "one", vdisk = "one" },
        { mac = "02:00:00:00:00:02", name = "two", vdisk = "two" },
    ]
"#;

pub struct World {
    pub arena: Arc<Arena>,
    pub shared: Arc<NodeShared>,
    pub shards: Vec<Shard>,
    pub outs: Vec<Outbox>,
    pub now: Nanos,
    pub image: Vec<u8>,
    /// Disk reads that are not answered yet.
    pub disk: VecDeque<(usize, DiskRead)>,
    /// Answer disk reads at once.
    pub disk_runs: bool,
    /// Deliver messages between shards at once.
    pub messages_run: bool,
    pub messages: VecDeque<(usize, ShardMessage)>,
    /// Complete sends at once.
    pub sends_run: bool,
    pub sends: Vec<(usize, Box<SendPlan>)>,
    /// How many sends there were.
    pub send_count: usize,
    pub mail: Vec<Mail>,
    pub events: Vec<Event>,
}

pub fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub fn local() -> Option<LocalAddr> {
    Some(LocalAddr::new("10.0.0.1".parse().expect("an address")))
}

impl World {
    pub fn new(mut setup: Setup) -> World {
        let bytes = setup.frames * setup.block;
        let arena = Arena::new(&ArenaConfig { bytes, huge_pages: HugePages::Off });
        let arena = Arc::new(arena.expect("a small arena"));
        let cache = Cache::new(Arc::clone(&arena), setup.block).expect("a cache");
        let farm = match setup.farm {
            Some(text) => Farm::parse(text, Path::new("/farm/farm.toml")).expect("a farm"),
            None => Farm::single_image(
                Path::new("/images/disk.img"),
                &[addr("0.0.0.0:6910")],
                setup.boot_limit,
            ),
        };
        let ports = 6911..6911 + setup.shards as u16;
        let now = Nanos::from_secs(1000);
        let shared = NodeShared {
            keys: Keys::derive(&FarmKey::new([5; 32])),
            own_node: 0,
            vdisks: OnceLock::new(),
            cache: Arc::new(cache),
            boot_slots: BootSlots::new(farm.boot_limit),
            farm: Arc::new(farm),
            login_endpoint: addr("0.0.0.0:6910"),
            io_endpoints: ports.map(|port| SocketAddr::from(([0, 0, 0, 0], port))).collect(),
            placement_seed: [9; 32],
            wall_clock: WallClock::new(1_800_000_000, now),
            limits: setup.limits,
            hung_stores: HungStores::named(
                (0..setup.limits.stores).map(|n| format!("8:{n}")).collect(),
            ),
            line: Line::new(setup.pace),
            view: ViewCell::default(),
            own: OwnLoad::default(),
        };
        let shared = Arc::new(shared);
        shared.view.publish(FarmView::of_farm(&shared.farm, 0));
        let mut entry = vdisk(&setup, &shared.farm.vdisks[0].name);
        if let Some(change) = setup.change.take() {
            change(&mut entry);
        }
        let mut entries = vec![Arc::new(entry)];
        if setup.second_vdisk {
            let map = Arc::clone(&entries[0].map);
            let name = &shared.farm.vdisks[1].name;
            let second = VdiskEntry::new(name, ContentId([1; 32]), map, None);
            let store = shared.limits.stores - 1;
            let mut second = VdiskEntry { store, ..second };
            if let Some(change) = setup.change_second.take() {
                change(&mut second);
            }
            entries.push(Arc::new(second));
        }
        if setup.ready {
            assert!(shared.vdisks.set(entries).is_ok());
        }
        let shard = |n: usize| Shard::new(n as u16, Arc::clone(&shared), [n as u8 + 1; 32]);
        World {
            arena,
            shards: (0..setup.shards).map(shard).collect(),
            outs: (0..setup.shards).map(|_| Outbox::new(&setup.limits)).collect(),
            shared,
            now,
            image: setup.image,
            disk: VecDeque::new(),
            disk_runs: true,
            messages_run: true,
            messages: VecDeque::new(),
            sends_run: true,
            sends: Vec::new(),
            send_count: 0,
            mail: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A peer that is up, serves, and holds the first vDisk's very content.
    pub fn peer(&self, name: &str, login: &str, sessions: u32) -> PeerView {
        let vdisk = self.shared.vdisk(0);
        let held = HeldVersion {
            vdisk: vdisk.name.clone(),
            content_id: vdisk.content_id,
            eligible: true,
            sessions,
        };
        PeerView {
            state: PeerState::Up,
            load: Load { sessions, ..Load::default() },
            versions: Arc::new([held]),
            ..PeerView::unknown(name, addr(login), 100)
        }
    }

    pub fn publish(&self, peers: &[PeerView]) {
        self.shared.view.publish(FarmView { peers: peers.to_vec() });
    }

    /// Tells every shard to take no devices.
    pub fn drain(&mut self, state: DrainState, seconds: u64) {
        let deadline = self.now + Nanos::from_secs(seconds);
        for shard in 0..self.shards.len() {
            self.step(shard, Input::Drain { state, deadline });
        }
        self.run();
    }

    pub fn step(&mut self, shard: usize, input: Input<'_>) {
        self.shards[shard].step(input, self.now, &mut self.outs[shard]);
    }

    pub fn datagram(&mut self, shard: usize, socket: SocketRole, from: SocketAddr, bytes: &[u8]) {
        let input = Input::Datagram { socket, from, local: local(), bytes };
        self.step(shard, input);
    }

    /// Runs turns until nothing moves any more; time stands still.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the node does not come to rest");
    }

    pub fn pass(&mut self, time: Nanos) {
        self.now = self.now + time;
        self.run();
    }

    /// One turn of every shard; true when something happened.
    pub fn turn(&mut self) -> bool {
        let mut busy = false;
        for shard in 0..self.shards.len() {
            self.shards[shard].flush(self.now, &mut self.outs[shard]);
            self.shards[shard].check_invariants_deep(&self.outs[shard]);
            busy |= self.dispatch(shard);
            busy |= self.shards[shard].next_deadline() <= self.now;
        }
        if self.messages_run {
            while let Some((shard, message)) = self.messages.pop_front() {
                self.step(shard, Input::FromShard(message));
                busy = true;
            }
        }
        if self.disk_runs && !self.disk.is_empty() {
            self.answer_disk();
            busy = true;
        }
        busy
    }

    /// Sends what a shard's last input led to, without ending its turn.
    pub fn settle(&mut self, shard: usize) {
        self.dispatch(shard);
    }

    fn dispatch(&mut self, shard: usize) -> bool {
        let out = &mut self.outs[shard];
        let busy = !out.is_empty();
        let plans: Vec<_> = out.sends.drain(..).collect();
        self.disk.extend(out.reads.drain(..).map(|read| (shard, read)));
        self.messages.extend(out.messages.drain(..).map(|(to, m)| (usize::from(to), m)));
        self.events.append(&mut out.events);
        for (socket, plan) in plans {
            self.send_count += 1;
            self.collect(shard, socket, &plan);
            self.sends.push((shard, plan));
        }
        if self.sends_run {
            self.complete_sends();
        }
        busy
    }

    pub fn complete_sends(&mut self) {
        for (shard, plan) in std::mem::take(&mut self.sends) {
            let bytes = plan.payload_bytes() as u32;
            self.step(shard, Input::Sent { plan, result: Ok(bytes) });
        }
    }

    fn collect(&mut self, shard: usize, socket: SocketRole, plan: &SendPlan) {
        let mut payload = Vec::new();
        plan.copy_payload(&mut payload, |offset, len, out| {
            sys::read_arena(&self.arena, offset, len, out);
        });
        let segment = match plan.segment_bytes {
            0 => payload.len(),
            bytes => usize::from(bytes),
        };
        assert_eq!(payload.len().div_ceil(segment), plan.segments());
        for bytes in payload.chunks(segment) {
            self.mail.push(Mail { socket, shard, to: plan.peer, bytes: bytes.to_vec() });
        }
    }

    /// Answers every disk read with the image's bytes.
    pub fn answer_disk(&mut self) {
        while let Some((shard, read)) = self.disk.pop_front() {
            self.answer(shard, &read);
        }
    }

    pub fn answer(&mut self, shard: usize, read: &DiskRead) {
        let start = (read.file_offset as usize).min(self.image.len());
        let end = (start + read.len as usize).min(self.image.len());
        sys::write_arena(&self.arena, read.arena_offset, &self.image[start..end]);
        let result = Ok((end - start) as u32);
        self.step(shard, Input::DiskDone { token: read.token, result });
    }

    /// Answers the disk reads of one vDisk, and what follows from them, until there are none left.
    pub fn answer_vdisk(&mut self, vdisk: u32) {
        loop {
            self.run();
            let Some(at) = self.disk.iter().position(|(_, read)| read.file.vdisk == vdisk) else {
                return;
            };
            let (shard, read) = self.disk.remove(at).expect("it was just found");
            self.answer(shard, &read);
        }
    }

    pub fn fail_disk(&mut self, errno: i32) {
        while let Some((shard, read)) = self.disk.pop_front() {
            self.step(shard, Input::DiskDone { token: read.token, result: Err(Errno(errno)) });
        }
    }

    /// Takes the mail for an address.
    pub fn mail_for(&mut self, to: SocketAddr) -> Vec<Mail> {
        let (taken, left) = std::mem::take(&mut self.mail).into_iter().partition(|m| m.to == to);
        self.mail = left;
        taken
    }

    pub fn counters(&self, shard: usize) -> Arc<diskstream_node::shard::ShardCounters> {
        self.shards[shard].counters()
    }

    pub fn event(&self, label: &str) -> usize {
        self.events.iter().filter(|event| event.label() == label).count()
    }

    /// Nothing is queued, out or pinned.
    pub fn assert_at_rest(&mut self) {
        self.run();
        assert!(self.sends.is_empty() && self.disk.is_empty() && self.messages.is_empty());
        assert_eq!(self.shared.cache.frames_pinned(), 0, "pins leak");
        for shard in &self.shards {
            assert_eq!(shard.counters().jobs.get(), 0, "jobs leak");
            assert_eq!(shard.counters().flights.get(), 0, "flights leak");
        }
    }
}

fn vdisk(setup: &Setup, name: &str) -> VdiskEntry {
    let hashes = BlockHashes::of(&setup.image);
    let content_id = ContentId(hashes.content_id().0);
    let size = setup.image.len() as u64;
    let mut map = FlatMapBuilder::new(size);
    match &setup.data {
        None => map.add_data(0..size),
        Some(ranges) => ranges.iter().for_each(|range| map.add_data(range.clone())),
    }
    let hashes = setup.hashes.then(|| Arc::new(hashes));
    let map = setup.map.clone().unwrap_or_else(|| Arc::new(map.finish()));
    VdiskEntry::new(name, content_id, map, hashes)
}
