//! Up, unknown and down: what nodes think of each other when some stop, are lost, cut off or paused.

mod peers_support;

use diskstream_node::peers::PeerEvent;
use diskstream_node::view::{DrainState, PeerState};
use diskstream_wire::time::Nanos;
use peers_support::{MS, World, addr, farm_file, join, name};

fn mins(minutes: u64) -> Nanos {
    Nanos::from_secs(minutes * 60)
}

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

/// Nobody goes down; gives how often anybody was unknown.
fn suffer(seed: u64, count: usize, minutes: u64) -> usize {
    let mut world = World::farm(seed, count);
    world.settle();
    world.loss_percent = 5;
    world.delay = Nanos::ZERO;
    world.jitter = Nanos::from_millis(20);
    world.events.clear();
    world.run_for(mins(minutes));
    let unknown = world.changes_to(PeerState::Unknown);
    println!("{count} nodes, {minutes} min at 5 % loss and 20 ms jitter: {unknown} times unknown");
    assert_eq!(world.changes_to(PeerState::Down), 0, "{:#?}", world.told());
    unknown
}

#[test]
fn loss_and_jitter_alone_take_nobody_down() {
    // The first seed is the one that found foca's needless TurnUndead.
    for (seed, count, minutes) in [(42, 2, 90), (43, 3, 45), (48, 8, 10)] {
        assert!(suffer(seed, count, minutes) <= count);
    }
}

#[test]
#[ignore = "48 h of simulated time: run it with --release"]
fn loss_and_jitter_alone_take_nobody_down_in_days() {
    let unknown: usize = [2, 3, 4, 2, 3, 4, 2, 3]
        .into_iter()
        .zip(100..)
        .map(|(count, seed)| suffer(seed, count, 360))
        .sum();
    assert!(unknown <= 8);
}

#[test]
fn a_killed_node_is_down_in_time_on_a_bad_network_too() {
    for seed in 0..10 {
        let mut world = World::farm(60 + seed, 3);
        world.settle();
        world.loss_percent = 5;
        world.jitter = Nanos::from_millis(20);
        world.run_for(Nanos::from_millis(3000 + seed * 77));
        world.crash(1);
        let took = world.run_while(Nanos::from_secs(8), |world| {
            [0, 2].iter().any(|&n| !world.sees(n, 1, PeerState::Down))
        });
        assert!(took.is_some(), "{}", world.picture());
    }
}

#[test]
fn both_sides_of_a_partition_see_the_other_unknown_then_down_and_heal() {
    for (some, others) in [(vec![0], vec![1]), (vec![0, 1], vec![2, 3, 4]), (vec![0], vec![1, 2])] {
        let count = some.len() + others.len();
        let mut world = World::farm(5, count);
        world.settle();
        world.events.clear();
        world.partition(&some, &others, true);
        let pairs: Vec<_> =
            some.iter().flat_map(|&a| others.iter().flat_map(move |&b| [(a, b), (b, a)])).collect();
        let down = world.run_while(Nanos::from_secs(8), |world| {
            pairs.iter().any(|&(a, b)| !world.sees(a, b, PeerState::Down))
        });
        assert!(down.is_some(), "{}", world.picture());
        assert!(world.changes_to(PeerState::Unknown) >= pairs.len(), "{:#?}", world.told());
        assert_eq!(world.changes_to(PeerState::Down), pairs.len(), "within a side all stay up");
        world.run_for(mins(3));
        world.partition(&some, &others, false);
        let healed = world.run_while(Nanos::from_secs(10), |world| !world.all_up());
        let healed = healed.unwrap_or_else(|| panic!("{}", world.picture()));
        println!("{some:?} and {others:?} healed in {} ms", healed.as_millis());
        world.events.clear();
        world.run_for(mins(1));
        assert_eq!(world.events.len(), 0, "it stays healed: {:#?}", world.told());
    }
}

#[test]
fn two_nodes_with_a_one_way_cut_see_each_other_down() {
    let mut world = World::farm(6, 2);
    world.settle();
    world.one_way(0, 1, true);
    let down =
        |world: &World| !world.sees(0, 1, PeerState::Down) || !world.sees(1, 0, PeerState::Down);
    assert!(world.run_while(Nanos::from_secs(8), down).is_some(), "{}", world.picture());
    world.events.clear();
    world.run_for(mins(2));
    assert_eq!(world.changes_to(PeerState::Up), 0, "nobody flaps: {:#?}", world.told());
    world.one_way(0, 1, false);
    world.settle();
}

