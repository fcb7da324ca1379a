//! Bytes that nobody of good will sends.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;

use std::net::SocketAddr;

use diskstream_device::session::{Channel, Session, State};
use diskstream_wire::{Kind, Nanos};
use proptest::prelude::*;
use session_support::{Fate, Packet, World, config, ms, node_addr};

fn any_from() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        Just(node_addr(1)),
        Just(SocketAddr::new(node_addr(1).ip(), 6911)),
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from),
    ]
}

fn any_channel() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Login), Just(Channel::Io), Just(Channel::Notice)]
}

/// A datagram with a sound header and anything behind it; the tag is filled in by the test.
fn near_message() -> impl Strategy<Value = Vec<u8>> {
    (proptest::sample::select(Kind::ALL), proptest::collection::vec(any::<u8>(), 0..1500)).prop_map(
        |(kind, body)| {
            let mut bytes = vec![0x44, 0x53, 1, kind.code(), 0, 0];
            let length = u16::try_from(32 + body.len()).unwrap();
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[0; 24]);
            bytes.extend_from_slice(&body);
            bytes
        },
    )
}

fn drain(session: &mut Session, now: Nanos) {
    let mut out = Vec::new();
    for _ in 0..1000 {
        if session.poll_send(now, &mut out).is_none() {
            break;
        }
    }
    while session.poll_event().is_some() {}
    session.check_invariants();
}

fn mix(seed: u64, loss: u64, spoil: u64, twice: u64, jitter_us: u64, cut_ms: u64) {
    let mut world = World::new(3, 1 << 20);
    let mut state = seed | 1;
    let cut_at = world.now + ms(50);
    world.set_network(move |packet: &Packet, now| {
        let mut draw = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound.max(1)
        };
        let cut = now >= cut_at && now < cut_at + ms(cut_ms);
        if cut || draw(100) < loss {
            return Fate::Drop;
        }
        // The scripted node takes what a device sends at its word, so only answers are spoilt.
        if packet.to_device() && draw(100) < spoil {
            return Fate::Spoil(usize::try_from(draw(1500)).unwrap());
        }
        if draw(100) < twice {
            Fate::Twice
        } else {
            Fate::Late(Nanos::from_micros(draw(jitter_us)))
        }
    });
    world.run_until(Nanos::from_secs(300), |w| w.session.disk().is_some());
    let mut tokens = Vec::new();
    for i in 0..12u64 {
        tokens.push((world.start_read(i * 65_536, 32_768), i * 65_536));
        world.run_for(ms(20));
    }
    // The network heals: every read completes.
    world.run_for(ms(cut_ms));
    world.set_network(|_, _| Fate::Deliver);
    for (token, offset) in tokens {
        world.finish_read(token, offset, Nanos::from_secs(30));
    }
    assert_eq!(world.session.state(), State::Streaming);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_counted_and_nothing_else(
        datagrams in proptest::collection::vec(
            (any_channel(), any_from(), proptest::collection::vec(any::<u8>(), 0..200)), 1..50),
    ) {
        let mut session = Session::new(config(2), [1; 32], Nanos::ZERO).unwrap();
        let mut now = Nanos::ZERO;
        for (channel, from, bytes) in &datagrams {
            session.handle_datagram(*channel, *from, bytes, now);
            session.tick(now);
            drain(&mut session, now);
            now = now + ms(7);
        }
        let counters = session.counters();
        prop_assert_eq!(counters.malformed + counters.foreign, datagrams.len() as u64);
    }

    #[test]
    fn near_messages_with_the_right_tag_break_nothing(
        datagrams in proptest::collection::vec((any_channel(), near_message(), any::<bool>()), 1..40),
    ) {
        let mut world = World::new(2, 1 << 20);
        world.open();
        let token = world.start_read(0, 65_536);
        let (tag, _) = *world.node(1).sessions.values().next().unwrap();
        let io = world.node(1).io;
        for (channel, mut bytes, tagged) in datagrams {
            if tagged {
                bytes[8..16].copy_from_slice(&tag.to_be_bytes());
            }
            let now = world.now;
            world.session.handle_datagram(channel, io, &bytes, now);
            world.session.check_invariants();
            world.run_for(ms(1));
        }
        // Whatever was said: the read ends with the image's bytes, unless an error was forged by one who knows the tag.
        world.run_until(Nanos::from_secs(700), |w| w.result_of(token).is_some());
        if world.result_of(token).unwrap().1.is_ok() {
            world.finish_read(token, 0, ms(1));
        }
    }

    #[test]
    fn any_mix_of_faults_ends_with_right_bytes(
        seed in any::<u64>(),
        loss in 0u64..30,
        spoil in 0u64..10,
        twice in 0u64..20,
        jitter_us in 0u64..20_000,
        cut_ms in 0u64..3000,
    ) {
        mix(seed, loss, spoil, twice, jitter_us, cut_ms);
    }
}

/// A spoilt login leaves a path whose keep-alives are answered and whose reads are not: reads that do not end earned no hedges, and
/// the device waited for ever.
#[test]
fn a_node_that_answers_keep_alives_and_no_reads_is_left() {
    mix(16_874_755_244_978_008_376, 0, 1, 10, 12_082, 2_369);
}
