//! Nodes that answer and must not be believed, addresses that change hands, clocks that lie, and an attacker.

use diskstream_wire::Nanos;

use super::{Bounds, Cast, DONE, Scenario, UNDISTURBED};
use crate::faults::Fault;
use crate::figures::Figures;
use crate::hosts::node_login;
use crate::options::Options;

/// See the table's texts.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "lost_store",
        story: "a node still answers but every read of its disk fails",
        must: "reads are done elsewhere, devices move after three errors, no read fails",
        play: lost_store,
    },
    Scenario {
        name: "lost_store_everywhere",
        story: "both nodes answer and both have lost their store, then one gets it back",
        must: "only then do reads fail, and they do; afterwards they succeed again",
        play: lost_store_everywhere,
    },
    Scenario {
        name: "clock_skew",
        story: "the nodes' wall clocks are 20 h apart; nodes are stopped and killed",
        must: "tickets are good: moves as fast as ever",
        play: clock_skew,
    },
    Scenario {
        name: "clock_skew_beyond",
        story: "the nodes' wall clocks are 60 h apart; the node that is ahead is killed",
        must: "the ticket is refused with a reason and a full login follows: no read waits longer than 3 s",
        play: clock_skew_beyond,
    },
    Scenario {
        name: "byte_differs",
        story: "a node's image differs in one byte; another node is killed",
        must: "the odd one is used by no device of the other content",
        play: byte_differs,
    },
    Scenario {
        name: "byte_differs_alone",
        story: "one of two nodes is gone for 5 s, and the other one's image differs in one byte",
        must: "devices wait for their own content: none goes to the other, all read within 3 s of the return",
        play: byte_differs_alone,
    },
    Scenario {
        name: "stranger_takes_address",
        story: "a node is gone, and a node of another farm with another image answers at its address",
        must: "no byte of it is believed, devices go on elsewhere",
        play: stranger_takes_address,
    },
    Scenario {
        name: "only_a_stranger",
        story: "both nodes are gone, and for 5 s a node of another farm with another image answers at the address of one",
        must: "no byte of it is believed; all read within 3 s of the other one's return",
        play: only_a_stranger,
    },
    Scenario {
        name: "peer_takes_address",
        story: "a node is gone, and another node of the farm answers at its address",
        must: "devices go on, with the right bytes",
        play: peer_takes_address,
    },
    Scenario {
        name: "forgeries",
        story: "100,000 forged notices, answers, tickets, closes and reads a second for 10 s, off the path",
        must: "no device moves, no session is lost",
        play: forgeries,
    },
];

/// Measured: 260 ms at most, where no story says otherwise.
const MOVES: Bounds = Bounds { stall_ms: 500.0, moves_each: 1, hedged_ppm: 1_000_000 };

fn small_cache() -> Options {
    Options { image_bytes: 8 << 20, frames: 32, ..Options::default() }
}

fn lost_store(cast: Cast) -> Figures {
    let mut world = cast.warm(small_cache());
    world.befall(Fault::Lose { node: 0, lost: true });
    world.run_for(Nanos::from_secs(10));
    let figures = MOVES.judge(&world);
    assert!(figures.moves > 0, "judge of moves: nobody left the node without a store");
    world.befall(Fault::Lose { node: 0, lost: false });
    world.run_for(Nanos::from_secs(5));
    world.finish(DONE);
    MOVES.judge(&world)
}

fn lost_store_everywhere(cast: Cast) -> Figures {
    let mut world = cast.warm(small_cache());
    for node in 0..2 {
        world.befall(Fault::Lose { node, lost: true });
    }
    world.devices.iter_mut().for_each(|d| d.errors_allowed = true);
    world.run_for(Nanos::from_secs(3));
    let failed = world.figures().reads_failed;
    assert!(failed > 0, "judge of stories: no read failed, and no node can read");
    world.befall(Fault::Lose { node: 1, lost: false });
    // What was refused everywhere before may still be told.
    world.run_for(Nanos::from_secs(2));
    world.devices.iter_mut().for_each(|d| d.errors_allowed = false);
    world.run_for(Nanos::from_secs(5));
    world.finish(DONE);
    Bounds { moves_each: 40, stall_ms: 2_000.0, ..MOVES }.judge(&world)
}

fn clock_skew(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { clocks_s: vec![36_000, -36_000], ..Options::default() });
    world.drain(0, Nanos::from_secs(2));
    world.run_for(Nanos::from_secs(20));
    world.crash(1);
    world.run_for(Nanos::from_secs(5));
    world.finish(DONE);
    Bounds { moves_each: 2, ..MOVES }.judge(&world)
}

