//! Seeds that failed once, with what was wrong, and a few that never did. `cargo run -p diskstream-sim` runs more.

use diskstream_sim::swarm;

/// Bugs of the product that the simulator found; each seed's world showed it at the time.
const FOUND: &[(u64, &str)] = &[
    (169, "a shard that ended before its slow disk did panicked on the load's ticket"),
    (
        394,
        "a device took refusals for those of other nodes after a transfer had changed the list's order",
    ),
    (
        768,
        "a store error of a draining node, which is in no newer list, failed the read for the whole farm",
    ),
    (
        2326,
        "the ticket of a draining node named its successor only: one bad disk failed the read for the whole farm",
    ),
];

/// Worlds of different kinds, so that each test run sees some of everything.
const PLAIN: std::ops::RangeInclusive<u64> = 1..=8;

#[test]
fn worlds_that_showed_a_bug() {
    for &(seed, bug) in FOUND {
        println!("seed {seed}: {bug}");
        assert!(swarm::run(seed, None).reads > 0);
    }
}

#[test]
fn worlds_from_the_start() {
    for seed in PLAIN {
        println!("seed {seed}");
        assert!(swarm::run(seed, None).reads > 0);
    }
}

#[test]
fn a_seed_is_one_world() {
    for seed in [3, 26] {
        assert_eq!(swarm::run(seed, None), swarm::run(seed, None), "seed {seed}");
    }
    assert_ne!(swarm::run(3, None).digest, swarm::run(4, None).digest);
}
