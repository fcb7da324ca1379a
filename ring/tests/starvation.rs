//! Running out of receive buffers loses nothing that the socket can hold, is counted, and ends by itself.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use common::{V4, add, config, turn_until};
use diskstream_ring::{Completion, Features, Received, Ring, RingConfig};

const DATAGRAMS: u8 = 50;

fn starve(permit: Features) {
    let few = RingConfig { recv_buffers: 4, permit, ..common::small() };
    let mut ring = Ring::new(&few, None).unwrap();
    let (_, to) = add(&mut ring, &config(V4));
    let client = std::net::UdpSocket::bind(V4).unwrap();
    for number in 0..DATAGRAMS {
        client.send_to(&[number], to).unwrap();
    }
    // Holds on to everything, until nothing more can arrive.
    let mut held: Vec<Received> = Vec::new();
    let hold = |_: &mut Ring, held: &mut Vec<Received>, completion| {
        let Completion::Received(received) = completion else { panic!("{completion:?}") };
        held.push(received);
    };
    turn_until(&mut ring, &mut held, hold, |held| held.len() == 4);
    let mut done = diskstream_ring::Completions::new(8);
    for _ in 0..3 {
        ring.turn(diskstream_ring::Wait::Never, &mut done).unwrap();
    }
    assert!(done.is_empty());
    assert!(ring.stats().receives_starved > 0);
    assert_eq!(ring.buffers_outstanding(), 4);

    let mut seen = Vec::new();
    for received in held {
        seen.push(ring.datagram(&received).payload[0]);
        ring.recycle(received);
    }
    let take = |ring: &mut Ring, seen: &mut Vec<u8>, completion| {
        let Completion::Received(received) = completion else { panic!("{completion:?}") };
        seen.push(ring.datagram(&received).payload[0]);
        ring.recycle(received);
    };
    turn_until(&mut ring, &mut seen, take, |seen| seen.len() == usize::from(DATAGRAMS));
    if ring.features().multishot_receive {
        // Single receives that are armed together may complete in any order.
        assert!(seen.iter().copied().eq(0..DATAGRAMS), "{seen:?}");
    }
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..DATAGRAMS), "{seen:?}");
    assert_eq!((ring.buffers_outstanding(), ring.stats().overflows), (0, 0));
}

#[test]
fn multishot() {
    starve(Features::ALL);
}

#[test]
fn single() {
    starve(Features { multishot_receive: false, ..Features::ALL });
}

#[test]
fn a_small_array_of_completions_only_takes_more_turns() {
    for permit in [Features::ALL, Features::NONE] {
        let mut ring = common::ring(permit);
        let (_, to) = add(&mut ring, &config(V4));
        let client = std::net::UdpSocket::bind(V4).unwrap();
        for number in 0..DATAGRAMS {
            client.send_to(&[number], to).unwrap();
        }
        let mut done = diskstream_ring::Completions::new(1);
        for _ in 0..DATAGRAMS {
            let deadline = diskstream_ring::clock::now() + common::PATIENCE;
            while done.is_empty() {
                assert!(diskstream_ring::clock::now() < deadline);
                ring.turn(diskstream_ring::Wait::Until(deadline), &mut done).unwrap();
            }
            // A full array submits, waits for nothing and loses nothing.
            ring.turn(diskstream_ring::Wait::Forever, &mut done).unwrap();
            assert_eq!(done.len(), 1);
            for completion in done.drain() {
                let Completion::Received(received) = completion else { panic!() };
                ring.recycle(received);
            }
        }
        assert_eq!(ring.stats().datagrams_received, u64::from(DATAGRAMS));
    }
}
