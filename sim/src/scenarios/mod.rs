//! Named stories, each with an outcome that must be: `cargo run -p diskstream-sim -- --scenario NAME`.
//!
//! A seed decides which node is hit and when, how long what befalls it lasts, how long each link is, and when each device was
//! switched on: a thousand seeds of a story are a thousand different runs of it.
//!
//! Every device reads all the time at planned moments (an open loop), so that a stall hides no read. In all of them, bytes are
//! compared, no read may fail unless the story says so, and every judge of the swarm sits too. The bounds are the issue's
//! "must" column or tighter; what was measured stands in `docs/failover.md`.

mod balance;
mod deceit;
mod leaving;
mod lost;
mod steady;

use diskstream_wire::Nanos;

use crate::figures::Figures;
use crate::options::{LinkFaults, Options, Workload};
use crate::planted::Planted;
use crate::random::Random;
use crate::world::World;

/// A story.
pub struct Scenario {
    /// How it is called.
    pub name: &'static str,
    /// What happens.
    pub story: &'static str,
    /// What must come of it, beside right bytes.
    pub must: &'static str,
    /// Plays it.
    pub play: fn(Cast) -> Figures,
}

/// With what a story is played.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// The seed.
    pub seed: u64,
    /// Devices; none: the story's own number.
    pub devices: Option<usize>,
    /// A bug.
    pub planted: Option<Planted>,
}

impl Cast {
    /// What the seed decides about the story: which node is hit, for how long. The world draws from another sequence.
    fn draw(self) -> Random {
        Random::new(self.seed ^ 0x0005_7041_e5ee_d000)
    }

    /// A world with these options, all devices in and warm. Measured from then on.
    ///
    /// Devices are switched on within a time that is drawn, and the story begins at a moment that is: mostly within the second
    /// after the third, but now and then anywhere between two checks of a standby.
    fn warm(self, mut options: Options) -> World {
        let r = &mut Random::new(self.seed ^ 0x000a_11f0_0d00_0000);
        options.boot_spread = Nanos::from_millis(r.between(1, 3_000));
        let mut world = self.cold(options);
        world.open_all(Nanos::from_secs(20));
        let rest = if r.below(4) == 0 { 11_000 } else { 1_000 };
        world.run_for(WARM + Nanos::from_micros(r.below(1_000 * rest)));
        world.mark();
        world
    }

    /// A world with these options, about to begin. What no story depends on is drawn.
    fn cold(self, mut options: Options) -> World {
        vary(&mut options, &mut Random::new(self.seed ^ 0x00c0_1d00_0000_0000));
        options.devices = self.devices.unwrap_or(options.devices);
        // One shard may get them all: room is no part of these stories.
        let devices = u32::try_from(options.devices).expect("fewer devices than addresses");
        options.sessions_max = options.sessions_max.max(2 * devices);
        World::new(options, self.seed, self.planted)
    }
}

/// Draws links, disks, cores and paces within bounds that keep every story what it is.
fn vary(options: &mut Options, r: &mut Random) {
    let micros = |r: &mut Random, first, last| Nanos::from_micros(r.between(first, last));
    let link = &mut options.link;
    // A jitter of milliseconds is the story itself.
    let bad = link.jitter >= Nanos::from_millis(1);
    link.delay = micros(r, 20, 400);
    link.spread = micros(r, 0, 300);
    if !bad {
        link.jitter = micros(r, 0, 300);
    }
    options.disk.latency = micros(r, 100, 2_000);
    options.shard_delay = micros(r, 0, 200);
    options.shards = r.index(3) + 1;
    if let Workload::Open { every, .. } = &mut options.workload {
        *every = Nanos(every.0 / 100 * r.between(80, 125));
    }
}

/// One of two nodes, and the other.
fn one_of_two(r: &mut Random) -> [usize; 2] {
    let hit = r.index(2);
    [hit, 1 - hit]
}

/// Nodes 0 to 2 in any order.
fn three(r: &mut Random) -> [usize; 3] {
    let first = r.index(3);
    let turn = r.index(2) + 1;
    [first, (first + turn) % 3, (first + 2 * turn) % 3]
}