fn clock_skew_beyond(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { clocks_s: vec![108_000, -108_000], ..Options::default() });
    world.crash(0);
    world.run_for(Nanos::from_secs(8));
    world.finish(DONE);
    Bounds { stall_ms: 3_000.0, ..MOVES }.judge(&world)
}

fn byte_differs(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { nodes: 3, odd_node: Some(1), ..Options::default() });
    world.crash(0);
    world.run_for(Nanos::from_secs(5));
    world.start(0);
    world.run_for(Nanos::from_secs(5));
    world.crash(2);
    world.run_for(Nanos::from_secs(5));
    world.finish(DONE);
    // A device that reads from a node must hold that node's content: the devices judge bytes, here the place is judged.
    for device in &world.devices {
        let (Some(node), Some(disk)) =
            (device.session().status(world.now).node, device.session().disk())
        else {
            continue;
        };
        let node = crate::hosts::node_at(node.ip()).expect("a node of ours");
        assert_eq!(
            disk.content_id,
            world.specs[node].contents[0].content_id(),
            "judge of bytes: a device is at a node of another content"
        );
    }
    Bounds { moves_each: 2, ..MOVES }.judge(&world)
}

fn byte_differs_alone(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { odd_node: Some(1), ..Options::default() });
    world.crash(0);
    world.run_for(Nanos::from_secs(5));
    world.start(0);
    world.run_for(Nanos::from_secs(3));
    world.finish(DONE);
    let astray = world.moves.iter().find(|m| m.moved.from != m.moved.to);
    assert!(astray.is_none(), "judge of bytes: to a node of another content: {astray:?}");
    Bounds { stall_ms: 8_000.0, ..MOVES }.judge(&world)
}

fn stranger_takes_address(cast: Cast) -> Figures {
    let mut world = cast.warm(Options::default());
    world.crash(0);
    world.run_for(Nanos::from_millis(50));
    // Another key, and an image that no device knows: one that opens it is a judge's case.
    let mut random = crate::random::Random::new(cast.seed);
    world.specs[0].contents[0] = world.specs[0].contents[0].with_one_byte_changed(&mut random);
    world.specs[0].farm_key = [0x66; 32];
    world.start(0);
    world.run_for(Nanos::from_secs(20));
    world.finish(DONE);
    MOVES.judge(&world)
}

fn only_a_stranger(cast: Cast) -> Figures {
    let mut world = cast.warm(Options::default());
    world.crash(0);
    world.crash(1);
    let mut random = crate::random::Random::new(cast.seed);
    world.specs[0].contents[0] = world.specs[0].contents[0].with_one_byte_changed(&mut random);
    world.specs[0].farm_key = [0x66; 32];
    world.start(0);
    world.run_for(Nanos::from_secs(5));
    let astray = world.moves.iter().find(|m| m.moved.to == node_login(0));
    assert!(astray.is_none(), "judge of bytes: a device went on at a stranger: {astray:?}");
    world.mark();
    world.start(1);
    world.run_for(Nanos::from_secs(8));
    world.finish(DONE);
    let figures = Bounds { stall_ms: 9_000.0, moves_each: 2, ..MOVES }.judge(&world);
    assert!(figures.all_reading_ms <= 3_000.0, "judge of stories: too late: {figures:?}");
    figures
}

fn peer_takes_address(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { nodes: 3, ..Options::default() });
    world.crash(2);
    world.run_for(Nanos::from_secs(3));
    world.crash(0);
    world.run_for(Nanos::from_secs(2));
    world.specs[0].identity = 2;
    world.start(0);
    world.run_for(Nanos::from_secs(5));
    world.crash(1);
    world.run_for(Nanos::from_secs(5));
    world.finish(DONE);
    Bounds { moves_each: 3, ..MOVES }.judge(&world)
}

fn forgeries(cast: Cast) -> Figures {
    let mut world =
        cast.warm(Options { devices: 10, forgeries_per_second: 100_000, ..Options::default() });
    world.run_for(Nanos::from_secs(10));
    let sessions: u64 = (0..2).filter_map(|n| world.node(n)).map(|n| n.sessions()).sum();
    assert!(
        sessions >= world.devices.len() as u64,
        "judge of sessions: {sessions} are left of {}",
        world.devices.len()
    );
    world.finish(DONE);
    UNDISTURBED.judge(&world)
}
