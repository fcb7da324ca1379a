//! What strangers, recorders of datagrams, and nodes with wrong names can do to a node's picture of the farm: nothing.

mod peers_support;

use std::net::SocketAddr;

use diskstream_node::peers::{PeerEvent, PeerRefusal};
use diskstream_node::view::PeerState;
use diskstream_wire::limits::CONTROL_BYTES_MAX;
use diskstream_wire::time::Nanos;
use diskstream_wire::{
    PEER_SEAL_BYTES, PeerHead, PeerHello, PeerKind, PeerReport, PeerSealed, Text,
};
use peers_support::{Dice, Recorded, World, addr, farm_file, join, name};

const ATTACKER: ([u8; 4], u16) = ([10, 9, 9, 9], 1000);

fn refused(world: &mut World, n: usize, reason: PeerRefusal) -> u64 {
    world.machine(n).counters().refused(reason)
}

#[test]
fn a_hundred_thousand_forged_datagrams_change_nothing_and_are_not_answered() {
    let mut world = World::farm(1, 3);
    world.record = true;
    world.settle();
    world.run_for(Nanos::from_secs(5));
    let samples = std::mem::take(&mut world.recorded);
    world.record = false;
    world.events.clear();
    let mut dice = Dice::new(99);
    let now = world.now;
    let machine = world.machine(0);
    let counters = machine.counters();
    let before = counters.datagrams_out.get();
    for n in 0..100_000u64 {
        // Strays, true datagrams with one changed byte, and cut or lengthened ones, from everywhere.
        let mut bytes =
            samples[usize::try_from(dice.below(samples.len() as u64)).unwrap()].bytes.clone();
        let at = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
        match n % 4 {
            0 => bytes[at] ^= u8::try_from(1 + dice.below(255)).unwrap(),
            1 => bytes.truncate(at),
            2 => bytes.resize(bytes.len() + at + 1, 0),
            _ => bytes.iter_mut().for_each(|byte| *byte = dice.byte()),
        }
        let from = if n % 2 == 0 { addr(1) } else { SocketAddr::from(ATTACKER) };
        machine.handle(from, &bytes, now);
        assert!(machine.poll_send().is_none(), "an answer to a forgery");
    }
    assert_eq!(counters.datagrams_out.get(), before);
    let sum: u64 = PeerRefusal::ALL.iter().map(|&reason| counters.refused(reason)).sum();
    assert!(sum >= 100_000, "every one is counted: {sum}");
    world.run_for(Nanos::from_secs(30));
    assert!(world.all_up() && world.events.is_empty(), "{:#?}", world.told());
}

/// Everything that was ever said, again, from where it came and from elsewhere.
fn replay(world: &mut World, recorded: &[Recorded]) -> u64 {
    let sent = world.datagrams;
    let before = world.now;
    for (n, datagram) in recorded.iter().enumerate() {
        let from = if n % 2 == 0 { datagram.from } else { SocketAddr::from(ATTACKER) };
        world.inject(from, datagram.to, datagram.bytes.clone());
        if n % 50 == 0 {
            world.run_for(Nanos::from_millis(1));
        }
    }
    world.run_for(Nanos::from_secs(1));
    let seconds = world.now.since(before).as_millis() / 1000 + 1;
    (world.datagrams - sent) / seconds
}

#[test]
fn what_was_recorded_has_no_effect() {
    let mut world = World::farm(2, 3);
    world.record = true;
    world.settle();
    world.run_for(Nanos::from_secs(20));
    let recorded = std::mem::take(&mut world.recorded);
    world.record = false;
    world.events.clear();
    let handshakes = |world: &mut World| -> u64 {
        (0..3).map(|n| world.machine(n).counters().handshakes.get()).sum()
    };
    let before = handshakes(&mut world);
    let per_second = replay(&mut world, &recorded);
    assert_eq!(handshakes(&mut world), before, "no session begins");
    assert!(world.all_up() && world.events.is_empty(), "{:#?}", world.told());
    assert!(refused(&mut world, 0, PeerRefusal::Replay) > 50);
    let calm = world.datagrams;
    world.run_for(Nanos::from_secs(10));
    let calm = (world.datagrams - calm) / 10;
    println!(
        "{} replays: {per_second} datagrams/s in answer and usual traffic, {calm} without",
        recorded.len()
    );
    assert!(per_second < calm + 3 * 64, "what hellos cost is bounded");
}

