//! Up, unknown and down: what nodes think of each other when some stop, are lost, cut off or paused.

mod peers_support;

use diskstream_node::view::{DrainState, PeerState};
use diskstream_wire::time::Nanos;
use peers_support::{World, addr, join};

#[test]
fn a_farm_meets_within_a_second() {
    for count in [2, 3, 16] {
        let mut world = World::farm(1, count);
        let took = world.settle();
        assert!(took < Nanos::from_secs(1), "{count} nodes took {} ms", took.as_millis());
    }
}

#[test]
fn a_node_joins_through_one_that_it_knows() {
    let mut world = World::farm(2, 3);
    world.settle();
    world.add("newcomer", addr(7), join(1));
    let took = world.settle();
    assert!(took < Nanos::from_secs(3), "took {} ms", took.as_millis());
    let seen = world.machine(0).view();
    let newcomer = seen.peers.iter().find(|peer| peer.name == "newcomer").unwrap();
    assert_eq!(newcomer.login.to_string(), "10.0.0.8:6910", "it says so itself");
}

#[test]
fn a_killed_node_is_down_within_the_bound() {
    for count in [2, 3, 5, 16] {
        let mut worst = Nanos::ZERO;
        for seed in 0..10 {
            let mut world = World::farm(seed, count);
            world.settle();
            world.run_for(Nanos::from_millis(1000 + seed * 37));
            world.crash(0);
            let up = |world: &World| (1..count).any(|n| world.sees(n, 0, PeerState::Up));
            let unknown = world.run_while(Nanos::from_secs(8), up).expect("suspected in time");
            let alive = |world: &World| (1..count).any(|n| !world.sees(n, 0, PeerState::Down));
            let down = unknown + world.run_while(Nanos::from_secs(8), alive).expect("down in time");
            assert!(unknown < down, "it is suspected first");
            worst = worst.max(down);
            assert!(
                (1..count).all(|a| (1..count).all(|b| a == b || world.sees(a, b, PeerState::Up)))
            );
        }
        println!("{count} nodes: all know of a killed one within {} ms", worst.as_millis());
        assert!(worst < Nanos::from_secs(8), "{count} nodes: {} ms", worst.as_millis());
    }
}

#[test]
fn a_node_that_leaves_is_down_at_once() {
    let mut world = World::farm(3, 5);
    world.settle();
    world.leave(2);
    let took = world.run_while(Nanos::from_secs(1), |world| {
        [0, 1, 3, 4].iter().any(|&n| !world.sees(n, 2, PeerState::Down))
    });
    assert!(took.is_some_and(|took| took <= Nanos::from_millis(10)), "{took:?}");
    world.run_for(Nanos::from_secs(30));
    assert!(world.sees(0, 2, PeerState::Down), "it stays down");
    world.restart(2);
    let back = world.settle();
    assert!(back < Nanos::from_secs(1), "back after {} ms\n{:#?}", back.as_millis(), world.told());
    assert_eq!(world.machine(0).view().peers[1].drain, DrainState::Serving);
}
