//! Sends that leave straight from the arena: over a loopback the kernel copies in the end, and says so.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::sync::Arc;

use common::{V4, add, config, small, turn_until};
use diskstream_ring::{
    Arena, ArenaConfig, Completion, Completions, Features, HugePages, Ring, RingConfig, SendPlan,
    SocketConfig, SocketId, UdpSocket, Wait, ZeroCopy,
};

const ARENA_BYTES: usize = 4 << 20;
/// Where the blocks begin: not at the beginning, where the rings' headers are.
const BLOCKS: usize = 1 << 20;
const SEGMENT: usize = 4096 + 76;

fn arena(rings: u16) -> Arc<Arena> {
    let config = ArenaConfig { bytes: ARENA_BYTES, huge_pages: HugePages::Off };
    let arena = Arena::with_headers(&config, rings).unwrap();
    // SAFETY: nobody else has the arena yet.
    let bytes = unsafe { arena.bytes_mut(BLOCKS, 1 << 20) };
    let numbers = bytes.iter_mut().enumerate();
    numbers.for_each(|(at, byte)| *byte = u8::try_from((BLOCKS + at) % 251).unwrap());
    Arc::new(arena)
}

fn config_ring(zero_copy: ZeroCopy) -> RingConfig {
    RingConfig { zero_copy, ..small() }
}

/// `segments` datagrams of a header and a page each.
fn plan(to: std::net::SocketAddr, segments: usize) -> Box<SendPlan> {
    let mut plan = SendPlan::new();
    for segment in 0..segments {
        plan.push_scratch(&[u8::try_from(segment).unwrap(); 76]).unwrap();
        plan.push_arena(BLOCKS + segment * 12_288, 4096).unwrap();
    }
    plan.segment_bytes = u16::try_from(SEGMENT).unwrap();
    plan.peer = to;
    plan
}

fn flat(plan: &SendPlan) -> Vec<u8> {
    let mut out = Vec::new();
    plan.copy_payload(&mut out, |offset, len, out| {
        out.extend((offset..offset + len).map(|at| u8::try_from(at % 251).unwrap()));
    });
    out
}

/// A ring, and a socket that sends to another of the same ring.
fn pair(config_ring: &RingConfig, arena: &Arc<Arena>) -> (Ring, SocketId, std::net::SocketAddr) {
    let mut ring = Ring::new(config_ring, Some(Arc::clone(arena))).unwrap();
    let (_, to) = add(&mut ring, &SocketConfig { recv_buffer_bytes: 4 << 20, ..config(V4) });
    let (sender, _) = add(&mut ring, &config(V4));
    (ring, sender, to)
}

/// Until `sends` plans came back and their bytes arrived; gives what arrived.
fn exchange(ring: &mut Ring, sends: usize, bytes: usize) -> Vec<u8> {
    let mut seen = (0, Vec::new());
    let each = |ring: &mut Ring, seen: &mut (usize, Vec<u8>), completion| match completion {
        Completion::Received(received) => {
            seen.1.extend_from_slice(ring.datagram(&received).payload);
            ring.recycle(received);
        }
        Completion::Sent { result, plan, .. } => {
            assert_eq!(result, Ok(u32::try_from(plan.payload_bytes()).unwrap()));
            seen.0 += 1;
        }
        other => panic!("{other:?}"),
    };
    turn_until(ring, &mut seen, each, |seen| seen.0 == sends && seen.1.len() == bytes);
    seen.1
}

fn has(ring: &Ring) -> bool {
    let has = ring.features().zero_copy_send && ring.features().gso;
    // A send without a copy needs a send buffer of megabytes.
    let large = SocketConfig { send_buffer_bytes: 64 << 20, ..config(V4) };
    let granted = UdpSocket::bind(&large).unwrap().send_buffer_bytes() >= 64 << 20;
    if !has || !granted {
        eprintln!("SKIPPED: needs zero-copy sends, GSO and CAP_NET_ADMIN");
    }
    has && granted
}

#[test]
fn the_bytes_arrive_and_the_kernel_tells_that_it_copied() {
    let arena = arena(1);
    let (mut ring, sender, to) = pair(&config_ring(ZeroCopy::On), &arena);
    if !has(&ring) {
        return;
    }
    let plan = plan(to, 8);
    let expected = flat(&plan);
    ring.send(sender, plan).unwrap();
    assert!(exchange(&mut ring, 1, expected.len()) == expected, "other bytes arrived");
    let stats = ring.stats();
    assert_eq!((stats.sends_zero_copy, stats.bytes_zero_copy), (1, expected.len() as u64));
    assert_eq!((stats.zero_copy_notified, stats.zero_copy_refused), (1, 0));
    assert_eq!(stats.zero_copy_copied, 1, "a loopback copies");
    assert_eq!(ring.zero_copy_paths(), 0, "and so no address sends without a copy, tried or not");
    assert_eq!(stats.datagrams_sent, 8);
    assert_eq!(ring.sends_outstanding(), 0);
    drop(ring);
    assert_eq!(Arc::strong_count(&arena), 1);
}