#[test]
fn an_answer_that_comes_from_elsewhere_moves_no_peer() {
    let mut world = World::farm(11, 2);
    world.settle();
    // The attacker holds back what node 1 says, for so long that node 0 greets it, and brings its answers itself.
    world.record = true;
    world.one_way(1, 0, true);
    world.run_for(Nanos::from_secs(4));
    let held_back = std::mem::take(&mut world.recorded);
    world.record = false;
    world.events.clear();
    let before = world.machine(0).status()[0].heard;
    // Answers to hellos, and nothing that would make node 1 less silent before.
    let hello_bytes = PeerSealed::BYTES + PeerHead::BYTES + PeerHello::BYTES + PEER_SEAL_BYTES;
    let answer = |sent: &&Recorded| sent.to == addr(0) && sent.bytes.len() == hello_bytes;
    for datagram in held_back.iter().filter(answer) {
        world.inject(SocketAddr::from(ATTACKER), datagram.to, datagram.bytes.clone());
    }
    world.run_for(Nanos::from_millis(100));
    let status = world.machine(0).status();
    assert!(status[0].heard > before, "the answers were good: without it this test shows nothing");
    assert_eq!(status[0].addr, addr(1), "{:#?}", world.told());
    world.one_way(1, 0, false);
    world.settle();
    assert_eq!(world.machine(0).counters().address_changes.get(), 0);
}

#[test]
fn recorded_hellos_keep_no_stranger_out() {
    let mut world = World::empty(12);
    world.add("hub", addr(0), Vec::new());
    // Somebody says hello and never gets to answer a challenge, so it stays a stranger.
    let visitor = world.add("visitor", addr(1), join(0));
    world.record = true;
    world.one_way(0, visitor, true);
    world.run_for(Nanos::from_secs(20));
    let hellos = std::mem::take(&mut world.recorded);
    world.record = false;
    let hellos = hellos.into_iter().filter(|datagram| datagram.to == addr(0)).collect::<Vec<_>>();
    assert!(hellos.len() > 5);
    world.crash(visitor);
    let counters = world.machine(0).counters();
    let sent = counters.datagrams_out.get();
    // 2,000 a second, each from another address.
    let mut dice = Dice::new(12);
    let mut replay = |world: &mut World, ms: u64| {
        for n in 0..ms * 2 {
            let pick = usize::try_from(dice.below(hellos.len() as u64)).unwrap();
            let from = SocketAddr::from(([10, 9, dice.byte(), dice.byte()], 6890));
            world.inject(from, addr(0), hellos[pick].bytes.clone());
            if n % 2 == 1 {
                world.run_for(Nanos::from_millis(1));
            }
        }
    };
    replay(&mut world, 2000);
    assert!(counters.datagrams_out.get() - sent < 3, "a hello is answered once");
    world.add("newcomer", addr(2), join(0));
    replay(&mut world, 500);
    assert!(world.state(0, "newcomer").is_some(), "{}", world.picture());
}

