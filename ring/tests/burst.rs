//! A burst from many sockets is seen by one turn, although the kernel does no more than 20 pieces of work in a call.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

mod common;

use common::{V4, add, config};
use diskstream_ring::{Completion, Completions, Features, Ring, RingConfig, Wait, clock};

const SOCKETS: u16 = 200;

#[test]
fn one_turn_brings_what_all_sockets_have() {
    for permit in [Features::ALL, Features { defer_taskrun: false, ..Features::ALL }] {
        let sizes = RingConfig {
            sockets: SOCKETS,
            recv_buffers: 256,
            recv_buffer_bytes: 2048,
            permit,
            ..common::small()
        };
        let mut ring = Ring::new(&sizes, None).unwrap();
        let all: Vec<_> = (0..SOCKETS).map(|_| add(&mut ring, &config(V4)).1).collect();
        let mut done = Completions::new(512);
        // Arms the receives.
        ring.turn(Wait::Never, &mut done).unwrap();
        let client = std::net::UdpSocket::bind(V4).unwrap();
        for to in &all {
            // Over loopback it is in the socket when this returns.
            client.send_to(b"x", to).unwrap();
        }
        ring.turn(Wait::Until(clock::now() + common::PATIENCE), &mut done).unwrap();
        let mut received = 0;
        for completion in done.drain() {
            let Completion::Received(train) = completion else { panic!("{completion:?}") };
            received += 1;
            ring.recycle(train);
        }
        assert_eq!(received, SOCKETS, "{:?}", ring.stats());
    }
}
