//! The peers' machine under whatever a holder of the farm key may say: hellos of strangers, and every message of a peer that was
//! met, with true incarnations and fresh numbers, so that the bytes reach what lies behind the checks. Garbage under the seal, too.
#![no_main]

use std::net::SocketAddr;

use diskstream_fuzz::Cursor;
use diskstream_node::peers::limits::PEERS_MAX;
use diskstream_node::peers::{PeerAddress, PeerConfig, Peers};
use diskstream_node::trust::{FarmKey, Keys};
use diskstream_wire::{Nanos, PeerHead, PeerKind};
use libfuzzer_sys::fuzz_target;

fn machine(n: u8, peers: Vec<PeerAddress>) -> Peers {
    let config = PeerConfig {
        name: format!("node-{n}"),
        bind: addr(n),
        login: SocketAddr::new(addr(n).ip(), 6910),
        rating: 100,
        peers,
        seed: [n; 32],
    };
    Peers::new(config, &Keys::derive(&FarmKey::new([5; 32])), Nanos::from_secs(1))
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 6890))
}

/// Two that met.
fn pair() -> (Peers, Peers) {
    let join = PeerAddress { name: None, addr: addr(2), login: None, rating: None };
    let (mut one, mut two) = (machine(1, vec![join]), machine(2, Vec::new()));
    for ms in 0..40 {
        let now = Nanos::from_millis(1000 + 5 * ms);
        one.tick(now);
        two.tick(now);
        while let Some((_, bytes)) = one.poll_send() {
            two.handle(addr(1), &bytes, now);
        }
        while let Some((_, bytes)) = two.poll_send() {
            one.handle(addr(2), &bytes, now);
        }
    }
    assert_eq!(one.view().peers.len(), 1, "they met");
    (one, two)
}

fuzz_target!(|bytes: &[u8]| {
    let (mut one, two) = pair();
    let mut now = Nanos::from_millis(1300);
    let mut input = Cursor::new(bytes);
    let mut sequence = 1000;
    for _ in 0..64 {
        let Some(what) = input.byte() else { return };
        let length = usize::from(input.byte().unwrap_or(0));
        let body = input.bytes(length);
        now = now + Nanos::from_millis(u64::from(what >> 4) * 40);
        let from = if what & 8 == 0 { addr(2) } else { addr(9) };
        if what & 7 == 0 {
            one.handle(from, body, now);
        } else {
            sequence += 1;
            let kind = PeerKind::from_code(what & 7);
            let receiver = if kind == PeerKind::Hello { 0 } else { one.incarnation() };
            let sender = if what & 8 == 0 { two.incarnation() } else { 77 };
            let mut inner = vec![0; PeerHead::BYTES];
            PeerHead { kind, sender, receiver, sequence, ..PeerHead::default() }.encode(&mut inner);
            inner.extend(body);
            one.handle_opened(from, &inner, now);
        }
        one.tick(now);
        let mut sent = 0;
        while one.poll_send().is_some() {
            sent += 1;
        }
        assert!(sent < 400, "{sent} datagrams for one");
        assert!(one.status().len() <= PEERS_MAX);
    }
});
