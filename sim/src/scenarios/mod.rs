//! Named stories, each with an outcome that must be: `cargo run -p diskstream-sim -- --scenario NAME`.
//!
//! Every device reads all the time at planned moments (an open loop), so that a stall hides no read. In all of them, bytes are
//! compared, no read may fail unless the story says so, and every judge of the swarm sits too. The bounds are the issue's
//! "must" column or tighter; what was measured stands in `docs/failover.md`.

mod deceit;
mod leaving;
mod lost;
mod steady;

use diskstream_wire::Nanos;

use crate::figures::Figures;
use crate::options::{LinkFaults, Options, Workload};
use crate::planted::Planted;
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
    /// A world with these options, all devices in and warm. Measured from then on.
    fn warm(self, options: Options) -> World {
        let mut world = self.cold(options);
        world.open_all(Nanos::from_secs(20));
        world.run_for(WARM);
        world.mark();
        world
    }

    /// A world with these options, about to begin.
    fn cold(self, mut options: Options) -> World {
        options.devices = self.devices.unwrap_or(options.devices);
        // One shard may get them all: room is no part of these stories.
        let devices = u32::try_from(options.devices).expect("fewer devices than addresses");
        options.sessions_max = options.sessions_max.max(2 * devices);
        World::new(options, self.seed, self.planted)
    }
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
pub const ALL: &[&[Scenario]] = &[lost::ALL, leaving::ALL, steady::ALL, deceit::ALL];

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
            figures.hedged_ppm <= self.hedged_ppm,
            "judge of hedges: {} ppm, and {} may be\n{}",
            figures.hedged_ppm,
            self.hedged_ppm,
            words()
        );
        figures
    }
}
