//! Worlds drawn from a seed. Which kinds of fault are on at all is drawn first ("swarm testing", Groce et al. 2012): a bug
//! that needs the absence of one kind, or much of a single one, is found as well.
//!
//! Two phases. *Safety*: everything may fail, nothing may be wrong. Then the world heals. *Liveness*: every read
//! completes within a bound.

use diskstream_wire::Nanos;

use crate::faults::Fault;
use crate::hosts::{device_ip, node_ip};
use crate::options::{DiskFaults, LinkFaults, Options, Workload};
use crate::planted::Planted;
use crate::random::Random;
use crate::world::{Outcome, World};

/// After the world has healed, each read of a device that has booted is complete within this time, or within it of when it was asked.
/// Derived from the device's timers: a candidate that falls silent in the midst of a login is given up after 1.5 s, a
/// refusal that may pass holds for 2 to 2.5 s, a round's pause for 0.8 to 1.2 s, and then a login. Measured over 1,000
/// seeds: 99 % within 2.0 s, the longest 4.2 s.
pub const READ_WITHIN: Nanos = Nanos::from_secs(6);

/// And every device has booted within this time. Derived: the node pauses boots past its limit for 10 s, jittered by a quarter,
/// twice where eight devices want four slots; and a login. Measured over 1,000 seeds: 99 % within 8.5 s, the longest 11.9 s.
pub const BOOT_WITHIN: Nanos = Nanos::from_secs(26);

/// And everything that devices still had to read is read.
pub const LIVENESS: Nanos = Nanos::from_secs(40);

/// And every node sees every other one.
pub const PEERS_AGREE: Nanos = Nanos::from_secs(20);

/// Loss up to which no device may take a node for dead that is not: at 5 % each way eight probes in a row stay silent
/// once in 10^8 suspicions; at 20 % once in 4,000.
const LOSS_WITHOUT_FALSE_MOVES_PPM: u32 = 50_000;

/// A drawn world: what it consists of, and what befalls it.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// What it consists of.
    pub options: Options,
    /// Blows, by the time after the beginning.
    pub faults: Vec<(Nanos, Fault)>,
    /// When faults end, after the beginning.
    pub heal_after: Nanos,
}

/// Kinds of fault that befall a world from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Crashes,
    AllGone,
    Drains,
    Maintenance,
    Cuts,
    NodeCuts,
    Pauses,
    LongPauses,
    Stuck,
    LostStore,
    Changed,
    Detaches,
}

const KINDS: [Kind; 12] = [
    Kind::Crashes,
    Kind::AllGone,
    Kind::Drains,
    Kind::Maintenance,
    Kind::Cuts,
    Kind::NodeCuts,
    Kind::Pauses,
    Kind::LongPauses,
    Kind::Stuck,
    Kind::LostStore,
    Kind::Changed,
    Kind::Detaches,
];

impl Drawn {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Drawn {
        let r = &mut Random::new(seed ^ 0x0b5e_55ed);
        let quiet = r.chance_ppm(150_000);
        let mut options = draw_options(quiet, r);
        // Drawn apart, so that seeds of past failures still give the same worlds otherwise.
        let early = &mut Random::new(seed ^ 0x0ea2_1700);
        (options.in_order, options.warm) = (early.chance_ppm(500_000), early.chance_ppm(500_000));
        let heal_after = Nanos::from_secs(r.between(3, 8));
        let mut drawn = Drawn { options, faults: Vec::new(), heal_after };
        // Each kind is on in about a third of the worlds, by itself.
        for kind in KINDS {
            if !quiet && r.chance_ppm(333_333) {
                for _ in 0..r.between(1, 3) {
                    drawn.add(kind, r);
                }
            }
        }
        drawn
    }

    fn add(&mut self, kind: Kind, r: &mut Random) {
        let at = Nanos(r.below(self.heal_after.0));
        let node = r.index(self.options.nodes);
        let millis = |r: &mut Random, first, last| Nanos::from_millis(r.between(first, last));
        match kind {
            Kind::Crashes => {
                self.faults.push((at, Fault::Crash { node, down: millis(r, 10, 3_000) }));
            }
            Kind::AllGone => {
                for node in 0..self.options.nodes {
                    self.faults.push((at, Fault::Crash { node, down: millis(r, 500, 3_000) }));
                }
            }
            Kind::Drains => {
                self.faults.push((at, Fault::Drain { node, down: millis(r, 10, 3_000) }));
            }
            Kind::Maintenance => {
                self.faults.push((at, Fault::Maintain(node)));
                self.faults.push((at + millis(r, 100, 4_000), Fault::Resume(node)));
            }
            Kind::Cuts => {
                let device = device_ip(r.index(self.options.devices));
                self.cut(device, node_ip(node), at, r);
            }
            Kind::NodeCuts => {
                let other = r.index(self.options.nodes);
                self.cut(node_ip(other), node_ip(node), at, r);
            }
            Kind::Pauses => {
                self.faults.push((at, Fault::Pause { node, time: millis(r, 100, 2_000) }));
            }
            Kind::LongPauses => {
                self.faults.push((at, Fault::Pause { node, time: millis(r, 5_000, 12_000) }));
            }
            Kind::Stuck => {
                let stuck = Some((r.index(self.options.vdisks), Nanos::from_secs(2)));
                self.faults.push((at, Fault::Stuck { node, stuck }));
                let until = at + millis(r, 100, 5_000);
                self.faults.push((until, Fault::Stuck { node, stuck: None }));
            }
            // Only the bad node's: the others keep theirs, or nobody could serve anybody.
            Kind::LostStore => {
                let Some(node) = self.options.bad_node else { return };
                self.faults.push((at, Fault::Lose { node, lost: true }));
                self.faults.push((at + millis(r, 100, 4_000), Fault::Lose { node, lost: false }));
            }
            Kind::Changed => {
                let Some(node) = self.options.bad_node else { return };
                let vdisk = r.index(self.options.vdisks);
                self.faults.push((at, Fault::Changed { node, vdisk }));
            }
            Kind::Detaches => self.faults.push((at, Fault::Detach(r.index(self.options.devices)))),
        }
    }

