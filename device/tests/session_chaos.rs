//! Nodes that die, return, drain, forget, lose their store, are paused or cut off one way, at random, while a device reads: what is
//! counted stays exact at every step (`World` checks the invariants), no byte is wrong, and once all is well again every read
//! ends. And herds: many devices that find their nodes again.
#![allow(clippy::unwrap_used, reason = "test code")]

mod session_support;

use diskstream_device::session::{Event, State};
use diskstream_wire::{Nanos, ReadErrorCode};
use proptest::prelude::*;
use session_support::node::Reads;
use session_support::{Fate, Packet, World, ms, node_addr};

const IMAGE: usize = 1 << 20;

#[derive(Clone, Debug)]
enum Trouble {
    Die(u8),
    Restart(u8),
    Return(u8),
    Drain(u8, Vec<u8>),
    Forget(u8),
    Slow(u8),
    Deaf(u8),
    StoreFails,
    WrongContent(u8),
    Mend(u8),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let node = 1u8..=3;
    prop_oneof![
        node.clone().prop_map(Trouble::Die),
        node.clone().prop_map(Trouble::Restart),
        node.clone().prop_map(Trouble::Return),
        (node.clone(), proptest::collection::vec(1u8..=3, 0..3))
            .prop_map(|(n, to)| Trouble::Drain(n, to)),
        node.clone().prop_map(Trouble::Forget),
        node.clone().prop_map(Trouble::Slow),
        node.clone().prop_map(Trouble::Deaf),
        Just(Trouble::StoreFails),
        node.clone().prop_map(Trouble::WrongContent),
        node.prop_map(Trouble::Mend),
    ]
}

fn cause(world: &mut World, trouble: &Trouble) {
    match trouble {
        Trouble::Die(n) => world.node(*n).down = true,
        Trouble::Restart(n) => world.node(*n).restart(),
        Trouble::Return(n) => world.node(*n).down = false,
        Trouble::Drain(n, to) => {
            world.node(*n).draining = true;
            let to: Vec<_> = to.iter().map(|&n| node_addr(n)).collect();
            let notices = world.node(*n).notices(1, &to);
            notices.into_iter().for_each(|packet| world.transmit(packet));
        }
        Trouble::Forget(n) => world.node(*n).sessions.clear(),
        Trouble::Slow(n) => world.node(*n).reads = Reads::Slow(ms(300)),
        Trouble::Deaf(n) => world.node(*n).reads = Reads::Ignore,
        // One node only: when all of them say so, the read may fail.
        Trouble::StoreFails => world.node(2).reads = Reads::Fail(ReadErrorCode::StoreError),
        Trouble::WrongContent(n) => {
            world.node(*n).reads = Reads::Fail(ReadErrorCode::WrongGeneration);
        }
        Trouble::Mend(n) => {
            let node = world.node(*n);
            (node.down, node.draining, node.reads) = (false, false, Reads::Answer);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_trouble_breaks_the_books_or_a_byte(
        seed in any::<u8>(),
        drawn in any::<u64>(),
        loss in 0u64..15,
        jitter_us in 1u64..20_000,
        troubles in proptest::collection::vec((0u64..400, trouble()), 1..25),
    ) {
        let mut world = World::with_seed(3, IMAGE, seed);
        world.open();
        let mut state = drawn | 1;
        let mut draw = move |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound.max(1)
        };
        world.set_network(move |_: &Packet, _| match draw(100) {
            hit if hit < loss => Fate::Drop,
            hit if hit < loss + 3 => Fate::Twice,
            _ => Fate::Late(Nanos::from_micros(draw(jitter_us))),
        });
        let mut tokens = Vec::new();
        for (i, (wait_ms, trouble)) in (0u64..).zip(&troubles) {
            for k in 0..4 {
                let at = (i * 4 + k) * 36_864 % (IMAGE as u64 - 65_536) / 4096 * 4096;
                tokens.push((world.start_read(at, 4096 << (k % 4)), at));
                world.run_for(Nanos(ms(*wait_ms).0 / 4));
            }
            cause(&mut world, trouble);
        }
        for node in 1..=3 {
            cause(&mut world, &Trouble::Mend(node));
        }
        world.set_network(|_, _| Fate::Deliver);
        // Who said that it drains, or has another content, is asked again after 10 s.
        for (token, offset) in tokens {
            world.finish_read(token, offset, Nanos::from_secs(20));
        }
        world.run_for(Nanos::from_secs(60));
        prop_assert_eq!(world.session.state(), State::Streaming);
        prop_assert!(world.session.status(world.now).standby.is_some(), "a standby again");
        prop_assert_eq!(world.session.reads_outstanding(), 0);
    }
}

#[test]
fn after_both_nodes_were_gone_for_long_all_devices_read_within_a_second() {
    let (mut times, mut most_per_second) = (Vec::new(), 0);
    for seed in 0..100u8 {
        let mut world = World::with_seed(2, IMAGE, seed);
        world.open();
        world.run_for(Nanos::from_secs(1));
        world.node(1).down = true;
        world.node(2).down = true;
        let token = world.start_read(4096, 4096);
        world.run_for(Nanos::from_secs(20));
        world.record = true;
        world.run_for(Nanos::from_secs(10));
        let sent = world.sent.iter().filter(|packet| !packet.to_device()).count();
        most_per_second = most_per_second.max(sent / 10);
        world.record = false;
        // They were restarted: no session is known any more.
        world.node(1).restart();
        world.node(2).restart();
        let back = world.now;
        world.finish_read(token, 4096, Nanos::from_secs(3));
        times.push(world.now.since(back).as_millis());
        assert_eq!(world.count_events(|e| matches!(e, Event::Resumed { .. })), 1);
    }
    times.sort_unstable();
    println!(
        "back after ms: p50 {} p90 {} max {}; {most_per_second} datagrams a second of each device meanwhile",
        times[50], times[90], times[99]
    );
    assert!(times[99] <= 1000, "{times:?}");
    // Not in one instant either: half of them need a tenth of a second more than the first tenth.
    assert!(times[50] >= times[10] + 30, "{times:?}");
    assert!(most_per_second <= 20, "{most_per_second}");
}