/// A time from `first` to `last` milliseconds, to the microsecond.
fn millis(r: &mut Random, first: u64, last: u64) -> Nanos {
    Nanos::from_micros(r.between(first * 1_000, last * 1_000))
}

/// Devices read for so long before a story begins: standbys are opened, round trips known.
const WARM: Nanos = Nanos::from_secs(3);
/// After a story, reads must be done within this time.
const DONE: Nanos = Nanos::from_secs(3);

/// The bad network: 5 % loss and up to 20 ms jitter, each way. Reads of 4 KiB, as the benchmark does.
fn lossy() -> Options {
    let link = LinkFaults {
        loss_ppm: 50_000,
        delay: Nanos::from_micros(100),
        jitter: Nanos::from_millis(20),
        ..LinkFaults::default()
    };
    let workload = Workload::Open { every: Nanos::from_millis(50), units_max: 1 };
    Options { link, workload, ..Options::default() }
}

/// All stories.
pub const ALL: &[&[Scenario]] = &[lost::ALL, leaving::ALL, balance::ALL, steady::ALL, deceit::ALL];

/// Every story.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    ALL.iter().flat_map(|group| group.iter())
}

/// A story by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.name == name)
}

/// What a story may cost.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    stall_ms: f64,
    /// Moves of each device at most.
    moves_each: u64,
    /// Hedged reads in a million.
    hedged_ppm: u64,
}

/// Datagrams that devices send in the worst 100 ms for each read that they wait for or plan then. Derived: a read of four units is up
/// to four requests, each with three repeats or probes 20 ms apart before it is asked at the standby, and that copy.
const DATAGRAMS_PER_READ_MAX: f64 = 16.0;
/// Logins that a node is asked for in its worst second, for each device of the world. Derived: a login proves and opens, each
/// may be repeated once, and a standby's follows within half a second.
const LOGINS_PER_DEVICE_MAX: u64 = 6;

/// No stall beyond a slow answer, no move, hardly a hedge.
const UNDISTURBED: Bounds = Bounds { stall_ms: 100.0, moves_each: 0, hedged_ppm: 20_000 };

impl Bounds {
    /// Judges a world and gives its figures.
    fn judge(self, world: &World) -> Figures {
        let figures = world.figures();
        let words = || {
            format!(
                "{figures:?}\n{:#?}\n{}",
                &world.moves[..world.moves.len().min(4)],
                world.describe()
            )
        };
        assert!(figures.reads > 0, "judge of stories: nobody read\n{}", words());
        assert!(
            figures.stall_ms_max <= self.stall_ms,
            "judge of stalls: {} ms, and {} may be\n{}",
            figures.stall_ms_max,
            self.stall_ms,
            words()
        );
        let moves = self.moves_each * figures.devices as u64;
        assert!(
            figures.moves <= moves,
            "judge of moves: {} moves, and {moves} may be\n{}",
            figures.moves,
            words()
        );
        assert!(
            figures.unneeded_moves == 0,
            "judge of moves: {} without cause\n{}",
            figures.unneeded_moves,
            words()
        );
        assert!(
            figures.datagrams_per_read_peak <= DATAGRAMS_PER_READ_MAX,
            "judge of bursts: {} datagrams for a read within 100 ms\n{}",
            figures.datagrams_per_read_peak,
            words()
        );
        assert!(
            // An attacker's are not told apart from a device's.
            world.options.forgeries_per_second > 0
                || figures.logins_per_s_peak <= LOGINS_PER_DEVICE_MAX * figures.devices as u64,
            "judge of bursts: {} logins in a second at a node\n{}",
            figures.logins_per_s_peak,
            words()
        );
        assert!(
            figures.hedged_ppm <= self.hedged_ppm,
            "judge of hedges: {} ppm, and {} may be\n{}",
            figures.hedged_ppm,
            self.hedged_ppm,
            words()
        );
        figures
    }
}