#[test]
fn what_was_recorded_before_a_restart_of_either_side_has_no_effect() {
    for restarted in [vec![0], vec![1], vec![0, 1], vec![0, 0]] {
        let mut world = World::farm(3, 2);
        world.record = true;
        world.settle();
        world.run_for(Nanos::from_secs(5));
        for n in &restarted {
            world.crash(*n);
            world.run_for(Nanos::from_millis(100));
            world.restart(*n);
            world.settle();
        }
        let recorded = std::mem::take(&mut world.recorded);
        world.record = false;
        world.run_for(Nanos::from_secs(2));
        world.events.clear();
        replay(&mut world, &recorded);
        assert!(world.all_up() && world.events.is_empty(), "{restarted:?}: {:#?}", world.told());
        // The dead life's own datagrams to a node that is gone as well.
        world.crash(1);
        replay(&mut world, &recorded);
        world.run_for(Nanos::from_secs(8));
        replay(&mut world, &recorded);
        assert!(world.sees(0, 1, PeerState::Down), "the dead do not speak: {}", world.picture());
    }
}

#[test]
fn reordered_and_doubled_datagrams_do_no_harm() {
    let mut world = World::farm(4, 4);
    world.settle();
    world.jitter = Nanos::from_millis(50);
    world.duplicate_percent = 50;
    world.events.clear();
    world.run_for(Nanos::from_secs(120));
    assert!(world.all_up() && world.events.is_empty(), "{:#?}", world.told());
    assert!(refused(&mut world, 0, PeerRefusal::Replay) > 100, "doubles are seen as such");
    assert_eq!(refused(&mut world, 0, PeerRefusal::Membership), 0);
}

#[test]
fn two_hosts_with_one_name_the_later_one_is_refused_and_named() {
    let mut world = World::farm(5, 3);
    world.settle();
    let twin = world.add(&name(1), addr(50), farm_file(3, 1));
    world.run_for(Nanos::from_secs(30));
    assert!(world.sees(0, 1, PeerState::Up), "the first keeps its name: {}", world.picture());
    assert_eq!(world.machine(0).status()[0].addr, addr(1));
    let named = |event: &PeerEvent| {
        matches!(event, PeerEvent::NameTaken { name, addr: at, holder }
            if *name == peers_support::name(1) && *at == addr(50) && *holder == addr(1))
    };
    assert!(world.events.iter().any(|(_, n, event)| *n == 0 && named(event)));
    assert!(refused(&mut world, 0, PeerRefusal::NameTaken) > 0);
    let told = |event: &PeerEvent| matches!(event, PeerEvent::RefusedBy { .. });
    assert!(world.events.iter().any(|(_, n, event)| *n == twin && told(event)), "it learns why");
    let complaints = world.events.iter().filter(|(_, n, e)| *n == 0 && named(e)).count();
    assert_eq!(complaints, 1, "once, not with every hello");
    let says = world.machine(twin).refused_by().iter().map(ToString::to_string);
    let says: Vec<String> = says.collect();
    assert_eq!(says.len(), 2, "{says:?}");
    assert!(says.iter().all(|line| line.contains("same name") && line.contains("--name")));
    assert!(world.machine(0).refused_by().is_empty());
    // When the first one dies, the other takes its place, at its own address.
    world.crash(1);
    world.run_for(Nanos::from_secs(15));
    assert!(world.sees(0, 1, PeerState::Up), "{}", world.picture());
    assert_eq!(world.machine(0).status()[0].addr, addr(50));
    assert!(world.machine(twin).refused_by().is_empty(), "it is over");
}

#[test]
fn a_node_meets_its_own_name() {
    let mut world = World::empty(6);
    world.add("same", addr(0), join(1));
    world.add("same", addr(1), join(0));
    world.run_for(Nanos::from_secs(5));
    for n in 0..2 {
        let own = |event: &PeerEvent| matches!(event, PeerEvent::OwnNameTaken { .. });
        assert!(world.events.iter().any(|(_, at, event)| *at == n && own(event)));
        assert!(world.machine(n).view().peers.is_empty());
        assert_eq!(world.machine(n).refused_by().len(), 1);
    }
}