    fn cut(&mut self, a: std::net::IpAddr, b: std::net::IpAddr, at: Nanos, r: &mut Random) {
        let until = at + Nanos::from_millis(r.between(50, 3_000));
        let ways = r.below(3);
        for (from, to, which) in [(a, b, 1), (b, a, 2)] {
            if ways == 0 || ways == which {
                self.faults.push((at, Fault::Cut { from, to }));
                self.faults.push((until, Fault::Mend { from, to }));
            }
        }
    }
}

fn draw_options(quiet: bool, r: &mut Random) -> Options {
    let nodes = *r.pick(&[1, 2, 2, 3, 4]);
    let mut ppm = |choices: &[u32]| if quiet { 0 } else { *r.pick(choices) };
    let link = LinkFaults {
        loss_ppm: ppm(&[0, 0, 1_000, 20_000, 50_000, 200_000]),
        duplicate_ppm: ppm(&[0, 0, 10_000, 200_000]),
        corrupt_ppm: ppm(&[0, 0, 1_000, 30_000]),
        delay: Nanos::from_micros(r.between(20, 2_000)),
        jitter: Nanos::from_micros(*r.pick(&[0, 50, 1_000, 20_000])),
        spread: Nanos::ZERO,
    };
    let disk = DiskFaults {
        latency: Nanos::from_micros(*r.pick(&[100, 2_000, 30_000])),
        slow_ppm: *r.pick(&[0, 0, 10_000]),
        slow: Nanos::from_millis(*r.pick(&[100, 2_000])),
        error_ppm: if quiet { 0 } else { *r.pick(&[0, 0, 20_000, 500_000]) },
        rot_ppm: if quiet { 0 } else { *r.pick(&[0, 0, 0, 5_000]) },
    };
    let workload = match r.below(3) {
        0 => Workload::Open {
            every: Nanos::from_millis(*r.pick(&[20, 100, 400])),
            units_max: *r.pick(&[1, 8, 32]),
        },
        _ => Workload::Closed { reads: *r.pick(&[40, 120]), depth: *r.pick(&[1, 4, 16]) },
    };
    let hours = |r: &mut Random| 3_600 * (i64::try_from(r.below(25)).expect("small") - 12);
    let clocks = r.chance_ppm(250_000);
    let bad_node = (nodes > 1).then(|| r.index(nodes));
    // Not the bad node, and two are left that hold the same: devices of the odd content have one node only.
    let odd_node = bad_node.filter(|_| nodes > 2 && r.chance_ppm(150_000));
    let odd_node = odd_node.map(|bad| (bad + 1) % nodes);
    Options {
        nodes,
        shards: r.index(2) + 2,
        devices: *r.pick(&[1, 2, 4, 8]),
        vdisks: *r.pick(&[1, 1, 2]),
        image_bytes: (*r.pick(&[1usize, 3, 8]) << 20) + 512 * r.index(16),
        frames: *r.pick(&[16, 24, 64]),
        sessions_max: 64,
        boot_limit: 4,
        workload,
        ratings: (0..nodes).map(|_| *r.pick(&[100, 100, 50, 400])).collect(),
        clocks_s: if clocks { (0..nodes).map(|_| hours(r)).collect() } else { Vec::new() },
        odd_node,
        notice_port_blocked: r.chance_ppm(200_000),
        plain_devices: false,
        link,
        disk,
        bad_node,
        forgeries_per_second: *r.pick(&[0, 200, 2_000]),
        shard_delay: Nanos::from_micros(*r.pick(&[0, 100, 5_000])),
        boot_spread: Nanos::ZERO,
        in_order: false,
        warm: false,
    }
}

/// Runs the world of a seed to its end.
///
/// # Panics
/// When a judge or an invariant speaks: that is the failure to report.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>) -> Outcome {
    let Drawn { options, faults, heal_after } = Drawn::new(seed);
    let lossy = options.link.loss_ppm > LOSS_WITHOUT_FALSE_MOVES_PPM;
    let mut world = World::new(options, seed, planted);
    let begin = world.now;
    for (after, fault) in faults {
        world.plan.add(begin + after, fault);
    }
    world.run_until(begin + heal_after);
    world.heal();
    world.devices.iter_mut().for_each(crate::device::SimDevice::plan_no_more);
    world.finish_all(LIVENESS);
    let settled = Nanos(world.outcome().settled);
    assert!(
        settled <= READ_WITHIN,
        "judge of liveness: a read took {} ms after the world had healed\n{}",
        settled.as_millis(),
        world.describe()
    );
    let booted = Nanos(world.outcome().booted);
    assert!(
        booted <= BOOT_WITHIN,
        "judge of liveness: a device had not booted {} ms after the world had healed\n{}",
        booted.as_millis(),
        world.describe()
    );
    let agreed = world.run_while(PEERS_AGREE, |w| !w.views_agree());
    assert!(agreed, "judge of peers: nodes do not see each other\n{}", world.describe());
    let unneeded = world.moves.iter().find(|m| !m.needed && !lossy);
    assert!(
        unneeded.is_none(),
        "judge of moves: a device moved although nothing befell its node: {unneeded:?}\n{}",
        world.describe()
    );
    world.outcome()
}
