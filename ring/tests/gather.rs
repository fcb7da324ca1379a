//! A turn that gathers: what arrives meanwhile comes at its end, all at once.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use std::net::UdpSocket;

use common::{V4, add, config, ring};
use diskstream_ring::{Completion, Completions, Features, Wait, clock};
use diskstream_wire::time::Nanos;

const PERIOD: Nanos = Nanos::from_millis(30);
const DATAGRAMS: usize = 5;

#[test]
fn what_arrives_gathers_until_the_moment_named() {
    let mut ring = ring(Features::probe());
    let (_, address) = add(&mut ring, &config(V4));
    let mut done = Completions::new(64);
    // Arms the receive.
    ring.turn(Wait::Never, &mut done).unwrap();
    let sender = UdpSocket::bind(V4).unwrap();
    sender.send_to(&[0], address).unwrap();
    let began = clock::now();
    let others = std::thread::spawn(move || {
        for number in 1..DATAGRAMS {
            sender.send_to(&[u8::try_from(number).unwrap()], address).unwrap();
        }
    });
    let enters = ring.stats().enters;
    ring.turn(Wait::Gather(began + PERIOD), &mut done).unwrap();
    assert!(clock::now() >= began + PERIOD, "the first datagram ended it");
    assert_eq!(ring.stats().enters, enters + 1);
    others.join().unwrap();
    // On a busy machine the other thread may not have run within the period.
    let mut received = 0;
    while received < DATAGRAMS {
        for completion in done.drain() {
            if let Completion::Received(datagram) = completion {
                received += ring.datagram(&datagram).segments().len();
                ring.recycle(datagram);
            }
        }
        if received < DATAGRAMS {
            ring.turn(Wait::Until(clock::now() + common::PATIENCE), &mut done).unwrap();
        }
    }
    // A moment that has passed is no wait.
    ring.turn(Wait::Gather(began), &mut done).unwrap();
}