#[test]
fn the_plan_comes_back_with_the_notification_and_not_before() {
    let arena = arena(1);
    let (mut ring, sender, to) = pair(&config_ring(ZeroCopy::On), &arena);
    if !has(&ring) {
        return;
    }
    // A socket that nobody reads keeps its datagrams, and with them the sender's pages where the kernel did not copy. It did,
    // so all that can be seen here is the order: as many plans as notifications, whatever a turn brings.
    let mut done = Completions::new(1);
    for _ in 0..8 {
        ring.send(sender, plan(to, 8)).unwrap();
    }
    let mut back = 0;
    while back < 8 {
        ring.turn(Wait::Forever, &mut done).unwrap();
        for completion in done.drain() {
            match completion {
                Completion::Sent { .. } => back += 1,
                Completion::Received(received) => ring.recycle(received),
                other => panic!("{other:?}"),
            }
        }
        assert!(ring.stats().zero_copy_notified >= back);
    }
    assert_eq!(ring.sends_outstanding(), 0);
}

#[test]
fn what_cannot_leave_without_a_copy_is_copied() {
    let arena = arena(1);
    let (mut ring, sender, to) = pair(&config_ring(ZeroCopy::On), &arena);
    if !has(&ring) {
        return;
    }
    // More fragments than a datagram train has; too few bytes to pay; no blocks at all.
    let mut own_bytes = SendPlan::new();
    own_bytes.push_scratch(&[7; 8200]).unwrap();
    own_bytes.peer = to;
    own_bytes.segment_bytes = 4100;
    let plans = [plan(to, 9), plan(to, 1), own_bytes];
    let bytes: usize = plans.iter().map(|plan| plan.payload_bytes()).sum();
    for plan in plans {
        ring.send(sender, plan).unwrap();
    }
    exchange(&mut ring, 3, bytes);
    assert_eq!(ring.stats().sends_zero_copy, 0);
}

#[test]
fn pins_have_a_bound_past_which_sends_are_copied() {
    let arena = arena(1);
    let config = RingConfig { zero_copy_pins_max: 2, ..config_ring(ZeroCopy::On) };
    let (mut ring, sender, to) = pair(&config, &arena);
    if !has(&ring) {
        return;
    }
    for _ in 0..3 {
        let mut plan = plan(to, 4);
        plan.push_pin(1).unwrap();
        ring.send(sender, plan).unwrap();
    }
    exchange(&mut ring, 3, 3 * 4 * SEGMENT);
    assert_eq!(ring.stats().sends_zero_copy, 2);
    // They were let go of.
    let mut plan = plan(to, 4);
    plan.push_pin(1).unwrap();
    ring.send(sender, plan).unwrap();
    exchange(&mut ring, 1, 4 * SEGMENT);
    assert_eq!(ring.stats().sends_zero_copy, 3);
}

#[test]
fn automatic_drops_it_when_the_kernel_copies() {
    let arena = arena(1);
    let (mut ring, sender, to) = pair(&config_ring(ZeroCopy::Auto), &arena);
    if !has(&ring) {
        return;
    }
    // Each turn sends enough to be counted.
    for _ in 0..20 {
        for _ in 0..4 {
            ring.send(sender, plan(to, 8)).unwrap();
        }
        exchange(&mut ring, 4, 4 * 8 * SEGMENT);
    }
    let stats = *ring.stats();
    assert!((1..=4).contains(&stats.zero_copy_copied), "{}", stats.zero_copy_copied);
    assert_eq!(stats.sends_zero_copy, stats.zero_copy_copied);
    assert_eq!(ring.zero_copy_paths(), 0);
}

#[test]
fn off_and_twins_copy() {
    let without = Features { zero_copy_send: false, ..Features::ALL };
    let single = Features { gso: false, ..Features::ALL };
    for (mode, permit) in
        [(ZeroCopy::Off, Features::ALL), (ZeroCopy::On, without), (ZeroCopy::On, single)]
    {
        let arena = arena(1);
        let config = RingConfig { permit, ..config_ring(mode) };
        let (mut ring, sender, to) = pair(&config, &arena);
        ring.send(sender, plan(to, 4)).unwrap();
        exchange(&mut ring, 1, 4 * SEGMENT);
        assert_eq!(ring.stats().sends_zero_copy, 0);
    }
}

#[test]
fn rings_beyond_the_areas_copy_and_areas_come_back() {
    let arena = arena(1);
    for _ in 0..2 {
        let (mut first, sender, to) = pair(&config_ring(ZeroCopy::On), &arena);
        if !has(&first) {
            return;
        }
        let (mut second, other_sender, other_to) = pair(&config_ring(ZeroCopy::On), &arena);
        first.send(sender, plan(to, 4)).unwrap();
        second.send(other_sender, plan(other_to, 4)).unwrap();
        exchange(&mut first, 1, 4 * SEGMENT);
        exchange(&mut second, 1, 4 * SEGMENT);
        assert_eq!((first.stats().sends_zero_copy, second.stats().sends_zero_copy), (1, 0));
    }
}

#[test]
fn a_ring_can_be_dropped_with_such_sends_under_way() {
    for turns in 0..2 {
        let arena = arena(1);
        let (mut ring, sender, to) = pair(&config_ring(ZeroCopy::On), &arena);
        for _ in 0..4 {
            ring.send(sender, plan(to, 8)).unwrap();
        }
        let mut done = Completions::new(1);
        for _ in 0..turns {
            ring.turn(Wait::Never, &mut done).unwrap();
        }
        drop(ring);
        assert_eq!(Arc::strong_count(&arena), 1, "the ring drained");
        done.drain().for_each(drop);
    }
}
