//! Nodes that say that they go.

use diskstream_wire::Nanos;

use super::{Bounds, Cast, DONE, Scenario, lossy, millis, three};
use crate::figures::Figures;
use crate::hosts::node_login;
use crate::options::{Options, Workload};
use crate::world::World;

/// See the table's texts.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "stop_graceful",
        story: "a node is told to stop while its devices read",
        must: "no read waits longer than 20 ms; all have moved before it ends",
        play: stop_graceful,
    },
    Scenario {
        name: "notice_port_blocked",
        story: "the same, and a firewall drops what goes to the notice port",
        must: "the same",
        play: notice_port_blocked,
    },
    Scenario {
        name: "stop_lossy",
        story: "a node is told to stop at 5 % loss and 20 ms jitter each way",
        must: "what is lost on its way to the node that goes is asked at the next one: no read waits longer than 600 ms",
        play: stop_lossy,
    },
    Scenario {
        name: "stop_idle_blocked",
        story: "a node is told to stop while its devices are idle and the notice port is blocked",
        must: "all have moved before it ends, within 5 s",
        play: stop_idle_blocked,
    },
    Scenario {
        name: "maintenance",
        story: "a node is emptied for maintenance, stays up for 20 s, and takes devices again",
        must: "no read waits longer than 20 ms; it is empty within 5 s; nobody moves back by itself",
        play: maintenance,
    },
    Scenario {
        name: "two_leave",
        story: "one of three nodes is in maintenance when another one is told to stop",
        must: "nobody goes to the one in maintenance; no read waits longer than 20 ms",
        play: two_leave,
    },
    Scenario {
        name: "rolling_restart",
        story: "three nodes are stopped, patched for 5 s and started in turn, while devices read",
        must: "no read waits longer than 20 ms",
        play: rolling_restart,
    },
];

/// The aim for a graceful stop; its "must" is 100 ms. Measured: 1.5 ms.
const GRACEFUL: Bounds = Bounds { stall_ms: 20.0, moves_each: 1, hedged_ppm: 20_000 };

fn stop_graceful(cast: Cast) -> Figures {
    GRACEFUL.judge(&stop(cast, Options::default()))
}

fn notice_port_blocked(cast: Cast) -> Figures {
    GRACEFUL.judge(&stop(cast, Options { notice_port_blocked: true, ..Options::default() }))
}

fn stop_lossy(cast: Cast) -> Figures {
    // Some ten seconds are too short to hold the hedges that were saved up to a share of the reads.
    let bounds = Bounds { stall_ms: 600.0, moves_each: 1, hedged_ppm: 60_000 };
    bounds.judge(&stop(cast, lossy()))
}

fn stop(cast: Cast, options: Options) -> World {
    let mut world = cast.warm(options);
    let node = cast.draw().index(2);
    world.drain(node, Nanos::NEVER);
    let ended = world.run_while(Nanos::from_secs(10), |w| w.runs(node));
    assert!(ended, "judge of stories: the node does not end\n{}", world.describe());
    let moved = world.moves.len();
    world.run_for(Nanos::from_secs(3));
    assert_eq!(world.moves.len(), moved, "judge of moves: somebody was left behind");
    world.finish(DONE);
    world
}

fn stop_idle_blocked(cast: Cast) -> Figures {
    let mut world = cast.warm(Options {
        notice_port_blocked: true,
        // One read in about an hour: idle, but not without an opinion on what the image holds.
        workload: Workload::Open { every: Nanos::from_secs(3_600), units_max: 1 },
        ..Options::default()
    });
    let node = cast.draw().index(2);
    world.drain(node, Nanos::NEVER);
    let ended = world.run_while(Nanos::from_secs(5), |w| w.runs(node));
    assert!(ended, "judge of stories: the node does not end\n{}", world.describe());
    let left = world.moves.len();
    world.run_for(Nanos::from_secs(60));
    assert_eq!(world.moves.len(), left, "judge of moves: somebody was left behind");
    let figures = world.figures();
    assert!(figures.moves > 0 && figures.unneeded_moves == 0, "judge of moves: {figures:?}");
    figures
}

fn maintenance(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { nodes: 3, ..Options::default() });
    let r = &mut cast.draw();
    let node = r.index(3);
    world.maintain(node);
    let serving = |w: &World| w.node(node).map_or(0, |n| n.roles().0);
    let emptied = world.run_while(Nanos::from_secs(5), |w| serving(w) > 0);
    assert!(
        emptied,
        "judge of stories: {} devices are left\n{}",
        serving(&world),
        world.describe()
    );
    world.run_for(millis(r, 15_000, 25_000));
    assert_eq!(serving(&world), 0, "judge of moves: devices went to a node in maintenance");
    world.resume(node);
    let moved = world.moves.len();
    world.run_for(Nanos::from_secs(40));
    assert_eq!(world.moves.len(), moved, "judge of moves: somebody moved back");
    world.finish(DONE);
    GRACEFUL.judge(&world)
}

fn two_leave(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { nodes: 3, ..Options::default() });
    let r = &mut cast.draw();
    let [stops, rests, _] = three(r);
    world.maintain(rests);
    // Before anybody can have another standby.
    world.run_for(millis(r, 5, 30));
    world.drain(stops, Nanos::NEVER);
    world.run_for(Nanos::from_secs(10));
    // Twenty milliseconds later the maintenance is known: whoever is moved by the second notice goes to the third.
    let known = world.moves.first().map_or(world.now, |m| m.moved.at + Nanos::from_millis(40));
    let astray = world.moves.iter().find(|m| m.moved.to == node_login(rests) && m.moved.at > known);
    assert!(astray.is_none(), "judge of moves: to a node that is leaving: {astray:?}");
    world.finish(DONE);
    Bounds { moves_each: 2, ..GRACEFUL }.judge(&world)
}

fn rolling_restart(cast: Cast) -> Figures {
    let mut world = cast.warm(Options { nodes: 3, ..Options::default() });
    let r = &mut cast.draw();
    for node in three(r) {
        world.drain(node, millis(r, 3_000, 8_000));
        let ended = world.run_while(Nanos::from_secs(16), |w| w.runs(node));
        assert!(ended, "judge of stories: node {node} does not end\n{}", world.describe());
        // The operator waits until it is back, and a while.
        world.run_for(millis(r, 13_000, 18_000));
    }
    world.finish(DONE);
    Bounds { moves_each: 3, ..GRACEFUL }.judge(&world)
}