#[test]
fn among_three_a_one_way_cut_only_makes_the_unheard_one_unknown() {
    let mut world = World::farm(7, 3);
    world.settle();
    world.one_way(0, 1, true);
    world.events.clear();
    world.run_for(mins(3));
    assert!(world.sees(1, 0, PeerState::Unknown), "its reports do not arrive");
    assert!(world.sees(0, 1, PeerState::Up), "the third node's probes vouch for it");
    assert_eq!(world.changes_to(PeerState::Down), 0, "{:#?}", world.told());
    world.one_way(0, 1, false);
    world.settle();
}

#[test]
fn a_restarted_node_is_up_again_at_once_and_its_former_life_stays_dead() {
    for seed in 0..10 {
        let mut world = World::farm(80 + seed, 4);
        world.settle();
        for _ in 0..3 {
            world.crash(2);
            world.run_for(Nanos::from_millis(20 + seed * 400));
            world.restart(2);
            let took = world.settle();
            assert!(took < Nanos::from_secs(1), "{} ms\n{}", took.as_millis(), world.picture());
        }
        world.events.clear();
        world.run_for(mins(15));
        assert_eq!(world.events.len(), 0, "{:#?}", world.told());
    }
}

#[test]
fn a_paused_node_knows_nobody_until_it_is_answered() {
    for seconds in [1, 10, 100] {
        let mut world = World::farm(8, 3);
        world.settle();
        world.run_for(Nanos::from_secs(2));
        world.events.clear();
        let until = world.now + Nanos::from_secs(seconds);
        world.nodes[0].paused_until = until;
        world.run_until(until - Nanos(1));
        if seconds >= 10 {
            assert!(world.sees(1, 0, PeerState::Down) && world.sees(2, 0, PeerState::Down));
        }
        world.run_until(until);
        let paused = world.events.iter().any(|(_, n, event)| {
            *n == 0 && matches!(event, PeerEvent::Paused { lasted } if *lasted >= Nanos::from_secs(seconds) - Nanos::from_millis(250))
        });
        assert!(paused, "{:#?}", world.told());
        let first = world.events.iter().find_map(|(at, n, event)| match event {
            PeerEvent::State(change) if *n == 0 => Some((*at, change.to)),
            _ => None,
        });
        assert_eq!(first, Some((until, PeerState::Unknown)), "before anything else");
        let took = world.settle();
        assert!(took < Nanos::from_secs(3), "{} ms", took.as_millis());
        assert_eq!(
            world.events.iter().filter(|(_, n, e)| *n == 0 && to_down(e)).count(),
            0,
            "late timers do not condemn who could not answer: {:#?}",
            world.told()
        );
        world.events.clear();
        world.run_for(mins(1));
        assert_eq!(world.events.len(), 0, "{:#?}", world.told());
    }
}

fn to_down(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::State(change) if change.to == PeerState::Down)
}

#[test]
fn clocks_do_not_matter() {
    let mut world = World::empty(9);
    for n in 0..4 {
        world.add(&name(n), addr(n), Vec::new());
        world.crash(n);
        world.nodes[n].clock_ahead = n as u64 * 7 * 3_600_000 * MS;
    }
    (0..4).for_each(|n| world.restart(n));
    world.settle();
    world.events.clear();
    world.run_for(mins(5));
    assert_eq!(world.events.len(), 0, "{:#?}", world.told());
}

#[test]
fn a_node_of_the_farm_file_that_was_never_heard_of_stays_unknown() {
    let mut lonely = World::empty(10);
    lonely.add(&name(0), addr(0), farm_file(3, 0));
    lonely.run_for(mins(10));
    assert!(lonely.state(0, &name(1)) == Some(PeerState::Unknown) && lonely.events.is_empty());
    let hellos = lonely.datagrams;
    assert!(hellos < 2 * 10 * 60, "{hellos} hellos to two silent nodes in ten minutes");
}
