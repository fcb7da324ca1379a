//! Devices that are moved so that nodes have as much to do as each other.

use diskstream_node::rebalance::SETTLE;
use diskstream_wire::Nanos;

use super::{Bounds, Cast, DONE, Scenario, millis, one_of_two};
use crate::figures::Figures;
use crate::options::{Options, Workload};
use crate::random::Random;
use crate::world::World;

/// See the table's texts.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "rebalance",
        story: "a node came back and has no devices; the operator asks the other one to even that out, and asks again",
        must: "half of the devices move, once, no read waits longer than 20 ms; the one that got them gives none back",
        play: rebalance,
    },
    Scenario {
        name: "rebalance_by_itself",
        story: "the same, where the nodes look every ten minutes by themselves, for more than half an hour",
        must: "the same: nothing goes back and forth",
        play: rebalance_by_itself,
    },
];

/// A move that an operator asked for, or agreed to: as quiet as a stop.
const EVEN: Bounds = Bounds { stall_ms: 20.0, moves_each: 1, hedged_ppm: 20_000 };

/// A world of two nodes of which one has all the devices: that one, and the other.
fn lopsided(cast: Cast, options: Options, r: &mut Random) -> (World, usize, usize) {
    let mut world = cast.warm(options);
    let [full, empty] = one_of_two(r);
    world.crash(empty);
    world.run_for(millis(r, 2_000, 6_000));
    world.start(empty);
    world.run_for(millis(r, 14_000, 20_000));
    let devices = world.devices.len() as u64;
    assert_eq!(world.serving(full), devices, "judge of stories: nobody moves back by itself");
    world.mark();
    (world, full, empty)
}

/// Half of the devices moved, each once, and both nodes are content.
fn judge_even(world: &mut World) -> Figures {
    let devices = world.devices.len() as u64;
    let moved = world.moves.len() as u64;
    assert!(
        moved.abs_diff(devices / 2) <= 1,
        "judge of balance: {moved} of {devices} devices moved\n{}",
        world.describe()
    );
    for node in 0..2 {
        let told = world.rebalance(node);
        assert_eq!(told, 0, "judge of balance: node {node} would move {told} more");
    }
    world.finish(DONE);
    EVEN.judge(world)
}

fn rebalance(cast: Cast) -> Figures {
    let r = &mut cast.draw();
    let (mut world, full, empty) = lopsided(cast, Options::default(), r);
    let devices = u32::try_from(world.devices.len()).expect("few devices");
    assert_eq!(world.rebalance(full), devices / 2, "judge of balance: half of them are to go");
    // Devices take up to 2 s; an operator who sees no effect asks again.
    for _ in 0..r.below(4) {
        world.run_for(millis(r, 1, 1_500));
        world.rebalance(full);
        world.rebalance(empty);
    }
    // Longer than a node waits for those on their way: then what it says is said of the balance.
    world.run_for(SETTLE + millis(r, 1_000, 4_000));
    judge_even(&mut world)
}

/// Distance of two looks (`serve::rebalance::LOOK_EVERY`).
const LOOK_EVERY: Nanos = Nanos::from_secs(600);

fn rebalance_by_itself(cast: Cast) -> Figures {
    let r = &mut cast.draw();
    // Half an hour of a few reads.
    let workload = Workload::Open { every: Nanos::from_secs(4), units_max: 2 };
    let (mut world, full, empty) = lopsided(cast, Options { workload, ..Options::default() }, r);
    // Each node's looks began with its process.
    let [mut next, mut other] =
        [(full, world.now + Nanos(r.below(LOOK_EVERY.0))), (empty, world.now + LOOK_EVERY)];
    other.1 = other.1 + Nanos(r.below(2_000_000_000));
    for _ in 0..6 {
        if other.1 < next.1 {
            std::mem::swap(&mut next, &mut other);
        }
        world.run_until(next.1);
        world.rebalance(next.0);
        next.1 = next.1 + LOOK_EVERY;
    }
    world.run_for(SETTLE + Nanos::from_secs(1));
    judge_even(&mut world)
}
