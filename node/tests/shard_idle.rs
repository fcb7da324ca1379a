//! What 100,000 sessions cost that do nothing but live: bytes of the process for each, and time for keep-alives and sweeps.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test values are small, and a failed unwrap fails the test"
)]

mod shard_support;

use std::net::SocketAddr;

use diskstream_node::shard::{Input, Limits, SocketRole, session_cost_bytes};
use diskstream_ring::SendPlan;
use diskstream_wire::{
    KeepAlive, LoginKind, Mac, Message, Nanos, NodeEntry, SessionRole, decode, nodes_digest,
};

use shard_support::device::Device;
use shard_support::{Setup, World, local};

const SESSIONS: u32 = 100_000;

/// A session's end of a device that is idle.
struct Idle {
    at: SocketAddr,
    session: u32,
    tag: u64,
    role: SessionRole,
}

/// One shard with many sessions, driven without the support's checks, which walk over all of them in every turn.
struct Herd {
    world: World,
    all: Vec<Idle>,
    /// What a device knows of the nodes.
    digest: u32,
}

impl Herd {
    /// Every second one stands by.
    fn new(count: u32) -> Herd {
        let limits = Limits { sessions_max: count + count / 8, ..Limits::default() };
        let world = World::new(Setup { limits, boot_limit: 0, ..Setup::default() });
        let mut herd = Herd { world, all: Vec::with_capacity(count as usize), digest: 0 };
        for n in 0..count {
            let idle = herd.connect(n);
            herd.all.push(idle);
        }
        herd
    }

    /// Hands a datagram in, ends the turn, and gives the bytes of the last answer.
    fn ask(&mut self, socket: SocketRole, from: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let (shard, out) = (&mut self.world.shards[0], &mut self.world.outs[0]);
        shard.step(Input::Datagram { socket, from, local: local(), bytes }, self.world.now, out);
        shard.flush(self.world.now, out);
        let mut answer = Vec::new();
        while let Some((_, plan)) = out.sends.pop() {
            answer.clear();
            plan.copy_payload(&mut answer, |_, _, _| unreachable!("control datagrams are scratch"));
            shard.step(Input::Sent { plan, result: Ok(1) }, self.world.now, out);
        }
        out.events.clear();
        answer
    }

