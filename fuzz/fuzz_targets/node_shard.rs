//! A shard under datagrams of a hostile device. The friend's datagrams get the cookie, ticket and session that the shard
//! gave it; the stranger's never do, and nothing larger than what it sent may ever go to it.
#![no_main]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use diskstream_fuzz::{Cursor, datagram};
use diskstream_node::cache::Cache;
use diskstream_node::farm::Farm;
use diskstream_node::shard::{
    BootSlots, HungStores, Input, Limits, Line, NodeShared, Outbox, Shard, SocketRole, VdiskEntry, WallClock,
};
use diskstream_node::trust::{FarmKey, Keys};
use diskstream_node::view::{OwnLoad, ViewCell};
use diskstream_ring::{Arena, ArenaConfig, HugePages};
use diskstream_vdisk::FlatMap;
use diskstream_wire::{
    ContentId, IoServiceStart, LoginComplete, LoginPortReply, LoginStart, LoginTransfer, Nanos,
    NodeEntry, Read, decode,
};
use libfuzzer_sys::fuzz_target;

const CONTENT: ContentId = ContentId([9; 32]);

/// The arena outlives every run: mapping one costs more than a run.
fn arena() -> Arc<Arena> {
    static ARENA: OnceLock<Arc<Arena>> = OnceLock::new();
    let config = ArenaConfig { bytes: 512 * 1024, huge_pages: HugePages::Off };
    Arc::clone(ARENA.get_or_init(|| Arc::new(Arena::new(&config).expect("half a MiB"))))
}

fn shard() -> Shard {
    let login: SocketAddr = "10.0.0.1:6910".parse().expect("an address");
    let limits = Limits { sessions_max: 8, flights_max: 4, plans: 64, ..Limits::default() };
    let map = Arc::new(FlatMap::dense(1 << 20));
    let vdisks = OnceLock::new();
    let _ = vdisks.set(vec![Arc::new(VdiskEntry::new("disk", CONTENT, map, None))]);
    let shared = NodeShared {
        keys: Keys::derive(&FarmKey::new([3; 32])),
        farm: Arc::new(Farm::single_image(Path::new("/disk.img"), &[login], 4)),
        own_node: 0,
        vdisks,
        cache: Arc::new(Cache::new(arena(), 64 * 1024).expect("eight blocks")),
        boot_slots: BootSlots::new(4),
        login_endpoint: login,
        io_endpoints: vec!["10.0.0.1:6911".parse().expect("an address")],
        placement_seed: [5; 32],
        wall_clock: WallClock::new(1_760_000_000, Nanos::ZERO),
        limits,
        hung_stores: HungStores::default(),
        line: Line::default(),
        view: ViewCell::default(),
        own: OwnLoad::default(),
    };
    Shard::new(0, Arc::new(shared), [7; 32])
}

/// What the friend was given.
#[derive(Default)]
struct Given {
    cookie: [u8; 16],
    ticket: Vec<u8>,
    session: u32,
    tag: u64,
}

impl Given {
    fn learn(&mut self, bytes: &[u8]) {
        if let Ok((reply, _)) = LoginPortReply::decode(bytes) {
            self.cookie = reply.cookie;
        } else if let Ok((transfer, tail)) = LoginTransfer::decode(bytes) {
            let at = usize::from(transfer.node_count) * NodeEntry::BYTES;
            self.ticket = tail[at..][..usize::from(transfer.ticket_bytes)].to_vec();
        } else if let Ok((complete, _)) = LoginComplete::decode(bytes) {
            (self.session, self.tag) = (complete.session, complete.session_tag);
        }
    }

    /// Puts what was given into a datagram of the friend.
    fn fill(&self, bytes: &mut Vec<u8>) {
        match bytes.get(3).copied() {
            Some(LoginStart::KIND) if bytes.len() >= LoginStart::BYTES => {
                bytes[48..64].copy_from_slice(&self.cookie);
            }
            Some(IoServiceStart::KIND) if bytes.len() >= IoServiceStart::BYTES => {
                bytes.truncate(IoServiceStart::BYTES);
                bytes[160..162].copy_from_slice(&(self.ticket.len() as u16).to_be_bytes());
                bytes.extend(&self.ticket);
                let length = bytes.len() as u16;
                bytes[6..8].copy_from_slice(&length.to_be_bytes());
            }
            Some(kind) if kind > IoServiceStart::KIND && bytes.len() >= 36 => {
                bytes[8..16].copy_from_slice(&self.tag.to_be_bytes());
                bytes[32..36].copy_from_slice(&self.session.to_be_bytes());
                if kind == Read::KIND && bytes.len() >= Read::BYTES {
                    bytes[48..56].copy_from_slice(&CONTENT.0[..8]);
                }
            }
            _ => {}
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Cursor::new(input);
    let mut shard = shard();
    let mut out = Outbox::new(&shard.shared().limits);
    let (friend, stranger) = (
        "10.0.0.2:6905".parse().expect("an address"),
        "10.0.0.66:6905".parse().expect("an address"),
    );
    let mut given = Given::default();
    let mut now = Nanos::from_secs(1);
    for _ in 0..64 {
        let Some(op) = input.byte() else { break };
        let is_friend = op & 1 == 0;
        let socket = if op & 2 == 0 { SocketRole::Login } else { SocketRole::Io };
        let mut sent_bytes = 0;
        if op & 12 == 12 {
            now = now + Nanos::from_millis(u64::from(input.byte().unwrap_or(0)) * 16);
        } else {
            let mut bytes = datagram(&mut input, 0x1234);
            if is_friend && op & 16 == 0 {
                given.fill(&mut bytes);
            }
            sent_bytes = bytes.len();
            let from = if is_friend { friend } else { stranger };
            shard.step(Input::Datagram { socket, from, local: None, bytes: &bytes }, now, &mut out);
        }
        shard.flush(now, &mut out);
        let mut to_stranger = 0;
        for turn in 0.. {
            assert!(turn < 1000, "a turn ends");
            out.events.clear();
            out.messages.clear();
            for (_, plan) in std::mem::take(&mut out.sends) {
                if plan.peer == stranger {
                    to_stranger += plan.payload_bytes();
                } else {
                    given.learn(plan.scratch());
                    assert!(decode(plan.scratch()).is_ok() || plan.segments() > 1);
                }
                let result = if op & 32 == 0 { Ok(0) } else { Err(diskstream_ring::Errno(11)) };
                shard.step(Input::Sent { plan, result }, now, &mut out);
            }
            for read in std::mem::take(&mut out.reads) {
                let result =
                    if op & 64 == 0 { Ok(read.len) } else { Err(diskstream_ring::Errno(5)) };
                shard.step(Input::DiskDone { token: read.token, result }, now, &mut out);
            }
            shard.flush(now, &mut out);
            if out.sends.is_empty() && out.reads.is_empty() {
                break;
            }
        }
        assert!(
            to_stranger <= sent_bytes,
            "a stranger sent {sent_bytes} bytes and got {to_stranger}: tag {:x}",
            given.tag
        );
        shard.check_invariants_deep(&out);
    }
});