#[test]
fn a_node_that_comes_back_with_another_address_is_the_same_peer() {
    let mut world = World::farm(7, 3);
    world.settle();
    world.crash(1);
    world.run_for(Nanos::from_secs(8));
    world.nodes[1].addr = addr(60);
    world.restart(1);
    assert!(world.settle() < Nanos::from_secs(2));
    let status = world.machine(0).status();
    assert_eq!(status.len(), 2, "no new peer");
    assert_eq!(status[0].addr, addr(60));
    let moved = |event: &PeerEvent| matches!(event, PeerEvent::AddressChanged { from, to, .. } if *from == addr(1) && *to == addr(60));
    assert!(world.events.iter().any(|(_, n, event)| *n == 0 && moved(event)));
}

#[test]
fn an_address_that_changes_hands_is_not_its_former_bearer() {
    let mut world = World::farm(8, 3);
    world.settle();
    world.crash(1);
    world.run_for(Nanos::from_secs(8));
    // Another node, of another name, now has the address of node 1.
    world.nodes[1].name = "stranger".to_owned();
    world.restart(1);
    world.run_for(Nanos::from_secs(10));
    assert_eq!(world.state(0, "node-1"), Some(PeerState::Down), "{}", world.picture());
    assert_eq!(world.state(0, "stranger"), Some(PeerState::Up), "{}", world.picture());
    let unexpected = |event: &PeerEvent| {
        matches!(event, PeerEvent::UnexpectedName { expected, found, .. }
            if expected == "node-1" && found == "stranger")
    };
    assert!(world.events.iter().any(|(_, n, event)| *n == 0 && unexpected(event)));
    // And back again.
    world.crash(1);
    world.run_for(Nanos::from_secs(8));
    world.nodes[1].name = name(1);
    world.restart(1);
    world.run_for(Nanos::from_secs(10));
    assert_eq!(world.state(0, "node-1"), Some(PeerState::Up), "{}", world.picture());
    assert_eq!(world.state(0, "stranger"), Some(PeerState::Down), "{}", world.picture());
}

#[test]
fn no_more_peers_than_the_bound() {
    let mut world = World::empty(9);
    world.add("hub", addr(0), Vec::new());
    for n in 1..=258 {
        world.add(&name(n), addr(n), join(0));
        world.run_for(Nanos::from_millis(100));
        // It only had to knock.
        if n < 250 {
            world.crash(n);
        }
    }
    world.run_for(Nanos::from_secs(3));
    assert_eq!(world.machine(0).status().len(), 256);
    assert!(refused(&mut world, 0, PeerRefusal::Full) > 0);
    assert!(
        world.events.iter().any(|(_, n, event)| *n == 0 && matches!(event, PeerEvent::Full { .. }))
    );
}

#[test]
fn whoever_has_the_key_still_panics_nobody() {
    let mut dice = Dice::new(10);
    let mut world = World::farm(10, 3);
    world.settle();
    let mut now = world.now;
    let machine = world.machine(0);
    for n in 0..30_000u64 {
        let kind = PeerKind::from_code(u8::try_from(n % 9).unwrap());
        let mut inner = vec![0; PeerHead::BYTES];
        PeerHead {
            kind,
            sender: 1 + dice.below(3),
            receiver: dice.below(2),
            sequence: dice.next(),
            ..PeerHead::default()
        }
        .encode(&mut inner);
        let body = match n % 5 {
            0 => {
                let mut body = vec![0; PeerHello::BYTES];
                let name = ["", "node-1", "new\n", "beta"][usize::try_from(dice.below(4)).unwrap()];
                let hello = PeerHello {
                    name: Text::new(name),
                    challenge: dice.below(2),
                    ..PeerHello::default()
                };
                hello.encode(&mut body);
                body
            }
            1 => vec![0xff; PeerReport::BYTES + 3],
            _ => (0..dice.below(400)).map(|_| dice.byte()).collect(),
        };
        inner.extend(body);
        assert!(inner.len() <= CONTROL_BYTES_MAX);
        now = now + Nanos::from_micros(dice.below(1000));
        machine.handle_opened(SocketAddr::from(ATTACKER), &inner, now);
        while machine.poll_send().is_some() {}
    }
    assert!(machine.status().len() <= 256);
}
