//! Waiting without sleeping: looking for completions, and the kernel's polling of a card's queue.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::net::{SocketAddr, UdpSocket};

use common::{PATIENCE, V4, add, config, small};
use diskstream_ring::{
    Completion, Completions, Features, Ring, RingConfig, SendPlan, SocketConfig, SocketId, Wait,
    clock,
};
use diskstream_wire::time::Nanos;

/// A ring that looks for so long, with a receive armed, and where it receives.
fn looking(spin: Nanos, permit: Features) -> (Ring, SocketId, SocketAddr) {
    let mut ring = Ring::new(&RingConfig { spin, permit, ..small() }, None).unwrap();
    let (socket, addr) = add(&mut ring, &config(V4));
    let mut done = Completions::new(16);
    ring.turn(Wait::Never, &mut done).unwrap();
    assert!(done.drain().next().is_none());
    (ring, socket, addr)
}

fn received(ring: &mut Ring, done: &mut Completions) -> usize {
    let mut received = 0;
    for completion in done.drain() {
        let Completion::Received(datagram) = completion else { panic!("{completion:?}") };
        received += 1;
        ring.recycle(datagram);
    }
    received
}

#[test]
fn what_is_there_is_found_at_once_and_without_a_call_too_many() {
    let coop = Features { defer_taskrun: false, ..Features::ALL };
    for (permit, most) in [(Features::ALL, 1), (coop, 1), (Features::NONE, 1)] {
        // Longer than the test may take: who looks in the wrong place is late.
        let (mut ring, _, to) = looking(PATIENCE, permit);
        let sender = UdpSocket::bind(V4).unwrap();
        sender.send_to(&[7; 100], to).unwrap();
        let mut done = Completions::new(16);
        let (began, before) = (clock::now(), *ring.stats());
        ring.turn(Wait::Until(began + PATIENCE + PATIENCE), &mut done).unwrap();
        assert!(clock::now().since(began) < Nanos(PATIENCE.0 / 2), "{permit:?}");
        assert_eq!(received(&mut ring, &mut done), 1, "{permit:?}");
        let stats = ring.stats();
        assert_eq!(stats.spins_hit, before.spins_hit + 1);
        assert!(stats.enters - before.enters <= most, "{permit:?}: {before:?} {stats:?}");
    }
}

#[test]
fn what_comes_while_it_looks_is_found_before_it_sleeps() {
    let (mut ring, socket, to) = looking(PATIENCE, Features::ALL);
    let mut done = Completions::new(16);
    let echo = UdpSocket::bind(V4).unwrap();
    echo.send_to(&[7; 100], to).unwrap();
    let until = clock::now() + PATIENCE;
    let thread = std::thread::spawn(move || {
        let mut bytes = [0; 200];
        for _ in 0..20 {
            let (len, from) = echo.recv_from(&mut bytes).unwrap();
            echo.send_to(&bytes[..len], from).unwrap();
        }
    });
    // To and fro: each answer meets a ring that looks already.
    let mut answers = 0;
    while answers < 20 {
        assert!(clock::now() < until);
        ring.turn(Wait::Until(until + PATIENCE), &mut done).unwrap();
        for completion in done.drain().collect::<Vec<_>>() {
            if let Completion::Received(datagram) = completion {
                let mut plan = SendPlan::new();
                plan.peer = ring.datagram(&datagram).from;
                plan.push_scratch(&[7; 100]).unwrap();
                ring.recycle(datagram);
                ring.send(socket, plan).unwrap();
                answers += 1;
            }
        }
    }
    assert!(ring.stats().spins_hit >= 20, "{:?}", ring.stats());
    ring.turn(Wait::Never, &mut done).unwrap();
    thread.join().unwrap();
}

#[test]
fn looking_ends_in_time_and_then_it_sleeps() {
    let (mut ring, ..) = looking(Nanos::from_millis(2), Features::ALL);
    let mut done = Completions::new(16);
    let before = *ring.stats();
    let deadline = clock::now() + Nanos::from_millis(30);
    let cpu = clock::thread_cpu();
    ring.turn(Wait::Until(deadline), &mut done).unwrap();
    assert!(clock::now() >= deadline, "nothing came, so it waits");
    assert!(clock::thread_cpu().since(cpu) < Nanos::from_millis(20), "asleep for the most of it");
    assert_eq!((ring.stats().spins_hit, ring.stats().enters), (0, before.enters + 1));
    // Nor does it look past the deadline.
    let (mut ring, ..) = looking(PATIENCE, Features::ALL);
    let began = clock::now();
    ring.turn(Wait::Until(began + Nanos::from_millis(2)), &mut done).unwrap();
    assert!(clock::now().since(began) < Nanos(PATIENCE.0 / 2));
}

#[test]
fn a_ring_that_busy_polls_says_so_and_works() {
    let without = Ring::new(&small(), None).unwrap();
    assert!(!without.busy_polls(), "nobody asked");
    let mut ring = Ring::new(&RingConfig { busy_poll_us: 50, ..small() }, None).unwrap();
    if !ring.busy_polls() {
        eprintln!("SKIPPED: needs Linux 6.9 with CONFIG_NET_RX_BUSY_POLL");
        return;
    }
    let busy = SocketConfig { busy_poll_us: 50, ..config(V4) };
    let (_, to) = add(&mut ring, &busy);
    let mut done = Completions::new(16);
    ring.turn(Wait::Never, &mut done).unwrap();
    UdpSocket::bind(V4).unwrap().send_to(&[7; 100], to).unwrap();
    let deadline = clock::now() + PATIENCE;
    let mut count = 0;
    while count == 0 {
        assert!(clock::now() < deadline);
        ring.turn(Wait::Until(deadline), &mut done).unwrap();
        count = received(&mut ring, &mut done);
    }
    // Waits still end.
    let soon = clock::now() + Nanos::from_millis(5);
    ring.turn(Wait::Until(soon), &mut done).unwrap();
    assert!(clock::now() >= soon);
}