    fn send(
        &mut self,
        socket: SocketRole,
        from: SocketAddr,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Vec<u8> {
        let mut buf = [0; 2048];
        let length = write(&mut buf);
        self.ask(socket, from, &buf[..length])
    }

    fn connect(&mut self, n: u32) -> Idle {
        let [_, a, b, c] = n.to_be_bytes();
        let mut device = Device::new(1);
        device.mac = Mac([2, 0, 0, a, b, c]);
        device.at = SocketAddr::from(([10, a, b, c], 6905));
        let at = device.at;
        let answer =
            self.send(SocketRole::Login, at, |buf| device.login_port_request().encode(buf));
        let Message::LoginPortReply(reply) = decode(&answer).unwrap().message else {
            panic!("no cookie")
        };
        device.cookie = reply.cookie;
        let answer =
            self.send(SocketRole::Login, at, |buf| device.login_start().encode_with_tail(&[], buf));
        let decoded = decode(&answer).unwrap();
        let Message::LoginTransfer(transfer) = decoded.message else {
            panic!("not let in: {:?}", decoded.message)
        };
        let nodes = usize::from(transfer.node_count) * NodeEntry::BYTES;
        device.ticket = decoded.tail[nodes..][..usize::from(transfer.ticket_bytes)].to_vec();
        device.vdisk = transfer.vdisk.as_str().to_owned();
        self.digest = nodes_digest([transfer.node].into_iter());
        let role = if n.is_multiple_of(2) { SessionRole::Serving } else { SessionRole::Standby };
        if role == SessionRole::Standby {
            device.kind = LoginKind::Standby;
        }
        let answer = self
            .send(SocketRole::Io, at, |buf| device.start().encode_with_tail(&device.ticket, buf));
        let Message::LoginComplete(complete) = decode(&answer).unwrap().message else {
            panic!("no session for {n}: {:?}", decode(&answer).unwrap().message)
        };
        (device.session, device.tag) = (complete.session, complete.session_tag);
        let answer = self.send(SocketRole::Io, at, |buf| device.handshake().encode(buf));
        assert!(matches!(decode(&answer).unwrap().message, Message::HandshakeReply(_)));
        Idle { at, session: device.session, tag: device.tag, role }
    }

    /// The datagram of a keep-alive.
    fn keep_alive(&self, n: usize) -> (SocketAddr, [u8; 256], usize) {
        let Idle { at, session, tag, role } = self.all[n];
        let nodes_digest = self.digest;
        let message = KeepAlive { session, tag, role, nodes_digest, ..Default::default() };
        let mut bytes = [0; 256];
        let length = message.encode(&mut bytes);
        (at, bytes, length)
    }
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn an_idle_session_costs_less_than_a_kib() {
    // What a shard costs anyway, its sessions' addresses and the test's own are there before.
    let _first = Herd::new(64);
    let before = resident();
    let herd = Herd::new(SESSIONS);
    let test_itself = herd.all.capacity() * size_of::<Idle>();
    let each = (resident() - before - test_itself) / SESSIONS as usize;
    println!("{each} bytes resident for each session; {} by the arrays", session_cost_bytes());
    assert_eq!(herd.world.counters(0).sessions.get(), u64::from(SESSIONS));
    assert!(each > 64, "nothing was measured: {each}");
    assert!(each <= 640, "{each}");
}

#[expect(clippy::disallowed_methods, reason = "measures this machine, not the protocol")]
#[test]
#[ignore = "a measurement: run with --release -- --ignored --nocapture"]
fn what_keep_alives_and_sweeps_cost() {
    let mut herd = Herd::new(SESSIONS);
    let mut home: Vec<Box<SendPlan>> = Vec::with_capacity(64);
    // In an order that the memory does not know.
    let order: Vec<usize> =
        (0..SESSIONS as usize).map(|n| n * 61_403 % SESSIONS as usize).collect();
    let requests: Vec<_> = order.iter().map(|&n| herd.keep_alive(n)).collect();
    for round in 0..3 {
        herd.world.now = herd.world.now + Nanos::from_secs(25);
        let (mut alive, mut sweeps, mut turns) = (0, 0, 0u32);
        for batch in requests.chunks(4) {
            let (shard, out) = (&mut herd.world.shards[0], &mut herd.world.outs[0]);
            let begin = std::time::Instant::now();
            for (from, bytes, length) in batch {
                let bytes = &bytes[..*length];
                let input =
                    Input::Datagram { socket: SocketRole::Io, from: *from, local: local(), bytes };
                shard.step(input, herd.world.now, out);
            }
            home.extend(out.sends.drain(..).map(|(_, plan)| plan));
            for plan in home.drain(..) {
                shard.step(Input::Sent { plan, result: Ok(1) }, herd.world.now, out);
            }
            alive += begin.elapsed().as_nanos();
            out.events.clear();
        }
        herd.world.now = herd.world.now + Nanos::from_secs(2);
        let (shard, out) = (&mut herd.world.shards[0], &mut herd.world.outs[0]);
        while shard.next_deadline() <= herd.world.now {
            let begin = std::time::Instant::now();
            shard.flush(herd.world.now, out);
            sweeps += begin.elapsed().as_nanos();
            turns += 1;
        }
        let count = u128::from(SESSIONS);
        println!(
            "round {round}: {} ns a keep-alive; a sweep {} µs, {} ns a session, {turns} turns",
            alive / count,
            sweeps / 1000,
            sweeps / count,
        );
    }
    assert_eq!(herd.world.counters(0).sessions.get(), u64::from(SESSIONS), "all of them live");
}
